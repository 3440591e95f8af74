"""What every head of the phantom set has in common: its parts, their tissues, and the distance to their surfaces.

Head units: 1 is about 10 cm; x to the right of the picture, y forward, z up; origin in the middle of the brain.
"""

import numpy as np
from numpy.typing import ArrayLike

Triple = tuple[float, float, float]
#: Tissue, centre and radii of an ellipsoid; the one at positive x stands for its twin at negative x too.
Part = tuple[str, Triple, Triple]

#: Signal of each tissue, 0 to 1: T1-weighted after contrast agent, and T2-weighted.
SIGNAL = {
    "fat": (0.80, 0.60),
    "muscle": (0.36, 0.25),
    "bone": (0.07, 0.07),
    "marrow": (0.50, 0.35),
    "air": (0.03, 0.03),
    "csf": (0.13, 0.92),
    "grey": (0.32, 0.58),
    "white": (0.43, 0.42),
    "vessel": (0.85, 0.15),
    "gland": (0.60, 0.55),
    "oedema": (0.23, 0.80),
    "enhancing": (0.90, 0.78),
    "necrosis": (0.14, 0.88),
}
CRANIUM = ((0.0, 0.0, 0.0), (0.72, 0.90, 0.78))
INNER_TABLE = ((0.0, 0.0, 0.0), (0.62, 0.79, 0.68))
FACE_AND_NECK = (
    ((0.0, 0.30, -0.60), (0.50, 0.56, 0.64)),
    ((0.0, -0.25, -1.00), (0.42, 0.42, 0.80)),
    ((0.0, 0.88, -0.55), (0.10, 0.14, 0.20)),
)
FACE: tuple[Part, ...] = (
    ("fat", (0.27, 0.58, -0.36), (0.16, 0.24, 0.14)),
    ("csf", (0.27, 0.68, -0.36), (0.10, 0.10, 0.10)),
    ("air", (0.08, 0.62, -0.62), (0.06, 0.22, 0.16)),
    ("air", (0.32, 0.55, -0.70), (0.13, 0.15, 0.14)),
    ("marrow", (0.00, 0.10, -0.62), (0.10, 0.08, 0.14)),
    ("air", (0.06, 0.34, -0.56), (0.09, 0.12, 0.07)),
)
HINDBRAIN: tuple[Part, ...] = (
    ("csf", (0.00, 0.12, -0.36), (0.13, 0.10, 0.07)),
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


def ellipsoid(points: np.ndarray, centre: ArrayLike, radii: ArrayLike) -> np.ndarray:
    """Signed distance to an ellipsoid of points (3, ...), first order exact at the surface, negative inside."""
    column = (3,) + (1,) * (points.ndim - 1)
    radius = np.reshape(radii, column).astype(np.float32)
    scaled = (points - np.reshape(centre, column).astype(np.float32)) / radius
    level = np.sqrt((scaled**2).sum(axis=0))
    return level * (level - 1) / (np.sqrt(((scaled / radius) ** 2).sum(axis=0)) + np.float32(1e-6))


def inside_skull(points: np.ndarray) -> np.ndarray:
    """Signed distance to the inner surface of the skull: a vault over a base that steps up at the clivus and the orbits."""
    clivus, orbits = (1 / (1 + np.exp((at - points[1]) / 0.03)) for at in (0.12, 0.40))
    base = -0.70 + 0.26 * clivus + 0.20 * orbits
    return np.maximum(ellipsoid(points, *INNER_TABLE), (base - points[2]) / 1.4)
