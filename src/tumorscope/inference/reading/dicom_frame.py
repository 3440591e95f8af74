"""A frame of a DICOM file: what the file says of it, and its grey values (PS3.3 C.7.6.3, C.11.1, C.11.2)."""

from typing import Any

import numpy as np


def groups_of(dataset: Any, frame: int) -> list[Any]:
    """Functional groups of a frame of an enhanced file, its own before the shared ones."""
    found = []
    for key, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        sequence = dataset.get(key)
        if sequence is not None and index < len(sequence):
            found.append(sequence[index])
    return found


def first(groups: list[Any], dataset: Any, sequence: str, tag: str) -> Any:
    """A tag from the frame's groups, else from the file."""
    for group in groups:
        inner = group.get(sequence)
        if inner and inner[0].get(tag) is not None:
            return inner[0].get(tag)
    return dataset.get(tag)


def rescaled(frame: np.ndarray, groups: list[Any], dataset: Any) -> np.ndarray:
    """Stored values as the file says that they are measured."""
    from pydicom.pixels import apply_modality_lut

    for group in groups:
        inner = group.get("PixelValueTransformationSequence")
        if inner:
            return frame * float(inner[0].RescaleSlope) + float(inner[0].RescaleIntercept)
    return np.asarray(apply_modality_lut(frame, dataset))


def padding_of(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Where nothing was measured, bool (h, w): stored values from the padding value to its limit (PS3.3 C.7.5.1.1.2), NaN."""
    ends = [dataset.get(tag) for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None or stored.dtype.kind not in "iu":
        return ~np.isfinite(stored)
    # A negative value may be written as a number without sign, as wide as the pixels.
    low, high = sorted(np.array([end for end in ends if end is not None] * 2, np.int64).astype(stored.dtype)[:2])
    return np.asarray((stored >= low) & (stored <= high))


def windowed(values: np.ndarray, groups: list[Any], dataset: Any) -> np.ndarray | None:
    """uint8 by the file's window and its function (PS3.3 C.11.2.1.2 and C.11.2.1.3; the first of several windows).

    By the file's table of grey values where there is no window; None where there is neither, or one of no use.
    """
    centre, width, function = (
        first(groups, dataset, "FrameVOILUTSequence", tag) for tag in ("WindowCenter", "WindowWidth", "VOILUTFunction")
    )
    linear = function not in ("LINEAR_EXACT", "SIGMOID")
    span = 0.0 if centre is None or width is None else float(np.ravel(width)[0])
    if not (span >= 1 if linear else span > 0):
        table = first(groups, dataset, "FrameVOILUTSequence", "VOILUTSequence")
        little = getattr(dataset, "original_encoding", (None, True))[1]
        return _looked_up(values, table[0], "<u2" if little else ">u2") if table else None
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
