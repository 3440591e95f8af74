"""Design of `compact_cnn` by balanced accuracy on grouped validation slices: benchmarks/results/choose_compact_cnn.json.

python benchmarks/choose_compact_cnn.py --data ARCHIVE [--designs NAME ...]

Each design is the one before it that did better, with one thing changed. Test slices are not read: what is scored are the
validation parts of the first folds of `patient-cv`, with mirror averaging. Designs already in the result file are kept.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import tumorscope as ts
from tumorscope.data.cache import input_pixels
from tumorscope.files import write_json
from tumorscope.labels import INDEX
from tumorscope.training.identity import environment

RESULT = Path(__file__).parent / "results" / "choose_compact_cnn.json"
#: Seed of the folds and of training, apart from the seeds that results are reported with; folds of it that are used.
SEED, FOLDS = 1000, 2
GREY = {
    "augment.contrast": 0.15,
    "augment.brightness": 0.05,
    "augment.gamma": 0.2,
    "augment.bias_field": 0.2,
    "augment.noise": 0.03,
}
#: Where the search began, and what was changed in it.
START = {"input.crop": "none", "model.filters": [32, 64, 128], "augment.bicubic": False}
HEAD = {"input.crop": "head"}
DESIGNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "head": HEAD,
    "head, class weights": {**HEAD, "loss.class_weights": "balanced"},
    "head, grey": {**HEAD, **GREY},
    "head, mixup": {**HEAD, "augment.mixup": 0.2},
    "head, cutout": {**HEAD, "augment.cutout": 0.4},
    "head, wide": {**HEAD, "model.filters": [40, 80, 160]},
    "head, 120 epochs": {**HEAD, "training.epochs": 120},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=list(DESIGNS))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    kept = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    for name in arguments.designs:
        if any(row["design"] == name for row in kept):
            continue
        with ProcessPoolExecutor(FOLDS) as pool:
            scored = list(pool.map(score_fold, [arguments.data] * FOLDS, [name] * FOLDS, range(FOLDS)))
        kept.append({"design": name, "changes": DESIGNS[name], **averaged(scored)})
        print(kept[-1], flush=True)
        write_json(arguments.out, {"seed": SEED, "folds": FOLDS, "rows": kept, **environment()})


def averaged(scored: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([one[key] for one in scored])) for key in scored[0]}


def score_fold(data: str, name: str, index: int) -> dict[str, float]:
    import torch
    from lightning_fabric import Fabric
    from sklearn.metrics import balanced_accuracy_score

    from tumorscope.audit.identify import with_pictures
    from tumorscope.training.loop import fit, predict, reproducible

    os.nice(1)
    recipe = ts.load_recipe("compact_cnn", {**START, **DESIGNS[name]})
    catalogue = with_pictures(ts.load_catalogue(data, sizes=(30,)), lambda *_: None)
    images = np.asarray(input_pixels(catalogue, recipe.input))
    labels = catalogue.table["label"].map(INDEX).to_numpy(np.int64)
    fold = ts.folds("patient-cv", catalogue.table, SEED)[index]
    fabric, started = Fabric(accelerator="cpu", devices=1), time.process_time()
    module, _ = fit(
        recipe, SEED, *((images[rows], labels[rows]) for rows in (fold.train, fold.validation)), fabric=fabric
    )
    seconds = time.process_time() - started
    with reproducible(SEED, 1, fabric.device):
        chances = predict(module, torch.from_numpy(images[fold.validation][:, None]), recipe.training.mirror_average)
    truth, found = labels[fold.validation], chances.argmax(1).numpy()
    return {
        "balanced_accuracy": float(balanced_accuracy_score(truth, found)),
        "accuracy": float((truth == found).mean()),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "core_seconds": seconds,
    }


if __name__ == "__main__":
    main()
