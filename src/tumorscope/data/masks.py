"""Tumour masks at one resolution beside the pixel cache: read from the data, or from the figshare set for slices it shares.

A mask goes through what its slice goes through: turned as the slice lies, cropped to the same head, shrunk to the same side.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tumorscope.data.cache import pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.data.decode import crop_like, decode, decode_mask, shrink
from tumorscope.data.sources import Source, fingerprint, open_source
from tumorscope.errors import DataNotFound, InputRejected
from tumorscope.files import replacing

#: Values of a mask pixel: outside and inside a tumour; a slice without a known mask is filled with UNKNOWN.
OUTSIDE, INSIDE, UNKNOWN = 0, 255, 128
#: Sides at which slices are matched to the figshare set.
SMALL, CONFIRM = 32, 128


def masks(catalogue: Catalogue, size: int, crop: str = "none", figshare: Path | None = None) -> Path:
    """File of uint8 (n, size, size): 0 outside, 255 inside; all 128 for a tumour whose mask nobody knows or shows nothing.

    figshare : the figshare set, for data that name no mask. Raises `DataNotFound` where the set, of joined ones the first,
    has tumours and no mask of any is known, `InputRejected` where a mask has changed since the data were catalogued, or has
    other proportions than its slice.
    """
    file = _file(catalogue, size, crop, figshare)
    tumours = np.flatnonzero(catalogue.sets[0].table["label"] != "notumor")
    if len(tumours) and (np.load(file, mmap_mode="r")[tumours, 0, 0] == UNKNOWN).all():
        why = f"{figshare} holds none of its slices" if figshare else "none is named"
        raise DataNotFound(
            f"{catalogue.name}: no tumour mask is known, {why}. Name them in a metadata.csv, or give the figshare set with "
            "--set regions.masks=PATH"
        )
    return file


def _file(catalogue: Catalogue, size: int, crop: str, figshare: Path | None) -> Path:
    known = fingerprint(open_source(figshare)) if figshare else ""
    # Rules that name masks and classes can change with the version, and the data's digest does not.
    told = [list(catalogue.table[column]) for column in ("mask_sha256", "label")]
    view = f"{size}-{crop}-{known}-{catalogue.digest}-{told}"
    file = catalogue.folder / f"masks-{hashlib.sha256(view.encode()).hexdigest()[:16]}.npy"
    if not file.exists():
        made = _made(catalogue, size, crop, figshare)
        with replacing(file) as temporary:
            np.save(temporary, made)
    return file


def _made(catalogue: Catalogue, size: int, crop: str, figshare: Path | None) -> np.ndarray:
    if catalogue.parts:
        return np.concatenate([np.load(_file(part, size, crop, figshare)) for part in catalogue.parts])
    table = catalogue.table
    free = (table["label"] == "notumor").to_numpy()
    array = np.where(free, OUTSIDE, UNKNOWN).astype(np.uint8)[:, None, None].repeat(size, 1).repeat(size, 2)
    named = (table["mask"] != "").to_numpy() & ~free
    if named.any():
        source, names, digests = catalogue.source(), table["mask"], table["mask_sha256"]
        shapes = table[["height", "width"]].to_numpy()
        _fill(
            array,
            np.flatnonzero(named),
            catalogue,
            crop,
            lambda row: _read(source, names[row], digests[row], shapes[row]),
        )
    elif figshare is not None:
        from tumorscope.audit.patients import link, mask_of, read_figshare

        known = read_figshare(figshare)
        small, confirm = (pixels(catalogue, side) for side in (SMALL, CONFIRM))
        found = link(table, small, confirm, known, *known.pixels(SMALL, CONFIRM))
        matches: dict[int, Any] = dict(zip(found["row"].tolist(), found.itertuples(), strict=True))
        rows = np.array([row for row in sorted(matches) if not free[row]], np.int64)
        _fill(array, rows, catalogue, crop, lambda row: mask_of(known, matches[row]))
    return array


def _read(source: Source, name: str, sha256: str, shape: np.ndarray) -> np.ndarray:
    """The mask of that name, uint8 (h, w), with the bytes that it was catalogued with. shape : its slice's rows and columns"""
    content = source.read(name)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputRejected(name, "other bytes", "changed since it was catalogued", "Import it again.")
    mask = decode_mask(content)
    need_proportions(name, mask.shape, tuple(shape))
    return np.where(tumour_of(mask), INSIDE, OUTSIDE).astype(np.uint8)


def need_proportions(name: str, mask: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise `InputRejected` where a mask, rows and columns, has other proportions than its slice, `shape`, but for rounding."""
    (rows, columns), (high, wide) = mask, shape
    if abs(rows * wide - columns * high) > rows + columns + high + wide:  # by up to a pixel a side, of both
        raise InputRejected(
            name,
            f"{columns} x {rows} pixels",
            f"its slice's proportions, of {wide} x {high}",
            "Turn or resize it to lie as the slice does.",
        )


def tumour_of(values: np.ndarray) -> np.ndarray:
    """Where a mask's picture is above half of its largest value, bool: of 0 and 1 the same as of 0 and 255."""
    return np.asarray(values > values.max() / 2)


def _fill(
    array: np.ndarray, rows: np.ndarray, catalogue: Catalogue, crop: str, mask_of: Callable[[int], np.ndarray]
) -> None:
    source, size = catalogue.source(), array.shape[1]
    for row in rows:
        mask = mask_of(int(row))
        if crop == "head":
            mask = crop_like(mask, decode(source.read(catalogue.table["path"][row])).grey)
        share = shrink(mask, size)
        if share.any():
            # Half covered is inside; of a region smaller than a pixel the most covered one is.
            array[row] = np.where(share >= min(INSIDE // 2 + 1, share.max()), INSIDE, OUTSIDE)
