"""Many files: patterns and folders to paths in reading order, and heat maps to a folder."""

import glob
import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tumorscope.data import layout
from tumorscope.errors import DataNotFound
from tumorscope.files import write_bytes
from tumorscope.inference.classifier import Finding
from tumorscope.inference.reading import ORDERED_BY, Grid, position

ENDINGS = (*sorted(layout.ENDINGS), *layout.MEDICAL)


def expand(paths: Sequence[str]) -> list[str]:
    """Files of every path, folder and pattern, each once; in folders slices of a DICOM series stand in order of position.

    Raises `DataNotFound` for a path that is not there or a folder without slices.
    """
    found: list[str] = []
    for path in paths:
        if path == "-":
            found.append(path)
        elif Path(path).is_dir():
            found += _in_folder(Path(path))
        elif Path(path).exists():
            found.append(path)
        else:
            matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
            if not matches:
                raise DataNotFound(f"{path}: no such file, folder or pattern.")
            found += [one for one in matches if Path(one).is_file()]
    return list(dict.fromkeys(found))


def _in_folder(folder: Path) -> list[str]:
    files = sorted(item for item in folder.rglob("*") if item.is_file() and _may_hold_slices(item))
    if not files:
        raise DataNotFound(f"{folder}: no file that may hold slices ({', '.join(ENDINGS)}, or DICOM without ending).")
    order = {item: position(_head(item, ORDERED_BY)) for item in files}
    return [str(item) for item in sorted(files, key=lambda item: (str(item.parent), *order[item], item.name))]


def _may_hold_slices(path: Path) -> bool:
    # DICOM files are often named after a UID, so that what follows the last dot is no ending.
    return path.name.lower().endswith(ENDINGS) or _is_dicom(path)


def _is_dicom(path: Path) -> bool:
    return _head(path, layout.HEAD)[128:] == b"DICM"


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
                if heatmaps:
                    np.save(heatmaps / f"{name}.npy", one.heat)
                if masks:
                    write_bytes(masks / f"{name}-mask.png", _png(255 * _inside(one.heat)))
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
