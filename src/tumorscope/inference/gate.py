"""The gate: whether a slice can be answered at all, before the model, and whether the model has seen its like, after it.

Three outcomes: accepted, warned and refused, each with reasons. Limits come with the model package (`card.json`, "gate"),
where they were set on slices held out in cross-validation; what is here are the measurements.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorscope.data.decode import MIN_ANSWERED, head_box, shrink
from tumorscope.inference.reading.slices import Slice

#: Largest aspect ratio of a slice, and smallest standard deviation of its grey.
MAX_ASPECT, MIN_SPREAD = 3.0, 6.0
#: Mean colour, 0 to 255, from which a picture is no grey slice.
MAX_CHROMA = 12.0
LOOK = 96
#: Pixels a side of the head that its layout is told by; enough for skull, brain and ventricles.
LAYOUT = 12
#: Pixels a side that ghosts are looked for at, and how far a ghost lies from its head at least: nearer ones are blur.
GHOST_SIDE, GHOST_NEAREST = 128, 12

#: Pixels from a side within which a bright line is looked for, and the share of the side that it runs along at least.
LINE, ALONG = 3, 0.9


@dataclass(frozen=True)
class Verdict:
    """refused : reasons why it is not answered; warned : reasons for care."""

    refused: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()


def measures(head: np.ndarray) -> dict[str, float]:
    """What the limits of the package are about, each a number of a slice cropped to its head, uint8 (h, w).

    filled : share of the head square's inscribed ellipse that is foreground; corners : share of foreground in its corners
    symmetry : correlation with its own mirror image; sharpness : mean gradient over the standard deviation
    contrast : standard deviation over mean within the head, where a disc has none
    """
    small = shrink(head, LOOK).astype(np.float32)
    axis = (np.arange(LOOK) + 0.5) / LOOK * 2 - 1
    radius = np.hypot(axis[:, None], axis[None, :])
    foreground = small > max(1.0, 0.1 * float(np.percentile(small, 99)))
    spread = float(small.std()) + 1e-6
    centred = small - small.mean()
    within = small[radius < 0.7]
    gradient = np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()
    return {
        "filled": float(foreground[radius < 0.85].mean()),
        "corners": float(foreground[radius > 1.2].mean()),
        "symmetry": float((centred * centred[:, ::-1]).mean() / spread**2),
        "sharpness": float(gradient / spread),
        "contrast": float(within.std() / (within.mean() + 1.0)),
    }


def layout(head: np.ndarray) -> np.ndarray:
    """Where a head is bright and dark, whatever its contrast: float (144,), the head at 12x12 over its 95th percentile."""
    small = shrink(head, LAYOUT).astype(np.float64).ravel()
    return small / max(float(np.percentile(small, 95)), 1.0)


def ghosting(head: np.ndarray) -> float:
    """How far the strongest echo of a head, uint8 (h, w), stands out: its height over the median one's, down or across.

    A ghost is the head again, moved along an axis; that puts ripples on the spectrum along this axis, and so a peak into the
    spectrum of its logarithm, the cepstrum (Bogert, Healy and Tukey 1963). It needs no air around the head.
    """
    small = shrink(head, GHOST_SIDE).astype(np.float64)
    power = np.abs(np.fft.fft2(small - small.mean())) ** 2
    logarithm = np.log(power + 0.5 * small.size)  # what rounding to whole greys may leave of any frequency
    strongest = 0.0
    for axis in (0, 1):
        line = logarithm.mean(axis=axis)
        echoes = np.abs(np.fft.ifft(line - line.mean()))[GHOST_NEAREST : GHOST_SIDE // 2 + 1]
        strongest = max(strongest, float(echoes.max() / (np.median(echoes) + 1e-9)))
    return strongest


def turned(layouts: np.ndarray, known: "Likeness") -> tuple[np.ndarray, np.ndarray]:
    """How much nearer to known slices heads would be if they lay otherwise: ratios (n,), and how, places in `TURNS` (n,).

    layouts : (n, 144). A ratio is the distance as a head lies over the least of those after a turn.
    """
    grids = layouts.reshape(-1, LAYOUT, LAYOUT)
    ways = [np.rot90(grids, quarters, axes=(1, 2)) for quarters in (1, 3, 2)] + [grids[:, ::-1]]
    after = np.stack([known.distances(np.ascontiguousarray(way).reshape(len(grids), -1)) for way in ways])
    return known.distances(layouts) / np.maximum(after.min(axis=0), 1e-9), after.argmin(axis=0)


def before(one: Slice, head: np.ndarray, limits: dict[str, Any], known: "Likeness") -> Verdict:
    """The verdict on pixels alone; head is the slice cropped to it, known the layouts of training slices."""
    height, width = one.grey.shape
    if min(height, width) < MIN_ANSWERED:
        return Verdict((f"{width}x{height} px; at least {MIN_ANSWERED} px a side. Give the whole slice.",))
    if max(height, width) > MAX_ASPECT * min(height, width):
        return Verdict((f"{width}x{height} px; sides at most 1 to {MAX_ASPECT:g}. Give a single slice.",))
    spread = float(one.grey.std())
    if spread < MIN_SPREAD:
        return Verdict((f"grey varies by {spread:.1f}; at least {MIN_SPREAD:g}. The slice is blank or nearly so.",))
    if one.chroma > MAX_CHROMA:
        return Verdict((f"colour {one.chroma:.0f} of 255; at most {MAX_CHROMA:g}. Give a grey MR slice.",))
    refused, warned = [], [*one.warned]
    for name, value in measures(head).items():
        bounds = limits["measures"][name]
        if not bounds["refuse"][0] <= value <= bounds["refuse"][1]:
            refused.append(f"{_beyond(name, value, bounds['refuse'])}. It does not look like a head in MR.")
        elif not bounds["warn"][0] <= value <= bounds["warn"][1]:
            warned.append(f"{_beyond(name, value, bounds['warn'])}: unusual")
    laid = layout(head)[None]
    away = float(known.distances(laid)[0])
    text = f"laid out unlike the training slices by {away:.2f}; known slices reach {limits['layout']['refuse']:.2f}"
    if away > limits["layout"]["refuse"]:
        refused.append(f"{text}. It does not look like a head in MR, or lies otherwise.")
    elif away > limits["layout"]["warn"]:
        warned.append(f"{text}: unusual")
    ratio, way = (values[0] for values in turned(laid, known))
    if ratio > limits["turned"]:
        warned.append(f"it may lie wrongly: {TURNS[way]} it would be {ratio:.2f} times as near to known slices")
    echo, most = ghosting(head), limits["ghosting"]
    if echo > most:
        warned.append(f"strongest echo {echo:.1f} times the usual; known slices reach {most:.1f}: it may be ghosted")
    if len(head) < MIN_ANSWERED:
        refused.append(f"head of {len(head)} px; at least {MIN_ANSWERED}. Give the slice at a higher resolution.")
    if refused and (sides := bright_sides(one.grey)):
        text = f"bright from end to end at its {', '.join(sides)}; known slices are dark around the head."
        refused.append(f"{text} Crop a page or frame away, or turn the grey of an inverted slice round.")
    return Verdict(tuple(refused), tuple(warned))


def bright_sides(grey: np.ndarray) -> list[str]:
    """Sides of what a slice, uint8 (h, w), is cropped to that have a bright line along them, as a page or frame has."""
    box = head_box(grey)
    if box is None:
        return []
    top, bottom, left, right = box
    bright = grey[top:bottom, left:right] > 0.5 * np.percentile(grey, 99)
    strips = {
        "top": bright[:LINE],
        "bottom": bright[-LINE:],
        "left side": bright[:, :LINE].T,
        "right side": bright[:, -LINE:].T,
    }
    return [name for name, strip in strips.items() if strip.mean(axis=1).max() >= ALONG]


#: What would put a slice right, in the order of `turned`.
TURNS = ("turned a quarter to the left", "turned a quarter to the right", "turned half round", "flipped top to bottom")


def _beyond(name: str, value: float, bounds: list[float]) -> str:
    return f"{WORDS[name]} {value:.3f}; the limits are {bounds[0]:.3f} to {bounds[1]:.3f}"


#: What each measure is, in words.
WORDS = {
    "filled": "share of the head that is bright",
    "corners": "share of the corners that is bright",
    "symmetry": "left-right symmetry",
    "sharpness": "sharpness",
    "contrast": "contrast within the head",
}


def after(distance: float, limits: dict[str, Any]) -> Verdict:
    """The verdict on the embedding's distance from the training slices."""
    text = f"unlike the training slices by {distance:.2f}; known slices reach {limits['distance']['refuse']:.2f}"
    if distance > limits["distance"]["refuse"]:
        return Verdict((f"{text}. The model has not seen its like.",))
    return Verdict((), (f"{text}: unusual",)) if distance > limits["distance"]["warn"] else Verdict()


@dataclass(frozen=True)
class Likeness:
    """Training slices as a cloud for each class. centres : (classes, d); precision : (d, d), inverse of the shrunk covariance."""

    centres: np.ndarray
    precision: np.ndarray

    def distances(self, values: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of values (n, d) to the nearest class, over the root of d: (n,).

        Lee et al. 2018, arXiv:1807.03888.
        """
        away = values[:, None, :] - self.centres[None]
        squares = np.einsum("nkd,de,nke->nk", away, self.precision, away)
        return np.asarray(np.sqrt(np.maximum(squares, 0).min(axis=1) / values.shape[1]))
