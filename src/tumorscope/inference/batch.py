"""Many files: patterns and folders to paths in reading order, and heat maps to a folder."""

import glob
import gzip
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
from PIL import Image

from tumorscope.data import layout
from tumorscope.errors import DataNotFound
from tumorscope.files import write_bytes
from tumorscope.inference.classifier import Finding
from tumorscope.inference.reading.dicom import ORDERED_BY, position
from tumorscope.inference.reading.slices import Grid

ENDINGS = (*sorted(layout.ENDINGS), *layout.MEDICAL)


def expand(paths: Sequence[str], outputs: Sequence[Path] = ()) -> list[str]:
    """Files of every path, folder and pattern, each once; a folder's DICOM files stand in order of series and position.

    outputs : folders that are written to, resolved; what lies in them is left out of the folders and patterns around them

    Raises `DataNotFound` for a path that is not there, a folder without slices and a pattern without files.
    """
    found: list[str] = []
    for path in paths:
        if path == "-":
            found.append(path)
        elif Path(path).is_dir():
            if Path(path).resolve() not in outputs:  # a shell's pattern names these too
                found += _in_folder(Path(path), outputs)
        elif Path(path).exists():
            found.append(path)
        else:
            found += _matching(path, outputs)
    if not found:
        raise DataNotFound(
            f"{paths[0]}: nothing is read from a folder that is written to. Choose another for the output."
        )
    return _in_order(list(dict.fromkeys(found)))


def _in_folder(folder: Path, outputs: Sequence[Path]) -> list[str]:
    files = _slices_in(folder, outputs)
    if not files:
        raise DataNotFound(f"{folder}: no file that may hold slices ({', '.join(ENDINGS)}, or DICOM without ending).")
    return files


def _matching(pattern: str, outputs: Sequence[Path]) -> list[str]:
    """Files that a pattern matches, and those in folders that it matches."""
    matches = [Path(one) for one in glob.glob(pattern, recursive=True)]  # noqa: PTH207  # Path.glob takes no absolute pattern
    if not matches:
        raise DataNotFound(f"{pattern}: no such file, folder or pattern.")
    start = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    files = _outside([one for one in matches if one.is_file()], start, outputs)
    found = [str(one) for one in sorted(files, key=lambda one: (str(one.parent), one.name))]
    for folder in sorted(one for one in matches if one.is_dir() and one.resolve() not in outputs):
        found += _slices_in(folder, outputs)
    if not found:
        raise DataNotFound(
            f"{pattern}: what matches holds no file that may hold slices ({', '.join(ENDINGS)}, or DICOM)."
        )
    return found


def _slices_in(folder: Path, outputs: Sequence[Path]) -> list[str]:
    files = [item for item in folder.rglob("*") if item.is_file() and _may_hold_slices(item)]
    files = _outside(files, folder, outputs)
    return [str(item) for item in sorted(files, key=lambda item: (str(item.parent), _is_dicom(item), item.name))]


def _outside(files: list[Path], folder: Path, outputs: Sequence[Path]) -> list[Path]:
    """Without those in outputs that lie in `folder`."""
    inner = [one for one in outputs if one.is_relative_to(folder.resolve())]
    return [item for item in files if not any(item.parent.resolve().is_relative_to(one) for one in inner)]


def _in_order(files: list[str]) -> list[str]:
    """The files, with a folder's DICOM files put on each other's places by series and position, so that neighbours follow."""
    places: dict[Path, list[int]] = defaultdict(list)
    for number, file in enumerate(files):
        # What is no file, a pipe say, can be read once.
        if file != "-" and Path(file).is_file() and _is_dicom(Path(file)):
            places[Path(file).parent].append(number)
    ordered = list(files)
    for numbers in places.values():
        several = [files[number] for number in numbers]
        if len(several) > 1:
            several.sort(key=lambda file: position(_head(Path(file), ORDERED_BY)))
        for number, file in zip(numbers, several, strict=True):
            ordered[number] = file
    return ordered


def _may_hold_slices(path: Path) -> bool:
    return layout.may_hold_slices(path.name, lambda: _head(path, layout.HEAD))


def _is_dicom(path: Path) -> bool:
    return layout.starts_as_dicom(_head(path, layout.HEAD))


def _head(path: Path, size: int) -> bytes:
    """The first bytes of a file, none of one that cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError:
        return b""


def with_maps(
    findings: Iterator[Finding], heatmaps: Path | None, masks: Path | None, start: int = 1
) -> Iterator[Finding]:
    """The findings as they come; maps of answered slices are written, named by the slice's number from `start` and its file.

    heatmaps : folder for an overlay (PNG) and the map as array (uint8, 255 is the highest); masks : folder for a region
    model's regions, PNG of 0 and 255, where tumour is more likely than not

    Array and mask of a DICOM slice lie on its stored pixels; the overlay is what is looked at, upright and with square pixels.
    Of a NIfTI volume array and mask (0 and 1) are a NIfTI file in its own grid, written when its last slice has come; they are
    0 in slices without an answer, and not there where no slice has one.
    """
    volume: _Volume | None = None
    for number, one in enumerate(findings, start):
        grid = one.place[0] if one.place else None
        if volume and volume.grid is not grid:
            volume.write(heatmaps, masks)
            volume = None
        if one.heat is not None and one.grey is not None:
            name = f"{number:05d}-{_plain(Path(one.path).name)}"
            if heatmaps:
                write_bytes(heatmaps / f"{name}.png", _png(overlay(one.grey, one.heat)))
            if one.place:
                if volume is None:
                    file = re.sub(r"(?i)\.nii(\.gz)?$", "", Path(one.path.rpartition("#")[0]).name)
                    volume = _Volume(f"{number:05d}-{_plain(file)}", one.place[0], {})
                volume.heats[one.place[1]] = one.heat
            else:
                heat = one.stored.back(one.heat) if one.stored else one.heat
                if heatmaps:
                    np.save(heatmaps / f"{name}.npy", heat)
                if masks:
                    write_bytes(masks / f"{name}-mask.png", _png(255 * _inside(heat)))
        yield one
    if volume:
        volume.write(heatmaps, masks)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def _inside(heat: np.ndarray) -> np.ndarray:
    return (heat > 127).astype(np.uint8)


@dataclass(frozen=True)
class _Volume:
    """Heat of a NIfTI volume's slices by their number, until all have come."""

    name: str
    grid: Grid
    heats: dict[int, np.ndarray]

    def write(self, heatmaps: Path | None, masks: Path | None) -> None:
        import nibabel

        heat = self.grid.volume(self.heats)
        for folder, kind, values in ((heatmaps, "heat", heat), (masks, "mask", _inside(heat))):
            if folder:
                # A header of our own: the volume's may name the patient.
                image = nibabel.Nifti1Image(values, self.grid.affine)
                image.header.set_xyzt_units("mm")
                write_bytes(folder / f"{self.name}-{kind}.nii.gz", gzip.compress(image.to_bytes(), mtime=0))


def overlay(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Slice uint8 (h, w) with heat uint8 (h, w) laid over from yellow to red, uint8 (h, w, 3)."""
    share = heat.astype(np.float32)[..., None] / 255
    colour = np.concatenate([np.full_like(share, 255), 220 * (1 - share), np.zeros_like(share)], axis=2)
    weight = 0.6 * share
    return np.round(grey[..., None] * (1 - weight) + colour * weight).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
