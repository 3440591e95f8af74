"""Pixel cache: the decoded set at one resolution, uint8, one memory-mapped .npy file, built once.

A cache is bound to the bytes of every slice (the catalogue's digest is in its name): it is reused while they are the same,
rebuilt when they are not, and appears only when it is whole.
"""

from pathlib import Path

import numpy as np

from tumorscope.config import Input
from tumorscope.data.catalogue import Catalogue, Progress, read_all
from tumorscope.data.decode import check_side, enlarge
from tumorscope.data.layout import Planned
from tumorscope.errors import InputRejected
from tumorscope.files import replacing


def pixels(catalogue: Catalogue, size: int, progress: Progress | None = None, crop: str = "none") -> np.ndarray:
    """Grey pixels of every slice, uint8 (n, size, size), row i = table row i, memory-mapped and read-only.

    crop : "none", or "head" for the square around the head; see `config.Input`
    """
    check_side(size)
    file = path_of(catalogue, size, crop)
    stored = _stored(file, (len(catalogue.table), size, size))
    if stored is None:
        write_pixels(catalogue, size, _decode(catalogue, size, progress, crop), crop)
        stored = np.load(file, mmap_mode="r")
    return stored


def input_file(catalogue: Catalogue, view: Input) -> Path:
    """File of every slice as a recipe's `input` has it before normalising, uint8 (n, size, size); made where it is not there.

    Of the filter mfcn what it starts from: slices enlarged with bicubic.
    """
    if not view.enlarged_from:
        pixels(catalogue, view.size, crop=view.crop)
        return path_of(catalogue, view.size, view.crop)
    cut = "" if view.crop == "none" else f"-{view.crop}"
    filter = "bicubic" if view.filter == "mfcn" else view.filter
    file = catalogue.folder / f"pixels-{view.size}-{filter}-of-{view.enlarged_from}{cut}-{catalogue.digest}.npy"
    if _stored(file, (len(catalogue.table), view.size, view.size)) is None:
        small = pixels(catalogue, view.enlarged_from, crop=view.crop)
        with replacing(file) as temporary:
            np.save(temporary, np.stack([enlarge(image, view.size, filter) for image in small]))
    return file


def input_pixels(catalogue: Catalogue, view: Input) -> np.ndarray:
    """What `input_file` holds, memory-mapped and read-only."""
    stored: np.ndarray = np.load(input_file(catalogue, view), mmap_mode="r")
    return stored


def path_of(catalogue: Catalogue, size: int, crop: str = "none") -> Path:
    """File of the cache at `size`."""
    view = f"{size}" if crop == "none" else f"{size}-{crop}"
    return catalogue.folder / f"pixels-{view}-{catalogue.digest}.npy"


def write_pixels(catalogue: Catalogue, size: int, array: np.ndarray, crop: str = "none") -> None:
    """Store uint8 (n, size, size) as the cache at `size`, atomically."""
    with replacing(path_of(catalogue, size, crop)) as temporary:
        np.save(temporary, array)


def _stored(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The file's pixels where it is there with the shape and length that it must have."""
    try:
        stored = np.load(file, mmap_mode="r")
    except Exception:  # not there, or a header that numpy's parser stumbles over in one of many ways
        return None
    return stored if isinstance(stored, np.memmap) and stored.shape == shape and stored.dtype == np.uint8 else None


def _decode(catalogue: Catalogue, size: int, progress: Progress | None, crop: str) -> np.ndarray:
    """Decode every slice again at `size`, checking that its bytes are those of the catalogue."""
    if catalogue.parts:
        return np.concatenate([pixels(part, size, progress, crop) for part in catalogue.parts])
    source = catalogue.source()
    members = {member.name: member for member in source.members}
    table = catalogue.table
    missing = [path for path in table["path"] if path not in members]
    if missing:
        raise InputRejected(missing[0], "gone", f"catalogued in {catalogue.origin}", "Import the data again.")
    planned = [Planned(members[path], "", "", "") for path in table["path"]]
    array = np.empty((len(table), size, size), np.uint8)
    for row, outcome in enumerate(read_all(source, planned, (size,), crop)):
        if isinstance(outcome, str):
            raise InputRejected(table["path"][row], outcome, "was readable when catalogued", "Import the data again.")
        facts, images = outcome
        if facts["sha256"] != table["sha256"][row]:
            raise InputRejected(
                table["path"][row], "other bytes", "changed since it was catalogued", "Import it again."
            )
        array[row] = images[0]
        if progress and (row % 50 == 49 or row + 1 == len(table)):
            progress(row + 1, len(table))
    return array
