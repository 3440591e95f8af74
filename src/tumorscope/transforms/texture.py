"""Texture of slices: properties of their grey-level co-occurrence (Haralick, Shanmugam and Dinstein 1973), by scikit-image."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np

from tumorscope import home
from tumorscope.config import Texture

#: Slices that a process takes at a time.
CHUNK = 128


def texture_values(
    images: np.ndarray, texture: Texture, progress: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """Values float32 (n, k) of slices uint8 (n, s, s): properties, then distances, then angles, the last moving fastest.

    Co-occurrence is symmetric and normalised; grey 0..255 is binned to `levels`.
    """
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    work = partial(_values, texture=texture)
    if len(chunks) < 2 or home.cores() < 2:
        return _joined(map(work, chunks), len(images), progress)
    with ProcessPoolExecutor(min(home.cores(), len(chunks)), mp_context=get_context("spawn")) as pool:
        return _joined(pool.map(work, chunks), len(images), progress)


def _joined(parts: "object", total: int, progress: Callable[[int, int], None]) -> np.ndarray:
    found: list[np.ndarray] = []
    for part in parts:  # type: ignore[attr-defined]
        found.append(part)
        progress(sum(map(len, found)), total)
    return np.concatenate(found)


def _values(images: np.ndarray, texture: Texture) -> np.ndarray:
    from skimage.feature import graycomatrix, graycoprops

    binned = (np.asarray(images, np.uint16) * texture.levels // 256).astype(np.uint8)
    angles = np.deg2rad(texture.angles)
    rows = []
    for image in binned:
        pairs = graycomatrix(image, texture.distances, angles, levels=texture.levels, symmetric=True, normed=True)
        rows.append(np.concatenate([graycoprops(pairs, name).ravel() for name in texture.properties]))
    return np.asarray(rows, np.float32)
