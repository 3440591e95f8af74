"""NIfTI-1 and -2 volumes (https://nifti.nimh.nih.gov), packed or not."""

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tumorscope.data.decode import MAX_PIXELS
from tumorscope.data.window import greys
from tumorscope.errors import InputRejected
from tumorscope.inference.reading.slices import MAX_UNPACKED, MAX_VOXELS, Grid, Slice, square

#: Bytes of a header, of both versions.
HEADER = 540
#: Axis of a volume in RAS order that each plane cuts.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
GZIP = b"\x1f\x8b"
#: What is said of a volume whose header has neither matrix; nibabel takes its first axis to run from right to left.
UNPLACED = "no qform and no sform: how it lies is not known, and it may be mirrored or turned"


def is_nifti(name: str, content: bytes) -> bool:
    """By its name, or by the magic in its header, which may be packed."""
    if name.lower().endswith((".nii", ".nii.gz")):
        return True
    head = content[:HEADER]
    if head[:2] == GZIP:
        try:
            head = gzip.GzipFile(fileobj=io.BytesIO(content)).read(HEADER)
        except (OSError, EOFError, zlib.error):
            return False
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def read(name: str, content: bytes, plane: str) -> Iterator[Slice]:
    """The slices of a volume, cut by `plane`, turned as radiologists look at them."""
    import nibabel

    if content[:2] == GZIP:
        with gzip.open(io.BytesIO(content)) as packed:
            content = packed.read(MAX_UNPACKED + 1)
        if len(content) > MAX_UNPACKED:
            raise InputRejected(name, "more", f"at most {MAX_UNPACKED:,} bytes unpacked", "Give fewer volumes.")
    head = int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big")
    kind = nibabel.Nifti2Image if 540 in head else nibabel.Nifti1Image
    image = kind.from_bytes(content)
    if image.get_data_dtype().kind not in "iuf":
        what = "complex" if image.get_data_dtype().kind == "c" else "coloured"
        raise InputRejected(name, f"{what} voxels", "grey values only", "Save the magnitude or one channel.")
    shape = image.shape + (1,) * (3 - len(image.shape))
    if len(shape) > 3 and np.prod(shape[3:]) > 1:
        raise InputRejected(name, f"{len(shape)} dimensions", "one volume a file", "Save one of them.")
    if not 0 < np.prod(shape) <= MAX_VOXELS or max(shape[:3]) ** 2 > MAX_PIXELS:
        raise InputRejected(name, "x".join(map(str, shape)), f"1 to {MAX_VOXELS:,} voxels", "Crop or resample it.")
    voxels: Any = image.dataobj  # nibabel types the proxy as any array
    least = voxels.offset + math.prod(shape) * image.get_data_dtype().itemsize
    if len(content) < least:
        remedy = "Export it again, or save a pair of .hdr and .img as .nii."
        raise InputRejected(name, f"{len(content):,} bytes", f"{least:,} by its header", remedy)
    if not np.isfinite(image.affine).all() or np.linalg.det(image.affine[:3, :3]) == 0:
        raise InputRejected(name, "a qform or sform that spans no volume", "directions and spacing", "Export it again.")
    values = np.empty(shape[:3], np.float32, order="F")
    for number in range(shape[2]):  # one by one, since nibabel scales in float64
        values[..., number] = voxels.reshape(shape[:3])[..., number]
    upright = nibabel.as_closest_canonical(kind(values, image.affine))
    axis, steps = PLANES[plane], nibabel.affines.voxel_sizes(upright.affine)
    slices = greys(np.moveaxis(np.asarray(upright.dataobj), axis, 0))
    across, down = (steps[other] for other in range(3) if other != axis)
    warned = _doubts(image.header)
    grid = Grid(image.shape, image.affine, nibabel.io_orientation(image.affine), axis)
    for number, one in enumerate(slices):
        # Up is up or front, and the patient's right is on the left, as radiologists look at it.
        grey = square(one[::-1, ::-1].T, down, across)
        yield Slice(f"{name}#{number + 1}", grey, plane=plane, place=(grid, number), warned=warned)


def _doubts(header: Any) -> tuple[str, ...]:
    """What a header leaves out or contradicts itself in, that makes it doubtful how a volume lies."""
    import nibabel

    if not (header["qform_code"] or header["sform_code"]):
        return (UNPLACED,)
    if header["qform_code"] and header["sform_code"]:
        try:
            one, other = ("".join(nibabel.aff2axcodes(matrix)) for matrix in (header.get_qform(), header.get_sform()))
        except ValueError:
            return ("qform that is no rotation: the sform alone says how it lies",)
        if one != other:
            return (f"qform {one} and sform {other}: they disagree on how it lies, and it may be mirrored or turned",)
    return ()
