"""Are tested slices sharper than the training slices were? benchmarks/results/interpolation.json.

python benchmarks/interpolation.py --data ARCHIVE RUN ...

Validation slices of finished patient-cv runs, each answered by its fold's network twice: as they are, and mirrored, turned,
zoomed and shifted as the recipe does in training, with its interpolation. A network that does better on the second has learnt
how interpolated pixels look. Test slices are not asked. `detail` is the root mean square of what a mean over 3x3 pixels takes
away, in grey levels, of the slices as they are and as they are trained on. Each run adds a line, or takes the place of its own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import tumorscope as ts
from tumorscope.config import Augment, Recipe
from tumorscope.data.cache import input_pixels
from tumorscope.evaluation.scores import PROBABILITIES, flat, score
from tumorscope.files import write_json
from tumorscope.training.identity import environment
from tumorscope.training.loop import predict, reproducible
from tumorscope.training.network import load_network
from tumorscope.training.runs import facts_of, read_predictions
from tumorscope.transforms.augment import apply, draw

RESULT = Path(__file__).parent / "results" / "interpolation.json"
METRICS = ("accuracy", "balanced_accuracy", "presence_auc", "type_balanced_accuracy")
GEOMETRY = {"mirror", "rotate", "scale", "shift", "bicubic"}
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    for run in arguments.runs:
        before = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else []
        line = {"run": run.name, **asked_twice(run, arguments.data)}
        others = [one for one in before if one["run"] != run.name]
        write_json(arguments.out, {"runs": [*others, line], **environment()})
        print(json.dumps(line), flush=True)


def asked_twice(run: Path, data: str) -> dict[str, Any]:
    recipe, catalogue = ts.load_recipe(run / "recipe.toml"), ts.load_catalogue(data)
    facts_of(run, catalogue)
    if recipe.pixels_of_fold:
        raise SystemExit(f"{run}: its slices are made for each fold; give a run on slices as they are.")
    images, table = input_pixels(catalogue, recipe.input), read_predictions(run)
    table = table[table["part"] == "validation"].reset_index(drop=True)
    rows = table["path"].map({path: row for row, path in enumerate(catalogue.table["path"])}).to_numpy()
    said = {"as they are": table.copy(), "as in training": table.copy()}
    sharp: dict[str, list[float]] = {name: [] for name in said}
    for fold, part in table.groupby("fold"):
        module = load_network(run / f"fold-{fold}", recipe)
        slices = torch.from_numpy(np.array(images[rows[part.index]]))[:, None].float()
        for name, seen in (("as they are", slices), ("as in training", trained_on(recipe, slices))):
            with reproducible(SEED, 1, torch.device("cpu")):
                chances = predict(module, seen, recipe.training.mirror_average)
            said[name].loc[part.index, list(PROBABILITIES)] = chances.double().numpy()
            sharp[name].append(detail(seen))
    told = {name: flat(score(answers)) for name, answers in said.items()}
    scores = {name: {metric: told[name][metric] for metric in METRICS} for name in said}
    return {
        "slices": len(table),
        **{name: scores[name] | {"detail": float(np.mean(sharp[name]))} for name in said},
    }


def trained_on(recipe: Recipe, slices: Tensor) -> Tensor:
    kept = Augment.model_validate(recipe.augment.model_dump(include=GEOMETRY))
    drawn = draw(kept, len(slices), slices.shape[2], torch.Generator().manual_seed(SEED))
    return apply(slices, drawn)


def detail(slices: Tensor) -> float:
    return float((slices - F.avg_pool2d(slices, 3, 1, 1)).square().mean().sqrt())


if __name__ == "__main__":
    main()
