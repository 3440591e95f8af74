"""Test scores of the baseline against epochs trained: an analysis made once, never used to choose anything.

The student report stopped `baseline_cnn` after 5 epochs at 0.7529; the same network goes on learning for many more.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from tumorscope import home
from tumorscope.config import load_recipe
from tumorscope.data.cache import pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.files import replacing
from tumorscope.labels import INDEX
from tumorscope.protocols import folds

EPOCHS = 30


def epoch_curve(catalogue: Catalogue, seeds: Sequence[int], file: Path, epochs: int = EPOCHS) -> pd.DataFrame:
    """Columns epoch, seed, val_accuracy, test_accuracy of `baseline_cnn` under `official`; kept in `file` and read back."""
    if file.exists():
        return pd.read_csv(file)
    pixels(catalogue, load_recipe("baseline_cnn").input.size)
    workers = min(len(seeds), home.cores())
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        table = pd.concat(pool.map(partial(_one_seed, catalogue, epochs), seeds), ignore_index=True)
    with replacing(file) as temporary:
        table.to_csv(temporary, index=False)
    return table


def _one_seed(catalogue: Catalogue, epochs: int, seed: int) -> pd.DataFrame:
    import torch
    from lightning_fabric import Fabric

    from tumorscope.training.loop import fit, predict

    recipe = load_recipe("baseline_cnn", {"training.epochs": epochs})
    images = np.asarray(pixels(catalogue, recipe.input.size))
    labels = catalogue.table["label"].map(INDEX).to_numpy().astype(np.int64)
    fold = folds("official", catalogue.table, seed)[0]
    test = torch.from_numpy(images[fold.test][:, None])
    rows: list[dict[str, float]] = []

    def note(epoch: int, module: torch.nn.Module) -> None:
        said = predict(module.eval(), test).numpy().argmax(1)
        rows.append({"epoch": epoch, "seed": seed, "test_accuracy": float((said == labels[fold.test]).mean())})

    training, validation = ((images[part], labels[part]) for part in (fold.train, fold.validation))
    fabric = Fabric(accelerator="cpu", devices=1)
    _, history = fit(recipe, seed, training, validation, fabric=fabric, after_epoch=note)
    return pd.DataFrame(rows).assign(val_accuracy=[row["val_accuracy"] for row in history])
