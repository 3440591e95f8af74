"""The gate: whether a slice can be answered at all, before the model, and whether the model has seen its like, after it.

Three outcomes: accepted, warned and refused, each with reasons. Limits come with the model package (`card.json`, "gate"),
where they were set on slices held out in cross-validation; what is here are the measurements.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorscope.data.decode import shrink
from tumorscope.inference.reading import Slice

#: Shortest side and largest aspect ratio of a slice, and smallest standard deviation of its grey.
MIN_SIDE, MAX_ASPECT, MIN_SPREAD = 32, 3.0, 6.0
#: Mean colour, 0 to 255, from which a picture is no grey slice.
MAX_CHROMA = 12.0
LOOK = 96


@dataclass(frozen=True)
class Verdict:
    """refused : reasons why it is not answered; warned : reasons for care."""

    refused: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()


def measures(head: np.ndarray) -> dict[str, float]:
    """What the limits of the package are about, each a number of a slice cropped to its head, uint8 (h, w).

    filled : share of the head square's inscribed ellipse that is foreground; corners : share of foreground in its corners
    symmetry : correlation with its own mirror image; sharpness : mean gradient over the standard deviation
    """
    small = shrink(head, LOOK).astype(np.float32)
    axis = (np.arange(LOOK) + 0.5) / LOOK * 2 - 1
    radius = np.hypot(axis[:, None], axis[None, :])
    foreground = small > max(1.0, 0.1 * float(np.percentile(small, 99)))
    spread = float(small.std()) + 1e-6
    centred = small - small.mean()
    gradient = np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()
    return {
        "filled": float(foreground[radius < 0.85].mean()),
        "corners": float(foreground[radius > 1.2].mean()),
        "symmetry": float((centred * centred[:, ::-1]).mean() / spread**2),
        "sharpness": float(gradient / spread),
    }


def before(one: Slice, head: np.ndarray, limits: dict[str, Any]) -> Verdict:
    """The verdict on pixels alone; head is the slice cropped to it."""
    height, width = one.grey.shape
    if min(height, width) < MIN_SIDE:
        return Verdict((f"{width}x{height} px; at least {MIN_SIDE} px a side. Give the whole slice.",))
    if max(height, width) > MAX_ASPECT * min(height, width):
        return Verdict((f"{width}x{height} px; sides at most 1 to {MAX_ASPECT:g}. Give a single slice.",))
    spread = float(one.grey.std())
    if spread < MIN_SPREAD:
        return Verdict((f"grey varies by {spread:.1f}; at least {MIN_SPREAD:g}. The slice is blank or nearly so.",))
    if one.chroma > MAX_CHROMA:
        return Verdict((f"colour {one.chroma:.0f} of 255; at most {MAX_CHROMA:g}. Give a grey MR slice.",))
    refused, warned = [], []
    for name, value in measures(head).items():
        bounds = limits["measures"][name]
        if not bounds["refuse"][0] <= value <= bounds["refuse"][1]:
            refused.append(f"{_beyond(name, value, bounds['refuse'])}. It does not look like a head in MR.")
        elif not bounds["warn"][0] <= value <= bounds["warn"][1]:
            warned.append(f"{_beyond(name, value, bounds['warn'])}: unusual")
    if len(head) < MIN_SIDE:
        refused.append(f"head of {len(head)} px; at least {MIN_SIDE}. Give the slice at a higher resolution.")
    return Verdict(tuple(refused), tuple(warned))


def _beyond(name: str, value: float, bounds: list[float]) -> str:
    return f"{WORDS[name]} {value:.2f}; known slices have {bounds[0]:.2f} to {bounds[1]:.2f}"


#: What each measure is, in words.
WORDS = {
    "filled": "share of the head that is bright",
    "corners": "share of the corners that is bright",
    "symmetry": "left-right symmetry",
    "sharpness": "sharpness",
}


def after(distance: float, limits: dict[str, Any]) -> Verdict:
    """The verdict on the embedding's distance from the training slices."""
    text = f"unlike the training slices by {distance:.2f}; known slices reach {limits['distance']['refuse']:.2f}"
    if distance > limits["distance"]["refuse"]:
        return Verdict((f"{text}. The model has not seen its like.",))
    return Verdict((), (f"{text}: unusual",)) if distance > limits["distance"]["warn"] else Verdict()


def distances(embeddings: np.ndarray, centres: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Mahalanobis distance to the nearest class, over the root of the dimension, float (n,) (Lee et al. 2018, arXiv:1807.03888).

    embeddings : (n, d); centres : (classes, d); precision : (d, d), inverse of the shrunk covariance within classes
    """
    away = embeddings[:, None, :] - centres[None]
    squares = np.einsum("nkd,de,nke->nk", away, precision, away)
    return np.asarray(np.sqrt(np.maximum(squares, 0).min(axis=1) / embeddings.shape[1]))
