"""Bytes of one image file to pixels and facts. Limits are set before decoding; what cannot be read says why.

Depths: 8-bit grey stays; colour and palette go to luma (ITU-R 601, Pillow's "L"); transparency is laid on black. More than 8
bits are values without a window, and get that of `data.window`; an 8-bit slice stored as 16-bit (x257) comes back unchanged.
A TIFF whose 0 is white is turned round, at every depth.

Pixels are turned as the file's EXIF orientation says, as viewers show them. A file of several frames is refused, since it is no
slice.
"""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from tumorscope.data.window import greys
from tumorscope.errors import InputRejected

#: Pixels of one slice; 4096 x 4096 is four times the largest MR matrix in use.
MAX_PIXELS = 4096 * 4096
#: The longest side of a scanned film, the shortest that can be trained on, and the shortest that still shows anatomy.
MAX_SIDE = 8192
MIN_SIDE, MIN_ANSWERED = 16, 32
#: Least share of foreground in the outermost row and column of a head.
EDGE_SHARE = 0.03
#: TIFF's tag that says what 0 is; its value 0 is white.
PHOTOMETRIC = 262
#: How Pillow's modes of more than 8 bits begin.
DEEP = ("I", "F")
#: Sides of a pixel cache.
CACHE_SIDES = (8, 1024)
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "PPM")
#: What is said of bytes that begin as no image does.
NO_IMAGE = "no image inside"


@dataclass(frozen=True)
class Decoded:
    """Pixels of one file and what the file says of itself.

    grey : uint8 (height, width), 0 black to 255 white
    pixels_sha256 : of size and decoded RGB bytes, the same for two files with the same pixels
    quantisation : mean of the JPEG luminance table, NaN where there is none
    chroma : mean distance between the largest and smallest colour channel, 0 for grey to 255
    rules : by which the pixels came out otherwise in earlier versions, in one text: upright (turned by EXIF), windowed (deep)
    """

    grey: np.ndarray
    pixels_sha256: str
    width: int
    height: int
    mode: str
    format: str
    quantisation: float
    chroma: float = 0.0
    rules: str = ""


Read = TypeVar("Read")


def decode(content: bytes) -> Decoded:
    """Decode an image; raises `InputRejected` with value, limit and remedy for anything that is not a readable slice."""
    return _opened(content, _facts)


def decode_mask(content: bytes) -> np.ndarray:
    """Values of a mask (h, w), 0 outside and more inside, in their own depth: they are levels, and a window would part them.

    Raises `InputRejected` as `decode` does.
    """
    return _opened(content, _levels)


def _opened(content: bytes, read: Callable[[Image.Image], Read]) -> Read:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_size(image.size)
                _check_frames(image)
                return read(image)
        except InputRejected:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            value = str(error).split(" exceeds")[0]  # what follows is Pillow's limit, which is not ours
            raise InputRejected("pixels", value, f"at most {MAX_PIXELS:,} pixels", "Shrink the image.") from error
        except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error and others
            raise InputRejected(
                f"{len(content):,} bytes",
                _reason(error),
                f"not a whole image of a known format ({', '.join(FORMATS)})",
                "Export the slice again.",
            ) from error


def check_side(size: int) -> None:
    """Refuse a pixel cache of a size that is of no use or would fill memory."""
    if not CACHE_SIDES[0] <= size <= CACHE_SIDES[1]:
        limit = f"between {CACHE_SIDES[0]} and {CACHE_SIDES[1]} pixels"
        raise InputRejected("size", size, limit, "Choose another size.")


def shrink(grey: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 (height, width) to (size, size), sides stretched as the student report did: box filter down, bilinear up."""
    if grey.shape == (size, size):
        return grey
    return np.asarray(
        Image.fromarray(grey).resize(
            (size, size), Image.Resampling.BOX if _larger(grey, size) else Image.Resampling.BILINEAR
        )
    )


def enlarge(grey: np.ndarray, size: int, filter: str) -> np.ndarray:
    """Resize uint8 (s, s) to (size, size) with Pillow's filter of that name: nearest, bilinear, bicubic or lanczos."""
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling[filter.upper()]))


def as_input(grey: np.ndarray, size: int, enlarged_from: int = 0, filter: str = "bicubic") -> np.ndarray:
    """A slice uint8 (height, width) as a recipe's `input` has it after cropping: (size, size)."""
    if not enlarged_from:
        return shrink(grey, size)
    return enlarge(shrink(grey, enlarged_from), size, filter)


def crop_to_head(grey: np.ndarray) -> np.ndarray:
    """The square around the head, uint8 (s, s): border off, proportions kept, black beside the head.

    Foreground is what is brighter than a tenth of the 99th percentile; the head ends where fewer than 3 % of a row or column
    are foreground, so that specks and letters outside do not count. A slice without any is given back whole.
    """
    return crop_like(grey, grey)


def head_square(grey: np.ndarray) -> tuple[int, int, int]:
    """Top, left and side of the square that `crop_to_head` cuts; it may leave the slice. (0, 0, 0) where there is no head."""
    box = head_box(grey)
    if box is None:
        return 0, 0, 0
    top, bottom, left, right = box
    side = max(bottom - top, right - left)
    return top - (side - (bottom - top)) // 2, left - (side - (right - left)) // 2, side


