"""Slices of any kind of file, and how they lie in it; what the formats share: limits, grey values, square pixels."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tumorscope.data.decode import MAX_PIXELS, MAX_SIDE
from tumorscope.errors import InputRejected

#: Voxels of a volume.
MAX_VOXELS = 512 * 512 * 256
#: Bytes that a packed file may unpack to.
MAX_UNPACKED = 4 * MAX_VOXELS


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

    series : of a DICOM file, the same for slices of one series, and after a hyphen for those of one plane, echo, time point,
    diffusion weight and part of a complex number; no UID, which would lead back to the patient
    place : of a slice of a NIfTI volume, the volume's grid and the slice's number from 0
    stored : how a DICOM slice lies in its file
    warned : what a DICOM or NIfTI file says, or leaves out, that makes an answer doubtful
    rules : of an image; see `Decoded`
    """

    name: str
    grey: np.ndarray
    chroma: float = 0.0
    plane: str = ""
    series: str = ""
    place: tuple[Grid, int] | None = None
    stored: Stored | None = None
    warned: tuple[str, ...] = ()
    rules: str = ""


def square(grey: np.ndarray, down: float, across: float) -> np.ndarray:
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
