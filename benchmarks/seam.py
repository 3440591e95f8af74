"""Does a region model see tumours or the seams of pasting? benchmarks/results/seam.json.

python benchmarks/seam.py --data ARCHIVE --run PATIENT_CV_RUN

Test slices with a known mask, each answered by the network of the fold that has not seen it, before and after a change: tissue
laid in with the seam of a pasted tumour (the label stays), a tumour pasted, a tumour removed. A model that goes by seams
calls slices with a seam tumour, and those that a tumour was removed from too. Tumours that are pasted, and what fills the place
of removed ones, were moved between pixels, which takes grain away; tissue of "smooth seam" was too, by half a pixel both ways,
which takes the most that moving can.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import tumorscope as ts
from choose_region import counterfactual
from tumorscope.config import Augment
from tumorscope.data.cache import input_pixels
from tumorscope.data.masks import UNKNOWN
from tumorscope.files import write_json
from tumorscope.labels import INDEX
from tumorscope.training.identity import environment
from tumorscope.training.loop import predict
from tumorscope.training.network import load_network
from tumorscope.training.runs import masks_of, read_predictions

RESULT = Path(__file__).parent / "results" / "seam.json"
CHANGES = {"seam": Augment(seam=1.0), "paste": Augment(paste=1.0), "remove": Augment(remove=1.0)}
FREE = INDEX["notumor"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--run", type=Path, required=True, help="patient-cv run of a region model.")
    arguments = parser.parse_args()
    recipe, catalogue = ts.load_recipe(arguments.run / "recipe.toml"), ts.load_catalogue(arguments.data)
    images, masks = input_pixels(catalogue, recipe.input), np.load(masks_of(recipe, catalogue), mmap_mode="r")
    labels = catalogue.table["label"].map(INDEX).to_numpy(np.int64)
    table = read_predictions(arguments.run)
    table = table[table["part"] == "test"]
    place = {path: row for row, path in enumerate(catalogue.table["path"])}
    found: dict[str, list[np.ndarray]] = {}
    for fold, part in table.groupby("fold"):
        rows = part["path"].map(place).to_numpy()
        rows = rows[[not (masks[row] == UNKNOWN).any() for row in rows]]
        module = load_network(arguments.run / f"fold-{fold}", recipe)
        before = tumour(module, images[rows], recipe.training.mirror_average)
        given = images[rows], masks[rows], labels[rows]
        made = {name: counterfactual(*given, augment) for name, augment in CHANGES.items()}
        made["smooth seam"] = counterfactual(*given, CHANGES["seam"], tissue=between(images[rows]))
        for name, changed in made.items():
            told = (changed != images[rows]).any(axis=(1, 2))
            after = tumour(module, changed, recipe.training.mirror_average)
            columns = np.stack([labels[rows] == FREE, before, after], axis=1)[told]
            found.setdefault(name, []).append(columns)
    rows = [row for name, several in found.items() for row in lines(name, np.concatenate(several))]
    write_json(RESULT, {"run": arguments.run.name, "rows": rows, **environment()})
    for row in rows:
        print(row)


def between(images: np.ndarray) -> np.ndarray:
    """The slices half a pixel further down and across, float32 (n, s, s)."""
    stack = torch.from_numpy(np.array(images))[:, None].float()
    return F.avg_pool2d(F.pad(stack, (0, 1, 0, 1), mode="replicate"), 2, stride=1)[:, 0].numpy()


def tumour(module: Any, images: np.ndarray, mirror_average: bool) -> np.ndarray:
    """Probability of any tumour (n,)."""
    chances = predict(module, torch.from_numpy(np.array(images))[:, None], mirror_average)
    return (1 - chances[:, FREE]).numpy()


def lines(name: str, columns: np.ndarray) -> list[dict[str, Any]]:
    """How many slices of each kind were changed, and the share called tumour before and after."""
    found = []
    for kind, rows in (("tumour-free", columns[:, 0] == 1), ("tumour", columns[:, 0] == 0)):
        if rows.any():
            before, after = columns[rows, 1], columns[rows, 2]
            found.append(
                {
                    **{"change": name, "slices": kind, "n": int(rows.sum())},
                    **{"called tumour before": float((before > 0.5).mean()), "after": float((after > 0.5).mean())},
                    "mean change of probability": float((after - before).mean()),
                }
            )
    return found


if __name__ == "__main__":
    main()
