"""Scores of region maps: Dice, share of tumours hit, the pointing game, false regions, and the same by size."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tumorscope.data.masks import INSIDE, UNKNOWN
from tumorscope.evaluation.intervals import bootstrap_means, groups_of
from tumorscope.labels import CLASSES, INDEX

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What is told of tumours as a mean with its interval.
MEANS = ("dice_mean", "hit", "pointing")
#: What is told of tumour-free slices, a share.
SHOWN = "with a region"
#: Edges of tumour size, as shares of the slice's pixels.
SIZES = (0.0, 0.005, 0.015, 0.04, 1.0)


def region_maps(module: "nn.Module", images: "Tensor", mirror_average: bool = False) -> "Tensor":
    """Probability of tumour of every pixel, float32 (n, s, s) on the CPU, of uint8 images (n, 1, s, s).

    mirror_average : of the mean of the logits of slice and mirror, as a package of such a recipe answers
    """
    return _evidence(module, images, mirror_average).sigmoid()


def _evidence(module: "nn.Module", images: "Tensor", mirror_average: bool) -> "Tensor":
    """Log odds in the place of `region_maps`; they keep their order where probabilities round to one."""
    import torch

    from tumorscope.models.regions import evidence_of
    from tumorscope.training.network import in_turn

    def pixels(batch: "Tensor") -> "Tensor":
        logits: Tensor = module(batch, regions=True)[1]
        return (logits + module(batch.flip(3), regions=True)[1].flip(3)) / 2 if mirror_average else logits

    with torch.inference_mode():
        return torch.cat([evidence_of(pixels(batch)) for batch in in_turn(images)]).cpu()


def region_scores(
    module: "nn.Module",
    images: np.ndarray,
    masks: np.ndarray,
    labels: np.ndarray,
    device: Any,
    mirror_average: bool = False,
) -> pd.DataFrame:
    """A row a slice: mask_pixels and region_pixels (above one half), dice, pointed (see `pointed`), peak (highest probability).

    images, masks : uint8 (n, s, s), masks as `data.masks` has them; labels : int64 (n,); mirror_average : as `region_maps`

    dice and pointed are missing where the mask is unknown or the slice shows no tumour.
    """
    if not len(images):
        return pd.DataFrame(columns=["mask_pixels", "region_pixels", "dice", "pointed", "peak"])
    import torch

    evidence = _evidence(module, torch.from_numpy(np.array(images)[:, None]).to(device), mirror_average)
    maps = evidence.sigmoid().numpy()
    inside, known = masks == INSIDE, ~(masks == UNKNOWN).any(axis=(1, 2))
    regions = maps > 0.5
    tumour = known & (labels != INDEX["notumor"]) & inside.any(axis=(1, 2))
    return pd.DataFrame(
        {
            "mask_pixels": np.where(known, inside.sum(axis=(1, 2)), np.nan),
            "region_pixels": regions.sum(axis=(1, 2)),
            "dice": np.where(tumour, dice(regions, inside), np.nan),
            "pointed": np.where(tumour, pointed(evidence.numpy(), inside), np.nan),
            "peak": maps.max(axis=(1, 2)),
        }
    )


def dice(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """2 |A and B| / (|A| + |B|) of bool masks (n, h, w), float (n,); 1 where both are empty (Dice 1945)."""
    both, sizes = (one & other).sum(axis=(1, 2)), one.sum(axis=(1, 2)) + other.sum(axis=(1, 2))
    return np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0)


def pointed(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The pointing game (after Zhang et al. 2016, arXiv:1608.00507) of maps (n, h, w) on bool masks (n, h, w), float (n,).

    1 where the map's highest pixel lies in the mask, else 0; of several that are equal the share that does.
    """
    highest = maps == maps.max(axis=(1, 2), keepdims=True)
    return np.asarray((highest & inside).sum(axis=(1, 2)) / highest.sum(axis=(1, 2)))


def summary(regions: pd.DataFrame, pixels: int, seeds: int = 1) -> dict[str, Any]:
    """Of a part of a run's regions.csv: Dice, hits and pointing by class, plane and size, and false regions elsewhere.

    Beside means stand the ends of their 95 % interval by patient (by picture where none is known), `_low` and `_high`: NaN for a
    single patient, and the mean itself where all slices agree, so that the number of patients stands beside.
    pixels : of a slice, s * s; seeds : runs that the rows are of, on the same slices, which are counted once
    """
    tumours = regions[regions["dice"].notna()]
    free = regions[regions["label"] == "notumor"]
    size = pd.cut(tumours["mask_pixels"] / pixels, list(SIZES), labels=[f"to {high:.1%}" for high in SIZES[1:]])
    return {
        "all": _summary(tumours, pixels, seeds),
        "by class": {
            name: _summary(tumours[tumours["label"] == name], pixels, seeds) for name in CLASSES if name != "notumor"
        },
        "by plane": {str(name): _summary(part, pixels, seeds) for name, part in tumours.groupby("plane") if name},
        "by share of the slice": {
            str(name): _summary(part, pixels, seeds) for name, part in tumours.groupby(size, observed=True)
        },
        "tumour-free": {
            "slices": len(free) // seeds,
            **_means(free.assign(**{SHOWN: free["region_pixels"] > 0}), SHOWN),
        },
    }


def at_least(slices: pd.DataFrame, share: "pd.Series[float]") -> dict[str, pd.DataFrame]:
    """Tumours above each of `SIZES`, with all tumour-free slices: {"above 0.5%": their rows of `slices`}; no size without rows.

    share : of each slice's pixels that its mask has; NaN where it is unknown, and such a tumour is in none
    """
    free = slices["label"] == "notumor"
    parts = {f"above {low:.1%}": slices[free | (share > low)] for low in SIZES[:-1]}
    return {size: part for size, part in parts.items() if not part.empty}


def _summary(part: pd.DataFrame, pixels: int, seeds: int) -> dict[str, Any]:
    if part.empty:
        return {"slices": 0}
    return {
        "slices": len(part) // seeds,
        "patients": len(set(groups_of(part))),
        "dice_median": float(part["dice"].median()),
        **_means(part.assign(dice_mean=part["dice"], hit=part["dice"] > 0, pointing=part["pointed"]), *MEANS),
        "mask_share": float(part["mask_pixels"].mean() / pixels),
    }


def _means(part: pd.DataFrame, *columns: str) -> dict[str, float | None]:
    """Mean of each column and the ends of its interval by patient; None of a part without slices."""
    intervals = bootstrap_means(part, columns) if len(part) else {}
    found: dict[str, float | None] = {}
    for column in columns:
        low, high = intervals.get(column, (None, None))
        mean = float(part[column].mean()) if len(part) else None
        found |= {column: mean, f"{column}_low": low, f"{column}_high": high}
    return found