def crop_like(other: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """What lies over the slice `grey`, such as its mask, uint8 of any size, cropped to the same square."""
    box = head_box(grey)
    if box is None:
        return other
    top, bottom, left, right = (
        round(edge * size / full)
        for edge, size, full in zip(box, np.repeat(other.shape, 2), np.repeat(grey.shape, 2), strict=True)
    )
    height, width = bottom - top, right - left
    rows, columns = (now / full for now, full in zip(other.shape, grey.shape, strict=True))
    side = max(height / rows, width / columns)  # in the slice's own pixels, which are square
    square = np.zeros((round(side * rows), round(side * columns)), np.uint8)
    down, across = (square.shape[0] - height) // 2, (square.shape[1] - width) // 2
    square[down : down + height, across : across + width] = other[top:bottom, left:right]
    return square


def head_box(grey: np.ndarray) -> tuple[int, int, int, int] | None:
    """Top, bottom, left and right of the head; None where there is none."""
    bright = grey > max(1.0, 0.1 * _percentile(grey, 0.99))
    spans = []
    for axis in (1, 0):
        inside = np.flatnonzero(bright.mean(axis=axis) > EDGE_SHARE)
        if len(inside) < MIN_SIDE // 2:
            return None
        spans.append((int(inside[0]), int(inside[-1]) + 1))
    (top, bottom), (left, right) = spans
    return top, bottom, left, right


def _percentile(grey: np.ndarray, share: float) -> float:
    """What `np.percentile` gives, by counting: a tenth of its time on uint8."""
    below = np.bincount(grey.ravel(), minlength=256).cumsum()
    rank = share * (grey.size - 1)
    low, high = (int(np.searchsorted(below, place, side="right")) for place in (np.floor(rank), np.ceil(rank)))
    return low + (high - low) * (rank - np.floor(rank))


def _larger(grey: np.ndarray, size: int) -> bool:
    return min(grey.shape) >= size


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputRejected("size", f"{width}x{height} px", f"at most {MAX_PIXELS:,} pixels", "Shrink the image.")
    if max(size) > MAX_SIDE:
        raise InputRejected("size", f"{width}x{height} px", f"at most {MAX_SIDE} px a side", "Give a single slice.")
    if min(size) < MIN_SIDE:
        limit = f"at least {MIN_SIDE} px a side to train on, {MIN_ANSWERED} for an answer"
        raise InputRejected("size", f"{width}x{height} px", limit, "Give the whole slice.")


def _check_frames(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # what telephones write: a photograph with previews behind it
        raise InputRejected("frames", frames, "one slice a file", "Save each frame as a file of its own.")


def _facts(image: Image.Image) -> Decoded:
    turned = _turned_upright(image)
    grey, rgb = _pixels(image)
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode() + rgb).hexdigest()
    tables = getattr(image, "quantization", None)
    quantisation = float(np.mean(tables[min(tables)])) if tables else float("nan")
    facts = image.width, image.height, image.mode, image.format or "", quantisation
    known = {"upright": turned, "windowed": image.mode.startswith(DEEP)}
    rules = " ".join(rule for rule, holds in known.items() if holds)
    return Decoded(grey, digest, *facts, _chroma(image, rgb), rules)


def _turned_upright(image: Image.Image) -> bool:
    """Turn an image as its EXIF orientation says; whether that was left to do, as it is but for TIFF, which Pillow loads so."""
    image.load()
    lies = 1
    with contextlib.suppress(Exception):  # of damaged EXIF, which viewers pass over
        lies = image.getexif().get(ExifTags.Base.Orientation, 1)
        ImageOps.exif_transpose(image, in_place=True)
    return lies in range(2, 9)


def _chroma(image: Image.Image, rgb: bytes) -> float:
    """Of every fourth pixel each way, which is enough to tell a photograph."""
    if image.mode in ("L", "1") or image.mode.startswith(DEEP):
        return 0.0
    pixels = np.frombuffer(rgb, np.uint8).reshape(image.height, image.width, 3)[::4, ::4]
    return float(np.ptp(pixels, axis=2).mean())


def _pixels(image: Image.Image) -> tuple[np.ndarray, bytes]:
    """Grey pixels, and RGB bytes for the pixel hash (grey repeated where there is no colour)."""
    if image.mode.startswith(DEEP):
        grey = _from_deep(np.asarray(image), _white_is_0(image))
        return grey, np.repeat(grey[..., None], 3, axis=2).tobytes()
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    rgb = image.convert("RGB")
    luma = image if image.mode == "L" else rgb.convert("L")
    return np.asarray(luma), rgb.tobytes()


def _levels(image: Image.Image) -> np.ndarray:
    _turned_upright(image)
    if not image.mode.startswith(DEEP):
        return _pixels(image)[0]
    values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return values.max() - values if _white_is_0(image) else values


def _white_is_0(image: Image.Image) -> bool:
    """Whether pixels of more than 8 bits are to be turned round; Pillow turns those of 8 alone."""
    return image.format == "TIFF" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0


def _from_deep(values: np.ndarray, white_is_0: bool) -> np.ndarray:
    """16- or 32-bit grey (h, w) to uint8."""
    if values.dtype.kind in "iu" and values.min() >= 0 and 255 < values.max() <= 65535 and not (values % 257).any():
        grey = (values // 257).astype(np.uint8)
        return 255 - grey if white_is_0 else grey
    return np.asarray(greys(values.astype(np.float32)[None], white_is_0)[0])


def _reason(error: Exception) -> str:
    text = str(error).replace("<_io.BytesIO object at ", "").split("\n")[0]
    return NO_IMAGE if text.startswith("cannot identify") else text or type(error).__name__
