"""Oversampling of the training part, one class at a time: SMOTE and its kin on raw pixels, or slices again."""

from typing import Any

import numpy as np

from tumorscope.config import Imbalance
from tumorscope.errors import RecipeError
from tumorscope.labels import INDEX

#: Methods that find no place for a slice where classes lie so far apart that they have no border.
NEED_A_BORDER = ("borderline_smote", "svm_smote", "adasyn")


def oversample(
    images: np.ndarray, labels: np.ndarray, imbalance: Imbalance, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Training slices with synthetic ones appended. images uint8 (n, s, s), labels int64 (n,), both of the training part only.

    By imbalanced-learn; see `config.Imbalance` for the methods. A class that has its target already stays as it is. Raises
    `RecipeError` where the method finds no place for a slice.
    """
    wanted = _targets(labels, imbalance)
    if imbalance.method == "none" or not wanted:
        return images, labels
    sampler = _sampler(labels, wanted, imbalance, seed)
    why: Exception | None = None
    try:
        flat, label = sampler.fit_resample(images.reshape(len(images), -1).astype(np.float32), labels)
    except (ValueError, RuntimeError) as error:
        if imbalance.method not in NEED_A_BORDER:
            raise
        flat, label, why = images, labels, error
    if len(label) == len(labels):
        reason = why or "no slice has another class near"
        raise RecipeError(f"imbalance.method: {imbalance.method} makes nothing here ({reason}); try smote") from why
    return np.rint(flat).astype(np.uint8).reshape(-1, *images.shape[1:]), label.astype(labels.dtype)


def _sampler(labels: np.ndarray, wanted: dict[int, int], imbalance: Imbalance, seed: int) -> Any:
    from imblearn import over_sampling as kinds

    if imbalance.method == "random":
        return kinds.RandomOverSampler(sampling_strategy=wanted, random_state=seed)
    neighbours = _neighbours(labels, wanted, imbalance)
    if imbalance.method == "adasyn":
        return kinds.ADASYN(sampling_strategy=wanted, n_neighbors=neighbours, random_state=seed)
    kind = {"smote": kinds.SMOTE, "borderline_smote": kinds.BorderlineSMOTE, "svm_smote": kinds.SVMSMOTE}
    return kind[imbalance.method](sampling_strategy=wanted, k_neighbors=neighbours, random_state=seed)


def _targets(labels: np.ndarray, imbalance: Imbalance) -> dict[int, int]:
    """Class index to the count it is brought up to, where that is more than it has."""
    counts = np.bincount(labels, minlength=len(INDEX))
    wanted = {
        INDEX[name]: target.count or round((target.share or 0) * counts[INDEX[target.of or name]])
        for name, target in imbalance.targets.items()
    }
    return {index: count for index, count in wanted.items() if count > counts[index] > 1}


def _neighbours(labels: np.ndarray, wanted: dict[int, int], imbalance: Imbalance) -> int:
    """The recipe's neighbours, fewer where a class is smaller than that."""
    return int(min(imbalance.neighbours, *(np.sum(labels == index) - 1 for index in wanted)))
