"""Many files: patterns and folders to paths in reading order, and heat maps to a folder."""

import glob
import gzip
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tumorscope.data import layout
from tumorscope.errors import DataNotFound, InputRejected
from tumorscope.files import write_bytes
from tumorscope.inference.classifier import Finding
from tumorscope.inference.reading import read_file
from tumorscope.inference.reading.dicom import ORDERED_BY, Place, position, stored_pixels
from tumorscope.inference.reading.slices import Grid

ENDINGS = (*sorted(layout.ENDINGS), *layout.MEDICAL)
#: Files in order, each with the place of a DICOM file, None for one of another kind.
Placed = dict[str, Place | None]
#: Files of a folder that are not read, and of what kind each is.
Left = dict[Path, str]


def expand(paths: Sequence[str], say: Callable[[str], None] = lambda _: None) -> list[str]:
    """Files of every path, folder and pattern, each once; a folder's DICOM files by series, time point and position.

    say : told what is left out: heat maps and masks that `with_maps` wrote, and a folder's files of kinds that are not read,
    DICOM objects without pixels among them, and copies of a DICOM instance in one folder, pixels and all

    Raises `DataNotFound` for a path that is not there, a folder without slices and a pattern without files.
    """
    found: Placed = {}
    left: Left = {}
    for path in paths:
        if path == "-":
            found[path] = None
        elif Path(path).is_dir():
            found |= _in_folder(Path(path), left)
        elif Path(path).exists():
            found[path] = _place(Path(path))
        else:
            found |= _matching(path, left)
    slices = {file: place for file, place in found.items() if not _is_map(Path(file))}
    if len(slices) < len(found):
        say(f"Left out: {len(found) - len(slices):,} heat maps and masks that tumorscope wrote.")
    if left:
        say(f"Left out, of kinds that are not read: {counted(left.values())}.")
    if not slices:
        raise DataNotFound(f"{paths[0]}: nothing but heat maps and masks that tumorscope wrote. Give slices.")
    once = _once(slices)
    if len(once) < len(slices):
        say(f"Left out, as copies of DICOM files beside them (SOPInstanceUID and pixels): {len(slices) - len(once):,}.")
    return _in_order(once)


def _in_folder(folder: Path, left: Left) -> Placed:
    others: Left = {}
    files = _slices_in(folder, others)
    if not files:
        held = f" It holds {counted(others.values())}." if others else ""
        raise DataNotFound(
            f"{folder}: no file that may hold slices ({', '.join(ENDINGS)}, or DICOM without ending).{held}"
        )
    left |= others
    return files


def counted(kinds: Iterable[str]) -> str:
    """How many there are of each kind, the most frequent first."""
    return ", ".join(f"{count:,} {kind}" for kind, count in Counter(kinds).most_common())


def _matching(pattern: str, left: Left) -> Placed:
    """Files that a pattern matches, and those in folders that it matches."""
    matches = [Path(one) for one in glob.glob(pattern, recursive=True)]  # noqa: PTH207  # Path.glob takes no absolute pattern
    if not matches:
        raise DataNotFound(f"{pattern}: no such file, folder or pattern.")
    files = [one for one in matches if one.is_file()]
    found = {str(one): _place(one) for one in sorted(files, key=lambda one: (str(one.parent), one.name))}
    for folder in sorted(one for one in matches if one.is_dir()):
        found |= _slices_in(folder, left)
    if not found:
        raise DataNotFound(
            f"{pattern}: what matches holds no file that may hold slices ({', '.join(ENDINGS)}, or DICOM)."
        )
    return found


def _slices_in(folder: Path, left: Left) -> Placed:
    """Files below `folder` that may hold slices; the others are added to `left`, hidden ones apart."""
    files = {item: _place(item) for item in folder.rglob("*") if item.is_file()}
    slices = []
    for item, place in files.items():
        kind = place.kind if place else ""
        if not kind and _may_hold_slices(item, place is not None):
            slices.append(item)
        elif not item.name.startswith(".") and not _is_map(item):
            left[item] = kind or item.suffix.lower() or "without ending"
    slices.sort(key=lambda item: (str(item.parent), files[item] is not None, item.name))
    return {str(item): files[item] for item in slices}


def _once(files: Placed) -> Placed:
    """The files, each DICOM instance once a folder, by the first file that is of it: a slice would count twice.

    Other pixels are no copy: scripts that make files from one of them leave its UID in all, and a download may have been cut off.
    """
    alike: dict[tuple[Path, Place], list[str]] = defaultdict(list)
    for file, place in files.items():
        if place and place.instance:
            alike[Path(file).parent, place].append(file)
    copies = set()
    for several in alike.values():
        if len(several) > 1:
            first: dict[bytes, str] = {}
            copies |= {file for file in several if first.setdefault(_pixels(file), file) != file}
    return {file: place for file, place in files.items() if file not in copies}


def _pixels(file: str) -> bytes:
    """What tells a DICOM file's pixels from others."""
    try:
        return stored_pixels(read_file(Path(file)))
    except (OSError, InputRejected):  # it is said when the file itself is read
        return os.fsencode(file)


