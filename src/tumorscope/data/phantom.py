"""The phantom set: brain slices drawn from geometry, so that every stage runs where no patient data are.

Draw first, then act: `draw_patient` picks every number of one head, `phantom_slice` renders a plane through it and picks
nothing. Slices of a patient are cuts through the same three-dimensional head, so a tumour's outline agrees between planes.

Head units: 1 is about 10 cm; x to the right of the picture, y forward, z up; origin in the middle of the brain.
"""

import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tumorscope.errors import InputRejected
from tumorscope.files import replacing
from tumorscope.labels import CLASSES

TEST_SHARE = 0.2
#: Head axes along which a picture of each plane runs: down, to the right, and through it.
PLANES = {
    "axial": np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32),
    "coronal": np.array([[0, 0, -1], [1, 0, 0], [0, 1, 0]], np.float32),
    "sagittal": np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]], np.float32),
}
#: Signal of each tissue, 0 to 1: T1-weighted after contrast agent, and T2-weighted.
SIGNAL = {
    "fat": (0.80, 0.60),
    "muscle": (0.36, 0.25),
    "bone": (0.07, 0.07),
    "marrow": (0.50, 0.35),
    "air": (0.03, 0.03),
    "csf": (0.13, 0.92),
    "grey": (0.38, 0.60),
    "white": (0.52, 0.44),
    "vessel": (0.85, 0.15),
    "gland": (0.68, 0.55),
    "oedema": (0.30, 0.80),
    "enhancing": (0.80, 0.74),
    "necrosis": (0.17, 0.88),
}
T2_SHARE = 0.15

Triple = tuple[float, float, float]
#: Tissue, centre and radii of an ellipsoid; the one at positive x stands for its twin at negative x too.
Part = tuple[str, Triple, Triple]

CRANIUM = ((0.0, 0.0, 0.0), (0.72, 0.90, 0.78))
INNER_TABLE = ((0.0, 0.0, 0.0), (0.62, 0.79, 0.68))
FACE_AND_NECK = (
    ((0.0, 0.30, -0.60), (0.50, 0.56, 0.64)),
    ((0.0, -0.25, -1.00), (0.42, 0.42, 0.80)),
    ((0.0, 0.88, -0.55), (0.10, 0.14, 0.20)),
)
FACE: tuple[Part, ...] = (
    ("fat", (0.28, 0.64, -0.38), (0.17, 0.22, 0.15)),
    ("csf", (0.28, 0.70, -0.38), (0.11, 0.11, 0.11)),
    ("air", (0.08, 0.62, -0.62), (0.06, 0.22, 0.16)),
    ("air", (0.32, 0.55, -0.70), (0.13, 0.15, 0.14)),
    ("marrow", (0.00, 0.10, -0.62), (0.10, 0.08, 0.14)),
    ("air", (0.06, 0.34, -0.56), (0.09, 0.12, 0.07)),
)
HINDBRAIN: tuple[Part, ...] = (
    ("csf", (0.00, 0.02, -0.40), (0.18, 0.20, 0.14)),
    ("white", (0.00, -0.08, -0.50), (0.12, 0.11, 0.42)),
    ("bone", (0.38, -0.08, -0.60), (0.24, 0.08, 0.10)),
    ("csf", (0.00, -0.24, -0.42), (0.06, 0.05, 0.09)),
)
CEREBELLUM = ((0.20, -0.47, -0.42), (0.32, 0.29, 0.21))
CALLOSUM = ((0.0, 0.02, 0.02), (0.30, 0.44, 0.28))
DEEP_GREY: tuple[Part, ...] = (
    ("grey", (0.13, -0.06, -0.01), (0.10, 0.17, 0.10)),
    ("grey", (0.28, 0.10, 0.00), (0.07, 0.18, 0.10)),
    ("csf", (0.47, 0.12, -0.06), (0.10, 0.17, 0.018)),
)
#: Radii are multiplied by the patient's ventricle size.
VENTRICLES: tuple[Part, ...] = (
    ("csf", (0.09, 0.26, 0.10), (0.055, 0.15, 0.09)),
    ("csf", (0.11, 0.00, 0.18), (0.065, 0.30, 0.055)),
    ("csf", (0.20, -0.30, 0.05), (0.06, 0.18, 0.09)),
    ("csf", (0.32, -0.05, -0.22), (0.025, 0.18, 0.035)),
    ("csf", (0.00, 0.00, -0.06), (0.02, 0.18, 0.11)),
)
#: Normal and as bright as a tumour: choroid plexus, carotid arteries, pineal body, pituitary gland.
BRIGHT: tuple[Part, ...] = (
    ("vessel", (0.20, -0.28, 0.03), (0.03, 0.06, 0.04)),
    ("vessel", (0.13, 0.20, -0.38), (0.03, 0.03, 0.07)),
    ("gland", (0.00, -0.20, -0.02), (0.03, 0.03, 0.03)),
    ("gland", (0.00, 0.22, -0.41), (0.06, 0.05, 0.035)),
)
SELLA = np.array([0.0, 0.22, -0.40])


