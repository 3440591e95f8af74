"""NIfTI-1 and -2 volumes (https://nifti.nimh.nih.gov), packed or not."""

import gzip
import io
import zlib
from collections.abc import Iterator

import numpy as np

from tumorscope.data.decode import MAX_PIXELS
from tumorscope.errors import InputRejected
from tumorscope.inference.reading.slices import MAX_UNPACKED, MAX_VOXELS, WINDOW, Grid, Slice, between, square

#: Bytes of a header, of both versions.
HEADER = 540
#: Voxels of a volume that its window is found from.
LOOKED_AT = 2_000_000
#: Axis of a volume in RAS order that each plane cuts.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
GZIP = b"\x1f\x8b"
#: Share of the slices' border and of the whole volume that one value fills where it is what lies outside the head.
BORDER_SHARE, OUTSIDE_SHARE = 0.9, 0.2


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
        voxels = "complex" if image.get_data_dtype().kind == "c" else "coloured"
        raise InputRejected(name, f"{voxels} voxels", "grey values only", "Save the magnitude or one channel.")
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
        grey = square(between(shown, low, high), down, across)
        yield Slice(f"{name}#{number + 1}", grey, plane=plane, place=(grid, number))


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
