"""Grey values where a file states no window, by one rule for all files: percentiles of what lies above the background."""

import numpy as np

#: Percentiles that become black and white.
PERCENTILES = (0.5, 99.5)
#: Values that they are found from.
LOOKED_AT = 2_000_000
#: Share of the slices' border and of all pixels that one value fills where it is what lies outside the head.
BORDER_SHARE, OUTSIDE_SHARE = 0.9, 0.2


def greys(slices: np.ndarray, white_is_least: bool = False) -> np.ndarray:
    """uint8 of measured values (n, h, w), those of one file, in one window; what is no number was not measured.

    The background is the least value, and what was not measured: air, padding, and the 0 around z-scored tissue.

    slices : float32 is worked on in place, since files are large; white_is_least : whether the values run from white to black
    """
    slices = slices.astype(np.float32, copy=False)
    if white_is_least:
        # Not their negatives: a white border stored as 0 would be taken for the 0 around z-scored tissue.
        np.subtract(np.max(slices, where=np.isfinite(slices), initial=-np.inf), slices, out=slices)
    _ground(slices)
    some = slices.flat[:: -(-slices.size // LOOKED_AT)]
    above = some[some > slices.min()]
    low, high = np.percentile((above if above.size else some).astype(np.float64), PERCENTILES, overwrite_input=True)
    if low == high:  # one value, as of a mask: white on black
        low = min(float(slices.min()), low)
    shown = np.empty(slices.shape, np.uint8)
    for number, one in enumerate(slices):
        shown[number] = between(one, low, high)
    return shown


def between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 of values from `low`, black, to `high`, white."""
    away = values.astype(np.float64) - low
    return np.round((away * (255 / max(high - low, 1e-9))).clip(0, 255)).astype(np.uint8)


def _ground(slices: np.ndarray) -> None:
    """Put the least value where nothing was measured: NaN, and the 0 around z-scored tissue.

    That 0 lies between values of tissue, and would be grey.
    """
    finite = np.isfinite(slices)
    if not finite.all():
        known = (0.0, 0.0)
        if finite.any():
            known = (np.min(slices, where=finite, initial=np.inf), np.max(slices, where=finite, initial=-np.inf))
        np.nan_to_num(slices, copy=False, nan=known[0], posinf=known[1], neginf=known[0])
    least = slices.min()
    if least < 0:
        border = np.concatenate([slices[:, [0, -1], :].ravel(), slices[:, :, [0, -1]].ravel()])
        outside = np.median(border)
        same = slices == outside
        if (border == outside).mean() >= BORDER_SHARE and same.mean() > OUTSIDE_SHARE:
            slices[same] = least
