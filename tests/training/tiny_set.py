"""A catalogue of noise with a blob for each class, made in memory; what the training tests train on, in seconds."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from tumorscope.config import Recipe, load_recipe
from tumorscope.data.cache import write_pixels
from tumorscope.data.catalogue import COLUMNS, Catalogue
from tumorscope.labels import CLASSES

SIZE = 30
#: Top row of each class's blob; it lies on the middle column, so that a mirror leaves the class as it is.
TOPS = (1, 8, 15, 22)
#: Every source of chance at once, and early stopping; small enough for seconds.
EVERYTHING = {
    "model.filters": [4, 6],
    "model.dense": 8,
    "model.dropout": 0.2,
    "model.batch_norm": True,
    "optimiser.learning_rate": 0.004,
    "augment.mirror": 0.5,
    "augment.rotate": 10,
    "augment.shift": 0.05,
    "schedule.name": "one_cycle",
    "input.normalise": "standard",
    "training.epochs": 5,
    "training.batch_size": 16,
    "early_stopping.patience": 3,
    "name": "everything",
}


def drawn(counts: tuple[int, ...] = (12, 20, 24, 20), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 30, 30) of noise with a bright 7 x 8 blob at the height of the class, labels int64 (n,), mixed."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(CLASSES)), counts))
    images = random.integers(0, 120, size=(len(labels), SIZE, SIZE))
    for image, label in zip(images, labels, strict=True):
        image[TOPS[label] : TOPS[label] + 7, 11:19] += 60
    return images.astype(np.uint8), labels.astype(np.int64)


def catalogue(folder: Path, images: np.ndarray, labels: np.ndarray, test_share: float = 0.25) -> Catalogue:
    """A catalogue with its pixel cache in `folder`; the last slices are the published test part, each its own picture."""
    count = len(labels)
    table = pd.DataFrame({name: [""] * count for name in COLUMNS})
    table["path"] = [f"{i:03d}.png" for i in range(count)]
    table["label"] = np.array(CLASSES)[labels]
    table["split"] = np.where(np.arange(count) < count * (1 - test_share), "train", "test")
    table["sha256"] = table["pixels_sha256"] = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    table["picture"] = [f"k{i}" for i in range(count)]
    rejected = pd.DataFrame(columns=["path", "reason"])
    made = Catalogue("tiny", table, rejected, folder, folder)
    write_pixels(made, SIZE, images)
    return made


def tiny_catalogue(folder: Path, seed: int = 0) -> Catalogue:
    """The usual one: 76 slices, 57 of them for training."""
    return catalogue(folder, *drawn(seed=seed))


def everything(**changes: object) -> Recipe:
    """`improved_cnn` made small, with SMOTE, focal loss, dropout, augmentation, batch norm and early stopping on."""
    return load_recipe("improved_cnn", {**EVERYTHING, **{key.replace("__", "."): changes[key] for key in changes}})
