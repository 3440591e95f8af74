"""The memoriser: 1-nearest-neighbour on raw pixels, which has learnt nothing. The floor beside every score."""

from pathlib import Path

import numpy as np
import pandas as pd

from tumorscope.data.cache import pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.files import replacing, write_text
from tumorscope.labels import CLASSES, INDEX
from tumorscope.protocols import Fold, digest, folds
from tumorscope.training.runs import place_of

#: Resolution that the memoriser compares at, that of the student report.
SIZE = 30
#: Test slices compared at a time; a memory limit.
CHUNK = 1024


def nearest(train: np.ndarray, query: np.ndarray, mirrors: bool = False) -> np.ndarray:
    """Index into `train` of the slice nearest to each of `query` by Euclidean distance; both uint8 (n, s, s).

    mirrors : compare with the left-right mirror of each training slice as well. Of equally near ones the first counts.
    """
    known = _flat(np.concatenate([train, train[:, :, ::-1]]) if mirrors else train)
    norms = np.einsum("ij,ij->i", known, known) / 2
    found = [np.argmin(norms - _flat(query[i : i + CHUNK]) @ known.T, axis=1) for i in range(0, len(query), CHUNK)]
    return np.concatenate(found) % len(train) if found else np.empty(0, np.int64)


def memorise(images: np.ndarray, labels: np.ndarray, fold: Fold, mirrors: bool = False) -> pd.DataFrame:
    """Answers for the validation and test slices of a fold: row, part, fold and a probability of 1 for the class found.

    It has nothing to choose, so for the test part it knows the training and the validation slices.
    """
    frames = []
    everything = np.sort(np.concatenate([fold.train, fold.validation]))
    for part, known, rows in (("validation", fold.train, fold.validation), ("test", everything, fold.test)):
        said = labels[known][nearest(images[known], images[rows], mirrors)]
        frame = pd.DataFrame({"row": rows, "part": part, "fold": fold.index})
        frame[[f"p_{name}" for name in CLASSES]] = np.eye(len(CLASSES))[said]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def memoriser_run(catalogue: Catalogue, protocol: str, seed: int, runs: Path, mirrors: bool = False) -> Path:
    """Predictions of the memoriser under a protocol, as a folder beside the runs; made once for the same data and split."""
    folder = runs / f"memoriser{'-mirrors' if mirrors else ''}-{place_of(catalogue, protocol, seed)}"
    stamp, file = folder / "data.txt", folder / "predictions.csv"
    split = folds(protocol, catalogue.table, seed)
    data = f"{catalogue.digest} {digest(split, catalogue.table)}"
    if file.exists() and stamp.exists() and stamp.read_text() == data:
        return folder
    images = np.asarray(pixels(catalogue, SIZE))
    labels = catalogue.table["label"].map(INDEX).to_numpy()
    made = [memorise(images, labels, fold, mirrors) for fold in split]
    pooled = pd.concat(made, ignore_index=True)
    facts = catalogue.table.iloc[pooled.pop("row")][["path", "label", "source", "plane", "patient", "picture"]]
    with replacing(file) as temporary:
        pd.concat([facts.reset_index(drop=True), pooled], axis=1).to_csv(temporary, index=False)
    write_text(stamp, data)
    return folder


def _flat(images: np.ndarray) -> np.ndarray:
    """Rows of float32 about 128: at 30x30 every sum of products is a whole number below 2^24, so distances are exact."""
    return images.reshape(len(images), -1).astype(np.float32) - 128
