"""What networks trained apart bring when they answer together: benchmarks/results/members.json.

python benchmarks/members.py --data ARCHIVE --run PATIENT_CV_RUN

Validation and test slices of a run of a region recipe with members, each answered by the members of its fold alone and together.
Whether together is better is judged by the validation slices; the test slices' difference to the first member alone is paired,
with an interval by patient.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import tumorscope as ts
from tumorscope.data.cache import input_pixels
from tumorscope.evaluation.intervals import paired_difference
from tumorscope.evaluation.regions import region_scores, summary
from tumorscope.evaluation.scores import PROBABILITIES, flat, score
from tumorscope.files import write_json
from tumorscope.labels import INDEX
from tumorscope.training.identity import environment
from tumorscope.training.loop import predict, reproducible
from tumorscope.training.network import Members, load_network
from tumorscope.training.runs import facts_of, masks_of, read_predictions

RESULT = Path(__file__).parent / "results" / "members.json"
METRICS = ("accuracy", "balanced_accuracy", "presence_auc", "type_balanced_accuracy")
TOGETHER = "together"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--run", type=Path, required=True, help="patient-cv run of a region recipe with members.")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    recipe, catalogue = ts.load_recipe(arguments.run / "recipe.toml"), ts.load_catalogue(arguments.data)
    facts_of(arguments.run, catalogue)
    images, masks = input_pixels(catalogue, recipe.input), np.load(masks_of(recipe, catalogue), mmap_mode="r")
    labels = catalogue.table["label"].map(INDEX).to_numpy(np.int64)
    table = read_predictions(arguments.run)
    rows = table["path"].map({path: row for row, path in enumerate(catalogue.table["path"])}).to_numpy()
    answers: dict[str, pd.DataFrame] = {}
    regions: dict[str, list[pd.DataFrame]] = {}
    for fold, part in table.groupby("fold"):
        module: Any = load_network(arguments.run / f"fold-{fold}", recipe)
        for name, network in networks_of(module.network).items():
            module.network = network
            here = rows[part.index]
            with reproducible(0, 1, torch.device("cpu")):
                slices = torch.from_numpy(np.array(images[here]))[:, None]
                chances = predict(module, slices, recipe.training.mirror_average).double().numpy()
                scored = region_scores(
                    *(module, images[here], masks[here], labels[here], torch.device("cpu")),
                    mirror_average=recipe.training.mirror_average,
                )
            said = answers.setdefault(name, table.copy())
            said.loc[part.index, list(PROBABILITIES)] = chances
            named = scored.assign(part=part["part"].to_numpy(), label=part["label"].to_numpy(), plane="")
            regions.setdefault(name, []).append(named)
        print(f"fold {fold}: {len(part)} slices", flush=True)
    found = {
        "run": arguments.run.name,
        "rows": [
            {"part": part, "network": name, **line(said, pd.concat(regions[name]), part, recipe.input.size)}
            for part in ("validation", "test")
            for name, said in answers.items()
        ],
        "test, together less the first": {
            metric: paired_difference(tested(answers[TOGETHER]), tested(answers["0"]), metric) for metric in METRICS
        },
        **environment(),
    }
    write_json(arguments.out, found)
    for row in found["rows"]:
        print({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()})
    print(found["test, together less the first"])


def networks_of(network: nn.Module) -> dict[str, nn.Module]:
    """Each member by its number, and all together."""
    if not isinstance(network, Members):
        raise SystemExit("The run's recipe has one network; give a run of one with training.members.")
    return {**{str(member): one for member, one in enumerate(network.members)}, TOGETHER: network}


def tested(said: pd.DataFrame) -> pd.DataFrame:
    return said[said["part"] == "test"]


def line(said: pd.DataFrame, regions: pd.DataFrame, part: str, size: int) -> dict[str, Any]:
    """Scores of a part, how many tumours are called tumour-free, and what regions make of it."""
    some = said[said["part"] == part]
    told, seen = flat(score(some)), summary(regions[regions["part"] == part], size**2)
    tumours = some[some["label"] != "notumor"]
    missed = tumours[list(PROBABILITIES)].to_numpy().argmax(1) == INDEX["notumor"]
    return {
        "slices": len(some),
        **{metric: told[metric] for metric in METRICS},
        "missed_tumours": float(missed.mean()),
        **{name: seen["all"][name] for name in ("dice_mean", "hit", "pointing")},
        "false_regions": seen["tumour-free"]["with a region"],
    }


if __name__ == "__main__":
    main()
