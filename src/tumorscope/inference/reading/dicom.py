"""DICOM files, single and multi-frame, with and without a preamble, plain, deflated and compressed.

What a file says of a patient is neither kept nor shown.
"""

import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tumorscope.data.decode import MAX_PIXELS
from tumorscope.data.sources import readable
from tumorscope.data.window import greys
from tumorscope.errors import InputRejected
from tumorscope.inference.reading.dicom_compressed import check_frames
from tumorscope.inference.reading.dicom_frame import first, groups_of, padding_of, rescaled, windowed
from tumorscope.inference.reading.slices import MAX_UNPACKED, MAX_VOXELS, Slice, Stored, square

MAX_FRAMES = 4096
#: Bytes of a header, of what a folder is ordered by, and elements of a data set.
HEADER, ORDERED_BY, MAX_ELEMENTS = 16 * 2**20, 2**20, 20_000
#: The last tag that a folder is ordered by, and the last that is read.
ORIENTATION, PIXEL_DATA = 0x00200037, 0x7FE00010
#: The deflated transfer syntax and the plain one, as long.
DEFLATED, PLAIN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
#: What tells slices at the same places of one series apart: a tag of the file, or of this sequence of a frame's groups.
STACKS = (
    ("MREchoSequence", "EchoTime"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("FrameContentSequence", "TemporalPositionIdentifier"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent"),
)
#: Sequence and tag that say how a frame lies.
LIES = ("PlaneOrientationSequence", "ImageOrientationPatient")
#: UID of secondary capture, and how those of its kinds begin.
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: Body parts that are none of the head (PS3.16 annex L), as a word or at the end of one (LSPINE), and what they may be beside.
ELSEWHERE = re.compile(
    "(ABDOMEN|ANKLE|AORTA|ARM|BACK|BLADDER|BREAST|CALCANEUS|CALF|CHEST|CLAVICLE|COCCYX|COLON|ELBOW|EXTREMITY|FEMUR|FINGER"
    "|FOOT|FEET|GROIN|HAND|HEART|HIP|HUMERUS|KIDNEY|KNEE|LEG|LIVER|LUNG|MEDIASTINUM|PANCREAS|PATELLA|PELVIS|PROSTATE|RADIUS"
    "|RIB|SACRUM|SCAPULA|SHOULDER|SPINE|SPLEEN|STERNUM|STOMACH|TESTIS|THIGH|THORAX|THUMB|TIBIA|TOE|ULNA|UTERUS|WRIST)S?(?![A-Z])"
)
OF_THE_HEAD = ("HEAD", "BRAIN", "SKULL")
#: Objects without pixels (PS3.3 annex A), as their SOP classes are named (PS3.6 table A-1) without " Storage".
NO_PIXELS = re.compile(
    r".+ (Presentation State|SR|Waveform)|Key Object Selection Document|Encapsulated \w+|Raw Data|MR Spectroscopy"
    r"|RT (Structure Set|(Ion )?Plan|.+ Record)|(Deformable )?Spatial (Registration|Fiducials)|Surface Segmentation"
    r"|Tractography Results|Real World Value Mapping|Media Storage Directory"
)
#: Where columns and rows of a slice run as radiologists look at it; x is left, y is back, z is up (PS3.3 C.7.6.2.1.1).
LOOKED_ALONG = {
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "axial": ((1, 0, 0), (0, 1, 0)),
}


class Place(NamedTuple):
    """Where a DICOM file stands in its folder; nothing is known of a damaged one.

    series : SeriesInstanceUID; along : mm along the slice's normal, its InstanceNumber where it does not say
    kind : of an object without pixels, in the standard's words; "" for what may be a slice
    instance : SOPInstanceUID, and InstanceNumber for files that were all given one UID; "" without a UID
    acquisition : AcquisitionNumber; 0 without one, and where the file does not say its place
    """

    series: str = ""
    along: float = 0.0
    kind: str = ""
    instance: str = ""
    acquisition: int = 0


def position(content: bytes) -> Place:
    """What a folder is ordered by. content : a DICOM file's first `ORDERED_BY` bytes are enough"""
    try:
        tags = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "InstanceNumber"]
        tags += ["AcquisitionNumber", "ImagePositionPatient", "ImageOrientationPatient"]
        header = _data_set(_inflated(content[:ORDERED_BY], ORDERED_BY), ORIENTATION, tags)
        normal = _normal(header)
        place = header.get("ImagePositionPatient")
        along = float(np.dot(normal, np.asarray(place, float))) if normal is not None and place else None
        uid, number = header.get("SOPInstanceUID"), float(header.get("InstanceNumber") or 0)
        return Place(
            str(header.get("SeriesInstanceUID", "")),
            number if along is None else along,
            _kind(header),
            f"{uid} {number:g}" if uid else "",
            0 if along is None else int(header.get("AcquisitionNumber") or 0),
        )
    except Exception:  # a damaged header is said when the file itself is read
        return Place()


def stored_pixels(content: bytes) -> bytes:
    """Digest of a DICOM file's pixels as they are stored; of the whole file where they cannot be told from the rest."""
    try:
        pixels = _data_set(_inflated(content, MAX_UNPACKED), PIXEL_DATA, ["PixelData"]).get("PixelData")
    except Exception:  # a damaged file is said when it is read
        pixels = None
    return hashlib.sha256(pixels or content).digest()


def _kind(header: Any) -> str:
    """See `Place`: private classes and those not known here have no name, and are read."""
    from pydicom.uid import UID

    storage = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")
    name = UID(str(storage)).name.removesuffix(" Storage")
    return name if NO_PIXELS.fullmatch(name) else ""


def read(name: str, content: bytes, force: bool) -> Iterator[Slice]:
    """The frames, as `_in_order` puts them. force : take another modality than MR."""
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
    if "MOSAIC" in np.ravel(header.get("ImageType", "")):
        raise InputRejected(name, "a mosaic of slices", "one slice a frame", "Convert it to NIfTI, a volume a file.")
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
    check_frames(name, whole, frames, rows, columns)
    stored = _values(name, whole).reshape(frames, rows, columns)
    shown, warned = _shown(stored, whole), _doubts(header)
    for index in _in_order(whole, frames):
        groups, grey = groups_of(whole, index), shown[index]
        spacing = first(groups, whole, "PixelMeasuresSequence", "PixelSpacing")
        if spacing:
            grey = square(grey, *(float(step) for step in spacing))
        label = f"{name}#{index + 1}" if frames > 1 else name
        plane, lies = _orientation(groups, whole, (rows, columns))
        yield Slice(
            label,
            lies.shown(grey),
            plane=plane,
            series=_series(groups, whole),
            stored=lies,
            warned=warned,
        )


def _values(name: str, whole: Any) -> np.ndarray:
    """Stored values of all frames; those that old files keep in the upper bits of their words, by HighBit, are moved down."""
    from pydicom.uid import RLELossless

    syntax = whole.file_meta.TransferSyntaxUID
    coded = syntax.is_encapsulated and syntax != RLELossless  # and says itself how many bits it has
    allocated, bits = (int(whole.get(tag) or 16) for tag in ("BitsAllocated", "BitsStored"))
    high = whole.get("HighBit")
    if coded or "PixelData" not in whole or high in (None, bits - 1):
        return np.asarray(whole.pixel_array)
    if not bits <= high < allocated:
        raise InputRejected(name, f"HighBit {high}", f"{bits - 1} to {allocated - 1} by its header", "Export it again.")
    whole.BitsStored = high + 1
    values = np.asarray(whole.pixel_array)
    # Values that need no bit above BitsStored lie at the bottom, whatever a careless header says.
    lie_high = (values >= 1 << bits).any() or (values < -(1 << bits - 1)).any()
    return values >> (high + 1 - bits) if lie_high else values


def _doubts(header: Any) -> tuple[str, ...]:
    """What a file says of itself, with the tag, that is not said of slices as a scanner makes them, of a head."""
    storage, kind, part = (header.get(tag) for tag in ("SOPClassUID", "ImageType", "BodyPartExamined"))
    found = []
    if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        found.append("BurnedInAnnotation YES: writing in the pixels may be taken for tissue")
    if f"{storage}.".startswith(f"{SECONDARY_CAPTURE}."):
        found.append("SOPClassUID Secondary Capture: a picture of a slice, not the slice as it was measured")
    if "SCREEN" in (image_type := _said(kind)).upper():
        found.append(f"ImageType {image_type}: a picture of a screen, not the slice as it was measured")
    body = _said(part)
    if ELSEWHERE.search(body.upper()) and not any(name in body.upper() for name in OF_THE_HEAD):
        found.append(f"BodyPartExamined {body}: the model knows heads alone")
    return tuple(found)


def _said(value: Any) -> str:
    """A tag's value or values as text of a line, cut where it is too long for what it should be."""
    return readable("\\".join(str(one) for one in np.ravel(value or "")).strip())[:64]


def _shown(stored: np.ndarray, whole: Any) -> dict[int, np.ndarray]:
    """Grey uint8 (h, w) of every frame by its number: in its own window, those without one in one of them all together."""
    white_is_least = whole.get("PhotometricInterpretation") == "MONOCHROME1"
    shown: dict[int, np.ndarray] = {}
    # One array for all of them; what is not filled takes no memory.
    measured, unstated = np.empty(stored.shape, np.float32), list[int]()
    for index, frame in enumerate(stored):
        groups, padding = groups_of(whole, index), padding_of(frame, whole)
        values = np.asarray(rescaled(np.where(padding, 0, frame), groups, whole), np.float64)
        grey = windowed(values, groups, whole)
        if grey is None:
            values[padding] = np.nan
            measured[len(unstated)] = values
            unstated.append(index)
            continue
        grey = 255 - grey if white_is_least else grey
        grey[padding] = 0
        shown[index] = grey
    if unstated:
        shown |= zip(unstated, greys(measured[: len(unstated)], white_is_least), strict=True)
    return shown


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


def _series(groups: list[Any], dataset: Any) -> str:
    """Which series a slice is of, then which of its stacks: planes of a localiser, and echoes, time points, diffusion weights,
    or magnitude and phase, at the same places, are no neighbours of each other.
    """
    uid = str(dataset.get("SeriesInstanceUID") or "")
    series, part = (hashlib.sha256(text.encode()).hexdigest() for text in (uid, _stack(groups, dataset)))
    return f"{series[:8]}-{part[:4]}" if uid else ""


def _stack(groups: list[Any], dataset: Any) -> str:
    normal = _normal({"ImageOrientationPatient": first(groups, dataset, *LIES)})
    lies = "" if normal is None else np.round(normal, 2) + 0.0  # no -0
    return "|".join(map(str, (lies, *(first(groups, dataset, *tag) for tag in STACKS))))


def _in_order(dataset: Any, frames: int) -> list[int]:
    """Frames by stack, as each first comes, and by position along their normal (PS3.3 C.7.6.16.2.3); as stored where not each
    has a place of its own in its stack.
    """
    if frames == 1:
        return [0]
    stacks: dict[str, int] = {}
    places = list[tuple[int, float]]()
    for frame in range(frames):
        groups = groups_of(dataset, frame)
        normal = _normal({"ImageOrientationPatient": first(groups, dataset, *LIES)})
        place = first(groups, dataset, "PlanePositionSequence", "ImagePositionPatient")
        if normal is None or place is None or len(place) != 3:
            return list(range(frames))
        stack = stacks.setdefault(_stack(groups, dataset), len(stacks))
        places.append((stack, float(np.dot(normal, np.asarray(place, float)))))
    return sorted(range(frames), key=places.__getitem__) if len(set(places)) == frames else list(range(frames))


def _normal(header: Any) -> np.ndarray | None:
    cosines = header.get("ImageOrientationPatient")
    if not cosines or len(cosines) != 6:
        return None
    along = np.asarray(cosines, float)
    normal = np.cross(along[:3], along[3:])
    return normal if np.linalg.norm(normal) > 0.5 else None  # 1, unless they were wiped or lie on each other


def _orientation(groups: list[Any], dataset: Any, shape: tuple[int, int]) -> tuple[str, Stored]:
    """The plane whose normal is nearest, and how the slice lies against the way radiologists look at it, by the nearest axes."""
    cosines = first(groups, dataset, *LIES)
    normal = _normal({"ImageOrientationPatient": cosines})
    if normal is None:
        return "", Stored(shape)
    plane = ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]
    # How far columns and rows (in this order down the table) run along the axes that are looked along.
    along = np.asarray(cosines, float).reshape(2, 3) @ np.array(LOOKED_ALONG[plane], float).T
    swapped = bool(np.abs(along[[0, 1], [1, 0]]).sum() > np.abs(np.diag(along)).sum() + 1e-6)
    across, down = np.diag(along[::-1] if swapped else along)
    return plane, Stored(shape, swapped, -1 if down < 0 else 1, -1 if across < 0 else 1)