def _in_order(files: Placed) -> list[str]:
    """The files, with a folder's DICOM files put on each other's places by series, time point and position, so that neighbours
    follow.
    """
    dicom: dict[Path, list[tuple[int, Place, str]]] = defaultdict(list)
    for number, (file, place) in enumerate(files.items()):
        if place is not None:
            dicom[Path(file).parent].append((number, place, file))
    ordered = list(files)
    for several in dicom.values():
        timed = _in_time([place for _, place, _ in several])
        ranked = sorted(
            (place.series, place.acquisition if place.series in timed else 0, place.along, number, file)
            for number, place, file in several
        )
        for (number, _, _), (*_, file) in zip(several, ranked, strict=True):
            ordered[number] = file
    return ordered


def _in_time(places: list[Place]) -> set[str]:
    """Series whose acquisitions all lie at the same places, as time points do; packs of slices lie between each other, and
    some scanners number each slice.
    """
    found: dict[str, dict[int, Counter[float]]] = defaultdict(lambda: defaultdict(Counter))
    for place in places:
        found[place.series][place.acquisition][place.along] += 1
    return {
        series
        for series, (first, *others) in ((series, acquired.values()) for series, acquired in found.items())
        if len(first) > 1 and all(other == first for other in others)
    }


def _may_hold_slices(path: Path, dicom: bool) -> bool:
    return layout.may_hold_slices(path.name, lambda: dicom)


def _place(path: Path) -> Place | None:
    """What a file is ordered by, opened once: folders of thousands lie on slow shares. None for a pipe, which is read once."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            head = stream.read(layout.HEAD)
            return position(head + stream.read(ORDERED_BY)) if layout.starts_as_dicom(head) else None
    except OSError:  # it is said when the file itself is read
        return None


def _is_map(path: Path) -> bool:
    """By its mark; an array, which has none, by that of the overlay beside it."""
    path = path.with_suffix(".png") if path.suffix == ".npy" else path
    return layout.is_map(path.name, lambda: _head(path, layout.HEAD))


def _head(path: Path, size: int) -> bytes:
    """The first bytes of a file, none of one that cannot be read, or once alone, as a pipe."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError:
        return b""


def with_maps(
    findings: Iterator[Finding], heatmaps: Path | None, masks: Path | None, start: int = 1
) -> Iterator[Finding]:
    """The findings as they come, naming their maps, which are written, named by the slice's number from `start` and its file.

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
            mask = f"{name}-mask.png"
            if heatmaps:
                write_bytes(heatmaps / f"{name}.png", _png(overlay(one.grey, one.heat)))
            if one.place:
                if volume is None:
                    file = re.sub(r"(?i)\.nii(\.gz)?$", "", Path(one.path.rpartition("#")[0]).name)
                    volume = _Volume(f"{number:05d}-{_plain(file)}", one.place[0], {})
                volume.heats[one.place[1]] = one.heat
                mask = volume.file("mask")
            else:
                heat = one.stored.back(one.heat) if one.stored else one.heat
                if heatmaps:
                    np.save(heatmaps / f"{name}.npy", heat)
                if masks:
                    write_bytes(masks / mask, _png(255 * _inside(heat)))
            one = replace(
                one, heatmap=str(heatmaps / f"{name}.png") if heatmaps else "", mask=str(masks / mask) if masks else ""
            )
        yield one
    if volume:
        volume.write(heatmaps, masks)


def _plain(name: str) -> str:
    """A name for maps, of the last 200 characters: a file's name may be 255 long, and maps add to it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-200:]


def _inside(heat: np.ndarray) -> np.ndarray:
    return (heat > 127).astype(np.uint8)


@dataclass(frozen=True)
class _Volume:
    """Heat of a NIfTI volume's slices by their number, until all have come."""

    name: str
    grid: Grid
    heats: dict[int, np.ndarray]

    def file(self, kind: str) -> str:
        return f"{self.name}-{kind}.nii.gz"

    def write(self, heatmaps: Path | None, masks: Path | None) -> None:
        import nibabel

        heat = self.grid.volume(self.heats)
        for folder, kind, values in ((heatmaps, "heat", heat), (masks, "mask", _inside(heat))):
            if folder:
                # A header of our own: the volume's may name the patient.
                image = nibabel.Nifti1Image(values, self.grid.affine)
                image.header.set_xyzt_units("mm")
                write_bytes(folder / self.file(kind), _packed(image.to_bytes()))


def overlay(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Slice uint8 (h, w) with heat uint8 (h, w) laid over from yellow to red, uint8 (h, w, 3)."""
    share = heat.astype(np.float32)[..., None] / 255
    colour = np.concatenate([np.full_like(share, 255), 220 * (1 - share), np.zeros_like(share)], axis=2)
    weight = 0.6 * share
    return np.round(grey[..., None] * (1 - weight) + colour * weight).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    mark = PngInfo()
    mark.add_text("Comment", layout.MAP.decode())
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=mark)
    return buffer.getvalue()


def _packed(content: bytes) -> bytes:
    """Gzip of a map's bytes, with the mark in the name of what is packed, which is among the first bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(f"{layout.MAP.decode()}.nii", "wb", fileobj=buffer, mtime=0) as stream:
        stream.write(content)
    return buffer.getvalue()
