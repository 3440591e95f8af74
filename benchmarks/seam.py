"""Does a model see tumours or the seams of pasting? benchmarks/results/seam.json.

python benchmarks/seam.py --data ARCHIVE PATIENT_CV_RUN ...   (lines of other runs stay)

Test slices with a known mask, each answered by the network of the fold that has not seen it, before and after a change: tissue
laid in with the seam of a pasted tumour (the label stays), a tumour pasted, a tumour removed. A model that goes by seams
calls slices with a seam tumour, and those that a tumour was removed from too. Tumours that are pasted, and what fills the place
of removed ones, were moved between pixels, which takes grain away; tissue of "smooth seam" was too, by half a pixel both ways,
which takes the most that moving can.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

import tumorscope as ts
from choose_region import counterfactual
from tumorscope.config import Augment
from tumorscope.data.cache import input_pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.data.masks import UNKNOWN
from tumorscope.evaluation.intervals import bootstrap_means
from tumorscope.files import write_json
from tumorscope.labels import INDEX
from tumorscope.training.identity import environment
from tumorscope.training.loop import predict
from tumorscope.training.network import load_network
from tumorscope.training.runs import facts_of, masks_of, read_predictions

RESULT = Path(__file__).parent / "results" / "seam.json"
CHANGES = {"seam": Augment(seam=1.0), "paste": Augment(paste=1.0), "remove": Augment(remove=1.0)}
FREE = INDEX["notumor"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("runs", type=Path, nargs="+", help="patient-cv runs of recipes that learn from masks.")
    arguments = parser.parse_args()
    catalogue = ts.load_catalogue(arguments.data)
    found = [line for run in arguments.runs for line in lines(run, asked(run, catalogue))]
    names = {run.name for run in arguments.runs}
    earlier = json.loads(RESULT.read_text(encoding="utf-8"))["lines"] if RESULT.exists() else []
    write_json(RESULT, {"lines": [line for line in earlier if line["run"] not in names] + found, **environment()})
    for line in found:
        print(line)


def asked(run: Path, catalogue: Catalogue) -> pd.DataFrame:
    """A row a changed slice: change, path, label, patient, picture and the probability of any tumour before and after."""
    recipe = ts.load_recipe(run / "recipe.toml")
    facts_of(run, catalogue)
    if recipe.pixels_of_fold:
        raise SystemExit(f"{run}: its slices are made for each fold; give a run on slices as they are.")
    images, masks = input_pixels(catalogue, recipe.input), np.load(masks_of(recipe, catalogue), mmap_mode="r")
    labels = catalogue.table["label"].map(INDEX).to_numpy(np.int64)
    table = read_predictions(run)
    table = table[table["part"] == "test"]
    place = {path: row for row, path in enumerate(catalogue.table["path"])}
    parts = []
    for fold, part in table.groupby("fold"):
        rows = part["path"].map(place).to_numpy()
        known = np.array([not (masks[row] == UNKNOWN).any() for row in rows], dtype=bool)
        rows, facts = rows[known], part.loc[known, ["path", "label", "patient", "picture"]]
        module = load_network(run / f"fold-{fold}", recipe)
        before = tumour(module, images[rows], recipe.training.mirror_average)
        given = images[rows], masks[rows], labels[rows]
        made = {name: counterfactual(*given, augment) for name, augment in CHANGES.items()}
        made["smooth seam"] = counterfactual(*given, CHANGES["seam"], tissue=between(images[rows]))
        for name, changed in made.items():
            told = (changed != images[rows]).any(axis=(1, 2))
            after = tumour(module, changed, recipe.training.mirror_average)
            parts.append(facts.assign(change=name, before=before, after=after)[told])
    return pd.concat(parts, ignore_index=True)


def between(images: np.ndarray) -> np.ndarray:
    """The slices half a pixel further down and across, float32 (n, s, s)."""
    stack = torch.from_numpy(np.array(images))[:, None].float()
    return F.avg_pool2d(F.pad(stack, (0, 1, 0, 1), mode="replicate"), 2, stride=1)[:, 0].numpy()


def tumour(module: Any, images: np.ndarray, mirror_average: bool) -> np.ndarray:
    """Probability of any tumour (n,)."""
    chances = predict(module, torch.from_numpy(np.array(images))[:, None], mirror_average)
    return (1 - chances[:, FREE]).numpy()


def lines(run: Path, table: pd.DataFrame) -> list[dict[str, Any]]:
    """How many slices of each kind were changed, the share called tumour before and after, and the difference, 95 % by
    patient; tumour-free slices of the Kaggle set, whose patients are not known, by picture.
    """
    called, after = table["before"] > 0.5, table["after"] > 0.5
    moved = table["after"] - table["before"]
    table = table.assign(called=called, called_after=after, difference=1.0 * after - called, probability=moved)
    found = []
    for (change, free), part in table.groupby(["change", table["label"] == "notumor"], sort=False):
        ends = bootstrap_means(part, ["difference", "probability"])
        found.append(
            {
                **{"run": run.name, "change": change, "slices": "tumour-free" if free else "tumour", "n": len(part)},
                **{"called tumour before": float(part["called"].mean()), "after": float(part["called_after"].mean())},
                **{"difference": float(part["difference"].mean()), "difference, 95 %": ends["difference"]},
                "mean change of probability": float(part["probability"].mean()),
                "mean change of probability, 95 %": ends["probability"],
            }
        )
    return found


if __name__ == "__main__":
    main()
