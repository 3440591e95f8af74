"""The phantom set: brain slices drawn from geometry, so that every stage runs where no patient data are.

Draw first, then act: `draw_patient` picks every number of one head, `phantom_slice` renders a plane through it and picks
nothing. Slices of a patient are cuts through the same three-dimensional head, so a tumour's outline agrees between planes.

Head units: 1 is about 10 cm; x to the left (right in the picture), y forward, z up, origin in the middle of the brain.
"""

import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tumorscope.errors import InputRejected
from tumorscope.files import replacing
from tumorscope.labels import CLASSES

TEST_SHARE = 0.2
#: Picture axes (down, right) and normal of each plane, in head axes.
PLANES = {
    "axial": np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32),
    "coronal": np.array([[0, 0, -1], [1, 0, 0], [0, 1, 0]], np.float32),
    "sagittal": np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]], np.float32),
}
#: Signal of each tissue, 0 to 1: T1-weighted with contrast agent, and T2-weighted.
SIGNAL = {
    "fat": (0.80, 0.60),
    "muscle": (0.36, 0.25),
    "bone": (0.07, 0.07),
    "marrow": (0.50, 0.35),
    "air": (0.03, 0.03),
    "csf": (0.13, 0.92),
    "grey": (0.40, 0.60),
    "white": (0.52, 0.44),
    "vessel": (0.85, 0.15),
    "gland": (0.68, 0.55),
    "oedema": (0.34, 0.80),
    "enhancing": (0.80, 0.74),
    "necrosis": (0.17, 0.88),
}
CRANIUM = ((0.0, 0.0, 0.0), (0.72, 0.90, 0.78))
#: What else a head outline is made of: face, neck, nose.
OUTLINE = (
    ((0.0, 0.30, -0.60), (0.50, 0.56, 0.64)),
    ((0.0, -0.25, -1.00), (0.42, 0.42, 0.80)),
    ((0.0, 0.88, -0.55), (0.10, 0.14, 0.20)),
)
#: Tissue, centre and radii of the parts of the face; the left one stands for both.
FACE = (
    ("fat", (0.28, 0.64, -0.36), (0.17, 0.22, 0.15)),
    ("csf", (0.28, 0.70, -0.36), (0.11, 0.11, 0.11)),
    ("air", (0.08, 0.62, -0.62), (0.06, 0.22, 0.16)),
    ("air", (0.32, 0.55, -0.68), (0.13, 0.15, 0.14)),
    ("air", (0.06, 0.36, -0.54), (0.09, 0.12, 0.07)),
    ("marrow", (0.00, 0.10, -0.62), (0.10, 0.08, 0.14)),
)
BRAINSTEM = (
    ("csf", (0.00, 0.02, -0.42), (0.17, 0.17, 0.15)),
    ("white", (0.00, -0.08, -0.50), (0.13, 0.12, 0.42)),
    ("bone", (0.36, -0.08, -0.60), (0.24, 0.08, 0.10)),
    ("csf", (0.00, -0.26, -0.42), (0.06, 0.05, 0.09)),
)
DEEP_GREY = (
    ("grey", (0.13, -0.06, -0.01), (0.10, 0.17, 0.10)),
    ("grey", (0.28, 0.10, 0.00), (0.07, 0.18, 0.10)),
    ("csf", (0.46, 0.12, -0.06), (0.10, 0.16, 0.02)),
)
#: Radii are multiplied by the patient's ventricle size.
VENTRICLES = (
    ("csf", (0.09, 0.26, 0.10), (0.06, 0.16, 0.09)),
    ("csf", (0.11, 0.00, 0.18), (0.07, 0.30, 0.06)),
    ("csf", (0.20, -0.30, 0.05), (0.07, 0.18, 0.09)),
    ("csf", (0.32, -0.05, -0.22), (0.03, 0.18, 0.04)),
    ("csf", (0.00, 0.00, -0.06), (0.02, 0.18, 0.11)),
)
#: Normal things as bright as a tumour: choroid plexus, carotid arteries, pineal body.
BRIGHT = (
    ("vessel", (0.20, -0.28, 0.03), (0.035, 0.06, 0.04)),
    ("vessel", (0.13, 0.20, -0.38), (0.035, 0.035, 0.07)),
    ("gland", (0.00, -0.20, -0.02), (0.03, 0.03, 0.03)),
)
SELLA = (0.0, 0.22, -0.40)

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Waves:
    """A smooth random field in space: a sum of cosines, mean 0 and variance about 1.

    vectors : float32 (k, 3), radians per head unit; phases : float32 (k,)
    """

    vectors: np.ndarray
    phases: np.ndarray

    def on(self, plane: "Plane") -> np.ndarray:
        """Values on a plane, float32 (size, size). A plane wave splits into rows times columns, so this is one product."""
        rows = np.exp(1j * (self.phases + np.add.outer(plane.steps, 0) [:, None] * (self.vectors @ plane.down)))
        return rows.real
