"""Files of any kind that holds brain MR slices, to grey pixels as the networks were shown them.

PNG, JPEG, TIFF, BMP and more through `data.decode`; DICOM (PS3.3 C.7.6.3, C.11.2), single and multi-frame; NIfTI-1 and -2
volumes; slices of the figshare set in MATLAB v7.3 files. Limits are set from headers, before a pixel is decoded. What a file
says of a patient is neither kept nor shown.
"""

import gzip
import hashlib
import io
import math
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from tumorscope.data.decode import MAX_PIXELS, MAX_SIDE, decode
from tumorscope.errors import InputRejected

#: Bytes of a file, frames of a DICOM file, voxels of a volume.
MAX_BYTES, MAX_FRAMES, MAX_VOXELS = 512 * 2**20, 4096, 512 * 512 * 256
#: Bytes that a packed volume may unpack to, and voxels of it that its window is found from.
MAX_UNPACKED, LOOKED_AT = 4 * MAX_VOXELS, 2_000_000
#: Bytes of a DICOM header, of what a folder is ordered by, and elements of a data set.
HEADER, ORDERED_BY, MAX_ELEMENTS = 16 * 2**20, 2**20, 20_000
PIXEL_DATA = 0x7FE00010
#: The deflated transfer syntax and the plain one, as long.
DEFLATED, PLAIN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
#: Markers of JPEG and JPEG-LS frames, and of what may stand before one (ISO/IEC 10918-1 table B.1, 14495-1 table C.1).
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
BEFORE_FRAMES = {0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xF8, 0xFE}
JP2 = b"\0\0\0\x0cjP  "
#: Bytes of a NIfTI header, of both versions.
NIFTI_HEADER = 540
#: Axis of a volume in RAS order that each plane cuts.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
GZIP = b"\x1f\x8b"
#: Where columns and rows of a slice run as radiologists look at it; x is left, y is back, z is up (PS3.3 C.7.6.2.1.1).
LOOKED_ALONG = {
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "axial": ((1, 0, 0), (0, 1, 0)),
}
#: Percentiles of the grey window where a file names none.
WINDOW = (0.5, 99.5)
#: Share of the slices' border and of the whole volume that one value fills where it is what lies outside the head.
BORDER_SHARE, OUTSIDE_SHARE = 0.9, 0.2


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of a NIfTI volume, so that what lies over its slices can be put back where they were cut from.

    shape : as stored; affine : float (4, 4), stored indices to mm; turn : nibabel's orientation (3, 2), stored axes to RAS
    axis : of the volume in RAS order that is cut
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    turn: np.ndarray
    axis: int

    def volume(self, pictures: dict[int, np.ndarray]) -> np.ndarray:
        """uint8 of the stored shape: pictures uint8 (h, w) over the slices of these numbers from 0, and 0 in the others."""
        from nibabel import orientations

        sides = np.array((*self.shape, 1)[:3])[np.argsort(self.turn[:, 0])]
        upright = np.zeros(sides, np.uint8)
        across, down = (int(side) for side in np.delete(sides, self.axis))
        for number, picture in pictures.items():
            fitted = np.asarray(Image.fromarray(picture).resize((across, down), Image.Resampling.BILINEAR))
            np.moveaxis(upright, self.axis, 0)[number] = fitted.T[::-1, ::-1]
        back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), self.turn)
        return np.asarray(orientations.apply_orientation(upright, back)).reshape(self.shape)