@dataclass(frozen=True)
class Waves:
    """A smooth random field in space: a sum of cosines of about one wavelength; mean 0, variance 1.

    vectors : (k, 3), radians per head unit; phases : (k,)
    """

    vectors: np.ndarray
    phases: np.ndarray

    def on(self, plane: "Plane") -> np.ndarray:
        """Values on the plane, float32 (size, size). A wave on a plane is rows times columns: one matrix product."""
        down = np.outer(plane.steps, self.vectors @ plane.down) + self.vectors @ plane.origin + self.phases
        right = np.outer(self.vectors @ plane.right, plane.steps)
        field = np.exp(1j * down).astype(np.complex64) @ np.exp(1j * right).astype(np.complex64)
        return field.real * np.float32(np.sqrt(2 / len(self.phases)))


@dataclass(frozen=True)
class Tumour:
    """One tumour; lengths in head units, signals 0 to 1.

    shape : (3, 3), takes an offset from the centre to one whose length is measured against `radius`
    roughness : border's standard deviation; rim : width of the bright ring, from `radius` on it fills the whole
    push : how far the brain around it gives way, 0 to 1; inside : clipped to the brain's side of the skull
    """

    centre: np.ndarray
    radius: float
    shape: np.ndarray
    border: Waves
    roughness: float
    rim: float
    rim_signal: float
    core_signal: float
    oedema: float
    push: float


@dataclass(frozen=True)
class Patient:
    """Everything drawn for one head.

    pose : (3, 3), view to head axes; shift : (3,), middle of the head in the view, whose half width is 1
    target, reach : point (3,) and radius around which the cuts are laid: the tumour's, or where one might have been
    signal : tissue to signal; foci : small harmless spots; noise : standard deviation before gain and gamma
    """

    name: str
    label: str
    pose: np.ndarray
    shift: np.ndarray
    warp: tuple[Waves, Waves, Waves]
    folds: Waves
    texture: Waves
    vessels: tuple[Waves, Waves]
    bias: Waves
    bias_strength: float
    signal: dict[str, float]
    ventricles: float
    foci: tuple[Part, ...]
    target: np.ndarray
    reach: float
    tumour: Tumour | None
    noise: float
    background: float
    gain: float
    gamma: float


@dataclass(frozen=True)
class Cut:
    """A slice to make: its plane, its distance from the patient's target in `reach`, and the seed of its noise."""

    plane: str
    offset: float
    noise_seed: int


@dataclass(frozen=True)
class Plane:
    """A square plane through a head: point (i, j) is origin + steps[i] * down + steps[j] * right, in head units."""

    origin: np.ndarray
    down: np.ndarray
    right: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, patient: Patient, cut: Cut, size: int) -> "Plane":
        """The plane of `cut`, `size` pixels wide."""
        down, right, normal = PLANES[cut.plane]
        target = np.linalg.solve(patient.pose, patient.target) + patient.shift
        through = target @ normal + cut.offset * patient.reach
        steps = (np.arange(size) + 0.5) / size * 2 - 1
        return cls(patient.pose @ (through * normal - patient.shift), patient.pose @ down, patient.pose @ right, steps)

    def points(self) -> np.ndarray:
        """Head coordinates of every pixel, float32 (3, size, size)."""
        rows, columns = np.outer(self.down, self.steps), np.outer(self.right, self.steps)
        return (self.origin[:, None, None] + rows[:, :, None] + columns[:, None, :]).astype(np.float32)

    @property
    def pixel(self) -> float:
        """Width of a pixel in head units."""
        return float(np.linalg.norm(self.down) * (self.steps[1] - self.steps[0]))


def write_phantom(
    path: Path, patients_per_class: int = 20, slices_per_patient: int = 6, size: int = 128, seed: int = 0
) -> Path:
    """Write the phantom set as a zip archive at `path`, atomically, and return `path`.

    Layout: `Training|Testing/<class>/<patient>-<k>.png` (8-bit grey, size x size), `masks/<patient>-<k>.png` (grey, 255
    inside the tumour, empty for notumor) and `metadata.csv` with path, patient, plane and mask. A patient is in one split,
    about a fifth of each class in Testing. The same arguments and libraries give the same bytes.
    Raises `InputRejected` for fewer than 2 patients a class, fewer than 3 slices a patient, or a size outside 32 to 1024.
    """
    _check("patients per class", patients_per_class, 2, 10_000)
    _check("slices per patient", slices_per_patient, 3, 100)
    _check("size", size, 32, 1024)
    rows = [("path", "patient", "plane", "mask")]
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for patient, split in _patients(patients_per_class, seed):
            for k, cut in enumerate(cuts(patient, slices_per_patient)):
                stem = f"{patient.name}-{k}"
                names = f"{split}/{patient.label}/{stem}.png", f"masks/{stem}.png"
                for name, picture in zip(names, phantom_slice(patient, cut, size), strict=True):
                    _store(archive, name, _png(picture))
                rows.append((names[0], patient.name, cut.plane, names[1]))
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        _store(archive, "metadata.csv", table.getvalue().encode())
    return path


def draw_patient(rng: np.random.Generator, label: str, name: str = "") -> Patient:
    """Draw a head of class `label` (one of `CLASSES`): anatomy, pose, contrast, tumour, and how it is recorded."""
    lesion = TUMOURS[label if label in TUMOURS else str(rng.choice(list(TUMOURS)))](rng)
    signal = _draw_signal(rng)
    ...