@dataclass(frozen=True)
class Stored:
    """How a DICOM slice lies in its file, and the turn that makes it what radiologists look at.

    shape : rows and columns; swapped : whether these change places; down, across : then the steps, 1 or -1
    """

    shape: tuple[int, int]
    swapped: bool = False
    down: int = 1
    across: int = 1

    def shown(self, picture: np.ndarray) -> np.ndarray:
        """A picture (h, w) that lies as stored, as it is looked at."""
        return np.ascontiguousarray((picture.T if self.swapped else picture)[:: self.down, :: self.across])

    def back(self, picture: np.ndarray) -> np.ndarray:
        """What lies over the slice as it is looked at, uint8 (h, w), on the stored pixels."""
        turned = picture[:: self.down, :: self.across]
        image = Image.fromarray(np.ascontiguousarray(turned.T if self.swapped else turned))
        return np.asarray(image.resize(self.shape[::-1], Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Slice:
    """One slice. name : of the file, with #n for the n-th frame or slice from 1; grey : uint8 (h, w); plane where known.

    series : of a DICOM file, the same for files of one series; no UID, which would lead back to the patient
    place : of a slice of a NIfTI volume, the volume's grid and the slice's number from 0
    stored : how a DICOM slice lies in its file
    """

    name: str
    grey: np.ndarray
    chroma: float = 0.0
    plane: str = ""
    series: str = ""
    place: tuple[Grid, int] | None = None
    stored: Stored | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def read_slices(name: str, content: bytes, *, plane: str = "axial", force: bool = False) -> Iterator[Slice]:
    """The slices in a file's bytes. plane : which way a volume is cut; force : take DICOM of another modality than MR.

    Raises `InputRejected` with value, limit and remedy.
    """
    if len(content) > MAX_BYTES:
        raise InputRejected(name, f"{len(content):,} bytes", f"at most {MAX_BYTES:,}", "Give single slices.")
    if starts_as_dicom(content):
        yield from _guarded(name, "DICOM", lambda: _dicom(name, content, force))
    elif _is_nifti(name, content):
        yield from _guarded(name, "NIfTI", lambda: _nifti(name, content, plane))
    elif content.startswith(b"MATLAB"):
        yield from _guarded(name, "MATLAB v7.3", lambda: _matlab(name, content))
    else:
        try:
            read = decode(content)
        except InputRejected:
            if not name.lower().endswith((".dcm", ".ima")):
                raise
            yield from _guarded(name, "DICOM", lambda: _dicom(name, content, force))
            return
        yield Slice(name, read.grey, read.chroma)


def starts_as_dicom(head: bytes) -> bool:
    """By the prefix after the preamble, or without one by a first element of group 2 or 8. head : 132 bytes at least."""
    if head[128:132] == b"DICM":
        return True
    named = head[4:6].isalpha() and head[4:6].isupper()  # its value representation
    if head[:3] == b"\0\x08\0":  # big-endian, which always has one
        return named
    short = 0 < int.from_bytes(head[4:8], "little") <= 128
    return head[:2] in (b"\2\0", b"\x08\0") and head[3:4] == b"\0" and (named or short)


def _is_nifti(name: str, content: bytes) -> bool:
    """By its name, or by the magic in its header, which may be packed (https://nifti.nimh.nih.gov)."""
    if name.lower().endswith((".nii", ".nii.gz")):
        return True
    head = content[:NIFTI_HEADER]
    if head[:2] == GZIP:
        try:
            head = gzip.GzipFile(fileobj=io.BytesIO(content)).read(NIFTI_HEADER)
        except (OSError, EOFError, zlib.error):
            return False
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def position(content: bytes) -> tuple[str, float]:
    """Series and place along its normal of a DICOM file, to order a folder by; ("", 0) for anything else.

    content : its first `ORDERED_BY` bytes are enough
    """
    if not starts_as_dicom(content):
        return "", 0.0
    try:
        tags = ["SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber"]
        header = _data_set(_inflated(content[:ORDERED_BY], ORDERED_BY), PIXEL_DATA - 1, tags)
        normal = _normal(header)
        place = header.get("ImagePositionPatient")
        along = float(np.dot(normal, np.asarray(place, float))) if normal is not None and place else None
        return str(header.get("SeriesInstanceUID", "")), float(
            header.get("InstanceNumber") or 0
        ) if along is None else along
    except Exception:  # a damaged header is said when the file itself is read
        return "", 0.0


def _guarded(name: str, kind: str, read: Any) -> Iterator[Slice]:
    """What `read` gives; anything that a parser stumbles over is a refusal."""
    try:
        yield from read()
    except (InputRejected, ModuleNotFoundError):
        raise
    except MemoryError as error:
        raise InputRejected(name, "more memory than there is", f"a {kind} file", "Give single slices.") from error
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputRejected(name, reason, f"not a readable {kind} file", "Export it again.") from error


def _dicom(name: str, content: bytes, force: bool) -> Iterator[Slice]:
    from pydicom.pixels import apply_modality_lut

    header = _data_set(_inflated(content, HEADER), PIXEL_DATA - 1)
    if "Rows" not in header:
        raise InputRejected(name, "no pixels in it", "a DICOM file of slices", "Give the slices themselves.")
    modality = str(header.get("Modality", ""))
    if modality != "MR" and not force:
        raise InputRejected(
            name, f"modality {modality or 'unknown'}", "MR only", "Use --force to read it all the same."
        )
    colour = str(header.get("PhotometricInterpretation", ""))
    if int(header.get("SamplesPerPixel", 1)) != 1 or colour == "PALETTE COLOR":
        raise InputRejected(name, f"colour ({colour})", "grey slices only", "Give the slice itself, not a screenshot.")
    rows, columns = int(header.get("Rows", 0)), int(header.get("Columns", 0))
    frames = int(header.get("NumberOfFrames", 1) or 1)
    if not 0 < rows * columns <= MAX_PIXELS:
        raise InputRejected(name, f"{columns}x{rows} px", f"1 to {MAX_PIXELS:,} pixels", "Give a single slice.")
    if frames > MAX_FRAMES or frames * rows * columns > MAX_VOXELS:
        raise InputRejected(
            name, f"{frames} frames", f"at most {MAX_FRAMES} and {MAX_VOXELS:,} voxels", "Split the file."
        )
    most = HEADER + frames * rows * columns * int(header.get("BitsAllocated") or 16) // 8
    plain = _inflated(content, min(most, MAX_UNPACKED) + 1)
    if plain is not content and len(plain) > most:
        raise InputRejected(name, "more", f"at most {most:,} bytes inflated, by its header", "Export it again.")
    whole = _data_set(plain, PIXEL_DATA)
    _check_frames(name, whole, frames, rows, columns)
    stored = np.asarray(whole.pixel_array).reshape(frames, rows, columns)
    for index in _in_order(whole, frames):
        groups = _groups(whole, index)
        values = np.asarray(_rescaled(stored[index], groups, whole, apply_modality_lut), np.float64)
        padding = _padding(stored[index], whole)
        grey = _windowed(values, groups, whole, ~padding)
        if whole.get("PhotometricInterpretation") == "MONOCHROME1":
            grey = 255 - grey
        grey[padding] = 0
        spacing = _first(groups, whole, "PixelMeasuresSequence", "PixelSpacing")
        square = _square(grey, *(float(step) for step in spacing)) if spacing else grey
        label = f"{name}#{index + 1}" if frames > 1 else name
        facts = {"modality": modality}
        plane, lies = _orientation(groups, whole, (rows, columns))
        yield Slice(label, lies.shown(square), plane=plane, series=_series(header), stored=lies, facts=facts)


def _inflated(content: bytes, most: int) -> bytes:
    """A deflated DICOM file (PS3.5 A.5) as a plain one, cut after `most` bytes of its data set; any other as it is."""
    if DEFLATED not in content:
        return content
    from pydicom.filereader import read_dataset

    stream = io.BytesIO(content)
    stream.seek(132 if content[128:132] == b"DICM" else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    end = stream.tell()
    if str(meta.get("TransferSyntaxUID", "")) == DEFLATED.decode():
        content = content[:end] + zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[end:], most)
    # Not only in what was taken for the header: pydicom would inflate the rest without a limit.
    return content.replace(DEFLATED, PLAIN)


def _data_set(content: bytes, last: int, tags: list[str] | None = None) -> Any:
    """A DICOM file up to the element of tag `last`; of these tags alone where they are named."""
    from pydicom import uid
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    count = 0

    def ended(tag: int, *_: object) -> bool:
        nonlocal count
        count += 1
        if count > MAX_ELEMENTS:
            raise ValueError(f"more than {MAX_ELEMENTS:,} elements")
        return tag > last

    named: list[Any] | None = [Tag(one) for one in tags] if tags else None
    found = read_partial(io.BytesIO(content), ended, force=True, specific_tags=named)
    if "TransferSyntaxUID" not in found.file_meta:
        implicit, little = found.original_encoding
        plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        found.file_meta.TransferSyntaxUID = plain if little else uid.ExplicitVRBigEndian
    return found


def _check_frames(name: str, whole: Any, frames: int, rows: int, columns: int) -> None:
    """Refuse compressed frames of another number or size than the header says, which would be decoded before it is seen."""
    from pydicom import uid
    from pydicom.encaps import generate_frames
    from pydicom.pixels import get_decoder

    syntax = whole.file_meta.TransferSyntaxUID
    coded = syntax in (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes, *uid.JPEG2000TransferSyntaxes)
    if not coded and syntax != uid.RLELossless:
        return
    if not get_decoder(syntax).is_available:
        raise InputRejected(
            name, syntax.name, "a compression that is not installed", "pip install 'tumorscope[medical]'"
        )
    table = whole.get("ExtendedOffsetTable"), whole.get("ExtendedOffsetTableLengths")
    found = generate_frames(whole.PixelData, number_of_frames=frames, extended_offsets=table if all(table) else None)
    for number, frame in enumerate(found, start=1):
        if number > frames:
            raise InputRejected(name, "more frames", f"{frames} by its header", "Export it again.")
        size = _coded_size(frame) if coded else (rows, columns, 1)
        if size != (rows, columns, 1):
            value = f"{size[1]}x{size[0]} px in {size[2]} colours" if size else "none"
            limit = f"a frame of {columns}x{rows} grey px, by its header"
            raise InputRejected(name, value, limit, "Export it again.")


def _coded_size(code: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and colours that a JPEG, JPEG-LS or JPEG 2000 image says it has; None where they are not found."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(code[at : at + size], "big")

    if code.startswith(b"\xff\xd8"):
        at = 2
        while number(at, 1) == 0xFF:
            marker = number(at + 1, 1)
            if marker in FRAMES:
                return number(at + 5, 2), number(at + 7, 2), number(at + 9, 1)
            if marker != 0xFF and marker not in BEFORE_FRAMES:
                return None
            at += 1 if marker == 0xFF else 2 + number(at + 2, 2)
        return None
    at = 0
    if code.startswith(JP2):  # boxes, the last of them with the code (ISO/IEC 15444-1 I.4)
        while code[at + 4 : at + 8] != b"jp2c":
            if number(at, 4) < 8:
                return None
            at += number(at, 4)
        if b"pclr" in code[:at]:  # a palette: as many colours as it likes
            return None
        at += 16 if number(at, 4) == 1 else 8
    if code[at : at + 4] != b"\xff\x4f\xff\x51":
        return None
    return number(at + 12, 4) - number(at + 20, 4), number(at + 8, 4) - number(at + 16, 4), number(at + 40, 2)


def _series(header: Any) -> str:
    uid = str(header.get("SeriesInstanceUID") or "")
    return hashlib.sha256(uid.encode()).hexdigest()[:8] if uid else ""


def _groups(dataset: Any, frame: int) -> list[Any]:
    """Functional groups of a frame of an enhanced file, its own before the shared ones."""
    found = []
    for key, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        sequence = dataset.get(key)
        if sequence is not None and index < len(sequence):
            found.append(sequence[index])
    return found


def _in_order(dataset: Any, frames: int) -> list[int]:
    """Frames by position along their normal (PS3.3 C.7.6.16.2.3), as stored where not each has a place of its own."""
    if frames == 1:
        return [0]
    groups = [_groups(dataset, frame) for frame in range(frames)]
    places = [_first(one, dataset, "PlanePositionSequence", "ImagePositionPatient") for one in groups]
    cosines = [_first(one, dataset, "PlaneOrientationSequence", "ImageOrientationPatient") for one in groups]
    normal = _normal({"ImageOrientationPatient": cosines[0]})
    if (
        normal is None
        or any(place is None or len(place) != 3 for place in places)
        or any(one != cosines[0] for one in cosines)
    ):
        return list(range(frames))
    along = [float(np.dot(normal, np.asarray(place, float))) for place in places]
    return sorted(range(frames), key=along.__getitem__) if len(set(along)) == frames else list(range(frames))


def _first(groups: list[Any], dataset: Any, sequence: str, tag: str) -> Any:
    """A tag from the frame's groups, else from the file."""
    for group in groups:
        inner = group.get(sequence)
        if inner and inner[0].get(tag) is not None:
            return inner[0].get(tag)
    return dataset.get(tag)


def _rescaled(frame: np.ndarray, groups: list[Any], dataset: Any, lut: Any) -> np.ndarray:
    for group in groups:
        inner = group.get("PixelValueTransformationSequence")
        if inner:
            return frame * float(inner[0].RescaleSlope) + float(inner[0].RescaleIntercept)
    return np.asarray(lut(frame, dataset))


def _padding(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Where nothing was measured, bool (h, w): stored values from the padding value to its limit (PS3.3 C.7.5.1.1.2)."""
    ends = [dataset.get(tag) for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None or stored.dtype.kind not in "iu":
        return np.zeros(stored.shape, bool)
    # A negative value may be written as a number without sign, as wide as the pixels.
    low, high = sorted(np.array([end for end in ends if end is not None] * 2, np.int64).astype(stored.dtype)[:2])
    return np.asarray((stored >= low) & (stored <= high))


def _windowed(values: np.ndarray, groups: list[Any], dataset: Any, inside: np.ndarray) -> np.ndarray:
    """uint8 by the file's window and its function (PS3.3 C.11.2.1.2 and C.11.2.1.3; the first of several windows).

    By the file's table of grey values where there is no window; between percentiles where there is neither, or one of no use.
    inside : bool (h, w), the pixels that percentiles are taken of
    """
    centre, width, function = (
        _first(groups, dataset, "FrameVOILUTSequence", tag) for tag in ("WindowCenter", "WindowWidth", "VOILUTFunction")
    )
    linear = function not in ("LINEAR_EXACT", "SIGMOID")
    span = 0.0 if centre is None or width is None else float(np.ravel(width)[0])
    if not (span >= 1 if linear else span > 0):
        table = _first(groups, dataset, "FrameVOILUTSequence", "VOILUTSequence")
        little = getattr(dataset, "original_encoding", (None, True))[1]
        looked_up = _looked_up(values, table[0], "<u2" if little else ">u2") if table else None
        measured = values[inside] if inside.any() else values
        return _between(values, *np.percentile(measured, WINDOW)) if looked_up is None else looked_up
    away = values - float(np.ravel(centre)[0])
    if function == "SIGMOID":
        shown = 1 / (1 + np.exp((-4 * away / span).clip(-100, 100)))
    elif function == "LINEAR_EXACT":
        shown = away / span + 0.5
    else:
        shown = (away + 0.5) / max(span - 1, 1e-9) + 0.5
    return np.round((shown * 255).clip(0, 255)).astype(np.uint8)


def _looked_up(values: np.ndarray, table: Any, words: str) -> np.ndarray | None:
    """uint8 by a VOI LUT (PS3.3 C.11.2.1.1): values below and above it have its first and last entry; None for a broken one.

    words : dtype of its entries where they come as bytes, unless there is a byte for each. (pydicom wraps long tables of 8 bits.)
    """
    length, first, bits = (int(number) for number in table.LUTDescriptor)
    length = length or 2**16
    data = table.LUTData
    entries = np.frombuffer(data, np.uint8 if len(data) == length else words) if isinstance(data, bytes) else data
    if len(entries) < length or not 8 <= bits <= 16:
        return None
    at = np.round(values - first).clip(0, length - 1).astype(int)
    return np.round(np.asarray(entries, float)[at] * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.round(((values - low) * (255 / max(high - low, 1e-9))).clip(0, 255)).astype(np.uint8)


def _square(grey: np.ndarray, down: float, across: float) -> np.ndarray:
    """The slice with square pixels; `down` and `across` are the distances between pixels."""
    if not (down > 0 and across > 0) or abs(down / across - 1) < 0.01:
        return grey
    height, width = grey.shape
    step = min(down, across)
    size = max(1, round(width * across / step)), max(1, round(height * down / step))
    if max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS:
        limit = f"at most {MAX_SIDE:,} square pixels a side and {MAX_PIXELS:,} in all"
        raise InputRejected("spacing", f"{down:g} by {across:g}", limit, "Resample it.")
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))


def _normal(header: Any) -> np.ndarray | None:
    cosines = header.get("ImageOrientationPatient")
    if not cosines or len(cosines) != 6:
        return None
    along = np.asarray(cosines, float)
    return np.cross(along[:3], along[3:])


def _orientation(groups: list[Any], dataset: Any, shape: tuple[int, int]) -> tuple[str, Stored]:
    """The plane whose normal is nearest, and how the slice lies against the way radiologists look at it, by the nearest axes."""
    cosines = _first(groups, dataset, "PlaneOrientationSequence", "ImageOrientationPatient")
    normal = _normal({"ImageOrientationPatient": cosines})
    if normal is None:
        return "", Stored(shape)
    plane = ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]
    # How far columns and rows (in this order down the table) run along the axes that are looked along.
    along = np.asarray(cosines, float).reshape(2, 3) @ np.array(LOOKED_ALONG[plane], float).T
    swapped = bool(np.abs(along[[0, 1], [1, 0]]).sum() > np.abs(np.diag(along)).sum() + 1e-6)
    across, down = np.diag(along[::-1] if swapped else along)
    return plane, Stored(shape, swapped, -1 if down < 0 else 1, -1 if across < 0 else 1)


def _nifti(name: str, content: bytes, plane: str) -> Iterator[Slice]:
    import nibabel

    if content[:2] == GZIP:
        with gzip.open(io.BytesIO(content)) as packed:
            content = packed.read(MAX_UNPACKED + 1)
        if len(content) > MAX_UNPACKED:
            raise InputRejected(name, "more", f"at most {MAX_UNPACKED:,} bytes unpacked", "Give fewer volumes.")
    head = int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big")
    kind = nibabel.Nifti2Image if 540 in head else nibabel.Nifti1Image
    image = kind.from_bytes(content)
    shape = image.shape + (1,) * (3 - len(image.shape))
    if len(shape) > 3 and np.prod(shape[3:]) > 1:
        raise InputRejected(name, f"{len(shape)} dimensions", "one volume a file", "Save one of them.")
    if not 0 < np.prod(shape) <= MAX_VOXELS or max(shape[:3]) ** 2 > MAX_PIXELS:
        raise InputRejected(name, "x".join(map(str, shape)), f"1 to {MAX_VOXELS:,} voxels", "Crop or resample it.")
    stored = image.shape
    if len(stored) != 3:
        image = kind(np.asarray(image.dataobj, np.float32).reshape(shape[:3]), image.affine)
    upright = nibabel.as_closest_canonical(image)
    volume = np.asarray(upright.dataobj, np.float32)
    axis, steps = PLANES[plane], nibabel.affines.voxel_sizes(upright.affine)
    volume = _grounded(volume, axis)
    some = volume.ravel()[:: -(-volume.size // LOOKED_AT)]
    inside = some[some > volume.min()]
    low, high = np.percentile(inside if inside.size else some, WINDOW)
    if low == high:  # one value, as of a mask: white on black
        low = min(float(volume.min()), float(low))
    across, down = (steps[other] for other in range(3) if other != axis)
    grid = Grid(stored, image.affine, nibabel.io_orientation(image.affine), axis)
    for number in range(volume.shape[axis]):
        # Up is up or front, and the patient's right is on the left, as radiologists look at it.
        shown = np.take(volume, number, axis)[::-1, ::-1].T
        square = _square(_between(shown, low, high), down, across)
        yield Slice(f"{name}#{number + 1}", square, plane=plane, place=(grid, number))


def _grounded(volume: np.ndarray, axis: int) -> np.ndarray:
    """The volume, cut along `axis`, with its least value where nothing was measured: NaN, and the 0 around z-scored tissue.

    That 0 lies between values of tissue, and would be grey.
    """
    finite = np.isfinite(volume)
    if not finite.all():
        known = volume[finite] if finite.any() else np.zeros(1, np.float32)
        volume = np.nan_to_num(volume, nan=known.min(), posinf=known.max(), neginf=known.min())
    least = volume.min()
    if least < 0:
        slices = np.moveaxis(volume, axis, 0)
        border = np.concatenate([slices[:, [0, -1], :].ravel(), slices[:, :, [0, -1]].ravel()])
        outside = np.median(border)
        same = volume == outside
        if (border == outside).mean() >= BORDER_SHARE and same.mean() > OUTSIDE_SHARE:
            volume = np.where(same, least, volume)
    return volume


def _matlab(name: str, content: bytes) -> Iterator[Slice]:
    """The slice in a file of the figshare set: a struct cjdata with an image, stretched from its least to its largest value."""
    import h5py

    if not content.startswith(b"MATLAB 7.3"):
        raise InputRejected(name, content[:10].decode("latin-1"), "MATLAB 7.3 or newer", "Save it with -v7.3.")
    with h5py.File(io.BytesIO(content), "r") as file:
        stored = file.get("cjdata/image")
        if not isinstance(stored, h5py.Dataset) or stored.ndim != 2 or stored.dtype.kind not in "iuf":
            raise InputRejected(name, ", ".join(file)[:80], "a matrix cjdata.image", "Save the slice as it is there.")
        if not 0 < stored.size <= MAX_PIXELS:
            raise InputRejected(name, f"{stored.size:,} px", f"1 to {MAX_PIXELS:,} pixels", "Give a single slice.")
        if stored.chunks and math.prod(stored.chunks) > MAX_PIXELS:  # each is unpacked whole
            size = "x".join(map(str, stored.chunks))
            raise InputRejected(name, f"chunks of {size} px", f"at most {MAX_PIXELS:,} pixels", "Save it again.")
        # HDF5 holds MATLAB's columns as rows.
        values = np.nan_to_num(np.asarray(stored[()], np.float64)).T
    yield Slice(name, _between(values, float(values.min()), float(values.max())))


def read_file(path: Path) -> bytes:
    """Bytes of a regular file within the limit; `InputRejected` for another."""
    if not stat.S_ISREG(path.stat().st_mode):  # a device may never end, a pipe never begin
        raise InputRejected(
            path.name, "no regular file", "files only", "Save it as a file, or give - for standard input."
        )
    with path.open("rb") as stream:
        content = read_stream(stream)
    if len(content) > MAX_BYTES:
        raise InputRejected(path.name, "more", f"at most {MAX_BYTES:,} bytes", "Give single slices.")
    return content


def read_stream(stream: BinaryIO) -> bytes:
    """What a stream holds, one byte more than the limit at most, so that `read_slices` refuses it."""
    return stream.read(MAX_BYTES + 1)
