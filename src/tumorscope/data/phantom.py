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
from numpy.typing import ArrayLike
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
    "grey": (0.32, 0.58),
    "white": (0.43, 0.42),
    "vessel": (0.85, 0.15),
    "gland": (0.60, 0.55),
    "oedema": (0.23, 0.80),
    "enhancing": (0.90, 0.78),
    "necrosis": (0.14, 0.88),
}
T2_SHARE = 0.1

Triple = tuple[float, float, float]
Window = tuple[slice, slice]
EVERYWHERE: Window = (slice(None), slice(None))
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
        down, right = down.astype(np.float32), right.astype(np.float32)
        rows, columns = np.hstack([np.cos(down), -np.sin(down)]), np.vstack([np.cos(right), np.sin(right)])
        return rows @ columns * np.float32(np.sqrt(2 / len(self.phases)))


@dataclass(frozen=True)
class Tumour:
    """One tumour; lengths in head units, signals 0 to 1.

    shape : (3, 3), takes an offset from the centre to one whose length is measured against `radius`
    roughness : border's standard deviation; rim : width of the bright ring, from `radius` on it fills the whole
    push : how far the brain around it gives way, 0 to 1
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

    Layout: `Training|Testing/<class>/<patient>-<k>.png` (8-bit grey, size x size), `masks/<patient>-<k>.png` (8-bit, 255
    inside the tumour; empty for notumor) and `metadata.csv` with path, patient, plane and mask. A patient is in one split,
    about a fifth of each class in Testing. The same arguments and libraries give the same bytes.
    Raises `InputRejected` for fewer than 2 patients a class, fewer than 3 slices a patient, or a size outside 32 to 1024.
    """
    _check("patients per class", patients_per_class, 2, 10_000)
    _check("slices per patient", slices_per_patient, 3, 100)
    _check("size", size, 32, 1024)
    rows = [("path", "patient", "plane", "mask")]
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for patient, split, all_cuts in _patients(patients_per_class, slices_per_patient, seed):
            for k, cut in enumerate(all_cuts):
                image, mask = phantom_slice(patient, cut, size)
                names = f"{split}/{patient.label}/{patient.name}-{k}.png", f"masks/{patient.name}-{k}.png"
                _store(archive, names[0], _png(image))
                _store(archive, names[1], _png(mask * np.uint8(255)))
                rows.append((names[0], patient.name, cut.plane, names[1]))
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        _store(archive, "metadata.csv", table.getvalue().encode())
    return path


def draw_patient(rng: np.random.Generator, label: str, name: str = "") -> Patient:
    """Draw a head of class `label` (one of `CLASSES`): anatomy, pose, contrast, tumour, and how it is recorded."""
    signal = _draw_signal(rng)
    # A healthy head draws a tumour too and leaves it out, so that its cuts lie where those of the others do.
    tumour = TUMOURS[label if label in TUMOURS else str(rng.choice(list(TUMOURS)))](rng, signal)
    return Patient(
        name=name,
        label=label,
        pose=_draw_pose(rng),
        shift=np.array([0.0, 0.02, 0.10]) + rng.uniform(-0.06, 0.06, 3),
        warp=(draw_waves(rng, 0.9), draw_waves(rng, 0.9), draw_waves(rng, 0.9)),
        folds=draw_waves(rng, 0.24, 60),
        texture=draw_waves(rng, 0.12),
        vessels=(draw_waves(rng, 0.45), draw_waves(rng, 0.45)),
        bias=draw_waves(rng, 3.0),
        bias_strength=rng.uniform(0.05, 0.2),
        signal=signal,
        ventricles=rng.uniform(0.7, 1.5),
        foci=tuple(_draw_focus(rng, tumour) for _ in range(rng.integers(1, 5))),
        target=tumour.centre,
        reach=tumour.radius,
        tumour=tumour if label in TUMOURS else None,
        noise=rng.uniform(0.01, 0.035),
        background=rng.uniform(0.02, 0.15) if rng.random() < 0.2 else 0.0,
        gain=rng.uniform(0.7, 1.1),
        gamma=rng.uniform(0.8, 1.25),
    )


def cuts(rng: np.random.Generator, count: int) -> list[Cut]:
    """Draw `count` slices of a patient, the planes in turn, spread over the middle of the tumour."""
    planes = [tuple(PLANES)[k % 3] for k in range(count)]
    spread = np.linspace(-0.5, 0.5, -(-count // 3)) + rng.uniform(-0.1, 0.1, -(-count // 3))
    return [Cut(plane, float(spread[k // 3]), int(rng.integers(2**32))) for k, plane in enumerate(planes)]


def draw_waves(rng: np.random.Generator, wavelength: float, count: int = 32) -> Waves:
    """A random field with structures about half of `wavelength` wide."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = 2 * np.pi / wavelength * rng.uniform(0.75, 1.25, (count, 1))
    return Waves(directions * lengths, rng.uniform(0, 2 * np.pi, count))


def phantom_slice(patient: Patient, cut: Cut, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Render one slice: (image uint8 (size, size), tumour mask bool (size, size)). Draws nothing: same input, same output.

    The mask holds ring and core; oedema is outside of it.
    """
    plane = Plane.of(patient, cut, size)
    canvas = _Canvas(patient, plane)
    _paint_head(canvas)
    _paint_brain(canvas)
    _paint_within(canvas)
    mask = _paint_tumour(canvas, patient.tumour) if patient.tumour else np.zeros((size, size), bool)
    return _record(canvas, cut), mask


class _Canvas:
    """A picture painted from back to front, and the coordinates that the painters share.

    points : anatomical coordinates, bent by the patient's own shape, float32 (3, size, size)
    outline, cranium, brain : signed distances to the skin, the outer and the inner end of the skull, negative within
    """

    def __init__(self, patient: Patient, plane: Plane) -> None:
        self.patient, self.plane = patient, plane
        self.straight = plane.points()
        self.points = self.straight + 0.018 * np.stack([waves.on(plane) for waves in patient.warp])
        self.brain = inside_skull(self.points)
        self.cranium = ellipsoid(self.points, *CRANIUM)
        self.outline = np.minimum.reduce([self.cranium, *(ellipsoid(self.points, *part) for part in FACE_AND_NECK)])
        self.picture = np.full(self.brain.shape, patient.background, np.float32)

    def paint(self, what: str | float | np.ndarray, distance: np.ndarray, window: Window = EVERYWHERE) -> None:
        """Lay a tissue, or a signal, where `distance` is negative, with edges a pixel and a half wide."""
        value = self.patient.signal[what] if isinstance(what, str) else what
        cover = np.clip(0.5 - distance / (1.5 * self.plane.pixel), 0, 1)
        part = self.picture[window]
        part += cover * (value - part)

    def paint_parts(self, parts: tuple[Part, ...], points: np.ndarray, within: np.ndarray, scale: float = 1.0) -> None:
        """Lay ellipsoids and their mirrored twins, where `within` is negative."""
        folded = np.stack([np.abs(points[0]), points[1], points[2]])
        for tissue, centre, radii in parts:
            size = np.multiply(radii, scale)
            window = self._window(ellipsoid(folded[:, ::8, ::8], centre, size))
            self.paint(tissue, np.maximum(ellipsoid(folded[:, *window], centre, size), within[window]), window)

    def _window(self, coarse: np.ndarray) -> Window:
        """The part of the picture that holds what is near, from distances at every eighth pixel; most parts are small."""
        near = coarse < 12 * self.plane.pixel
        if not near.any():
            return np.s_[:0, :0]
        rows, columns = (np.flatnonzero(near.any(axis=axis)) * 8 for axis in (1, 0))
        return np.s_[rows[0] : rows[-1] + 8, columns[0] : columns[-1] + 8]


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


def _paint_head(canvas: _Canvas) -> None:
    """Scalp, muscle, skull with its marrow, and the face."""
    cranium, outline = canvas.cranium, canvas.outline
    canvas.paint("fat", outline)
    strands = 0.2 * canvas.patient.texture.on(canvas.plane) + 0.3 * canvas.patient.folds.on(canvas.plane)
    canvas.paint(canvas.patient.signal["muscle"] * (1 + strands), outline + 0.05)
    canvas.paint_parts(FACE, canvas.points, outline + 0.03)
    vault = np.maximum(cranium + 0.045, canvas.brain - 0.045)
    canvas.paint("bone", vault)
    canvas.paint("marrow", np.abs(cranium + 0.07) - 0.010 + np.maximum(vault, 0))
    canvas.paint("csf", canvas.brain)


def _paint_brain(canvas: _Canvas) -> None:
    """Folded cortex over white matter, cerebellum and brainstem."""
    patient, x = canvas.patient, canvas.points[0]
    texture = 1 + 0.04 * patient.texture.on(canvas.plane)
    joined = np.maximum(-ellipsoid(canvas.points, *CALLOSUM), 0)
    depth = np.minimum(-canvas.brain - 0.015, np.sqrt(x**2 + joined**2) - 0.012)
    fold = np.abs(patient.folds.on(canvas.plane)) + (np.maximum(depth, 0) / 0.11) ** 2
    canvas.paint(patient.signal["grey"] * texture, -depth)
    canvas.paint(patient.signal["white"] * texture, np.maximum(0.03 - depth, (0.75 - fold) / 20))
    canvas.paint("csf", np.maximum((fold - 0.3) / 20, -depth))
    _paint_cerebellum(canvas, texture)
    canvas.paint_parts(HINDBRAIN, canvas.points, canvas.outline + 0.05)


def _paint_cerebellum(canvas: _Canvas, texture: np.ndarray) -> None:
    x, y, z = canvas.points
    within = ellipsoid(np.stack([np.abs(x), y, z]), *CEREBELLUM)
    canvas.paint("csf", np.maximum(within - 0.02, canvas.brain))
    leaves = 0.5 + 0.5 * np.cos(2 * np.pi / 0.075 * (within + 0.5 * z))
    grey, white = canvas.patient.signal["grey"], canvas.patient.signal["white"]
    canvas.paint((grey + (white - grey) * leaves) * texture, np.maximum(within, canvas.brain + 0.02))


def _paint_within(canvas: _Canvas) -> None:
    """Deep grey matter, ventricles, vessels, dural sinus and harmless spots; a tumour pushes them aside."""
    patient, points = canvas.patient, canvas.points
    if patient.tumour:
        points = _pushed(points, patient.tumour)
    canvas.paint_parts(DEEP_GREY, points, canvas.brain)
    canvas.paint_parts(VENTRICLES, points, canvas.brain, patient.ventricles)
    one, other = (waves.on(canvas.plane) for waves in patient.vessels)
    canvas.paint("vessel", np.maximum(np.hypot(one, other) / 8 - 0.013, canvas.brain + 0.03))
    crest = np.hypot(points[0], canvas.brain - 0.01) - 0.045
    canvas.paint("vessel", np.maximum(crest, 0.4 * points[1] - points[2]))
    canvas.paint_parts(BRIGHT, points, canvas.brain)
    for tissue, centre, radii in patient.foci:
        canvas.paint(tissue, np.maximum(ellipsoid(canvas.straight, centre, radii), canvas.brain + 0.03))


def _pushed(points: np.ndarray, tumour: Tumour) -> np.ndarray:
    """Where the tissue now at `points` lay before the tumour grew."""
    offset = points - tumour.centre[:, None, None].astype(np.float32)
    nearness = np.exp(-(offset**2).sum(axis=0) / (2 * tumour.radius) ** 2)
    return points - offset * (tumour.push * nearness)


def _paint_tumour(canvas: _Canvas, tumour: Tumour) -> np.ndarray:
    """Oedema, body and core; the mask of body and core, bool (size, size)."""
    border = tumour.border.on(canvas.plane)
    offset = np.tensordot(tumour.shape, canvas.straight - tumour.centre[:, None, None], 1)
    body = np.sqrt((offset**2).sum(axis=0)) - tumour.radius * (1 + tumour.roughness * border)
    body = np.maximum(body.astype(np.float32), canvas.brain + 0.005)
    grain = 1 + 0.05 * canvas.patient.texture.on(canvas.plane)
    if tumour.oedema:
        fingers = tumour.oedema * (1 + 0.5 * canvas.patient.folds.on(canvas.plane))
        canvas.paint("oedema", np.maximum(body - fingers, canvas.brain + 0.05))
    canvas.paint(tumour.rim_signal * grain, body)
    canvas.paint(tumour.core_signal * grain, body + tumour.rim * (1 + 0.45 * border))
    return body < 0


def _record(canvas: _Canvas, cut: Cut) -> np.ndarray:
    """What the scanner makes of the picture: bias field, Rician noise, gain and gamma. uint8 (size, size)."""
    patient, shape = canvas.patient, canvas.picture.shape
    field = np.exp(patient.bias_strength * patient.bias.on(canvas.plane))
    noise = np.random.default_rng(cut.noise_seed).standard_normal((2, *shape), np.float32)
    magnitude = np.hypot(canvas.picture * field + patient.noise * noise[0], patient.noise * noise[1])
    return np.round(255 * np.clip(magnitude * patient.gain, 0, 1) ** patient.gamma).astype(np.uint8)


def _draw_signal(rng: np.random.Generator) -> dict[str, float]:
    mix = rng.uniform(0.75, 1) if rng.random() < T2_SHARE else rng.uniform(0, 0.2)
    return {name: float((t1 + (t2 - t1) * mix) * rng.uniform(0.88, 1.12)) for name, (t1, t2) in SIGNAL.items()}


def _draw_pose(rng: np.random.Generator) -> np.ndarray:
    """View to head axes: undo a tilt of some degrees, then a size that differs a little by axis."""
    matrix = np.eye(3)
    for axis, angle in enumerate(rng.normal(0, np.radians(5), 3)):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.roll(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), axis, (0, 1))
        matrix = matrix @ turn
    return matrix / (rng.uniform(0.98, 1.18) * rng.uniform(0.95, 1.05, 3))[:, None]


def _draw_shape(rng: np.random.Generator, stretch: float) -> np.ndarray:
    """A turned ellipsoid with axes within a factor `stretch` of a sphere's."""
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return turned @ np.diag(rng.uniform(1 / stretch, stretch, 3)) @ turned.T


def _draw_focus(rng: np.random.Generator, tumour: Tumour) -> Part:
    """A harmless spot, half of them near the place of the cuts."""
    near = tumour.centre + rng.normal(0, 0.25, 3) if rng.random() < 0.5 else rng.uniform(-0.5, 0.5, 3)
    tissue = str(rng.choice(["enhancing", "gland", "oedema", "csf"]))
    return tissue, tuple(near), tuple(rng.uniform(0.02, 0.045, 3))


def _draw_glioma(rng: np.random.Generator, signal: dict[str, float]) -> Tumour:
    """Within the brain, irregular; most with a bright ring around a dead core, the rest dull throughout."""
    radius = rng.uniform(0.15, 0.22)
    ring = rng.random() < 0.85
    return Tumour(
        centre=_draw_until(rng, lambda at: abs(at[0]) > 0.1 and _skull_at(at) < -radius - 0.04),
        radius=radius,
        shape=_draw_shape(rng, 1.2),
        border=draw_waves(rng, 0.24),
        roughness=0.13,
        rim=rng.uniform(0.04, 0.065),
        rim_signal=signal["enhancing"] * rng.uniform(0.85, 1.1) if ring else signal["grey"] * 0.9,
        core_signal=signal["necrosis"] * rng.uniform(0.8, 1.6) if ring else signal["oedema"],
        oedema=rng.uniform(0.05, 0.12),
        push=rng.uniform(0.2, 0.5),
    )


def _draw_meningioma(rng: np.random.Generator, signal: dict[str, float]) -> Tumour:
    """On the dura: convexity, beside the falx or on the skull base; smooth, even, bright."""
    radius = rng.uniform(0.13, 0.21)
    return Tumour(
        centre=_draw_on_dura(rng, radius),
        radius=radius,
        shape=_draw_shape(rng, 1.1),
        border=draw_waves(rng, 0.5),
        roughness=0.04,
        rim=radius * 3,
        rim_signal=signal["enhancing"] * rng.uniform(0.8, 1.05),
        core_signal=0.0,
        oedema=float(rng.uniform(0.02, 0.06)) if rng.random() < 0.4 else 0.0,
        push=rng.uniform(0.2, 0.5),
    )


def _draw_pituitary(rng: np.random.Generator, signal: dict[str, float]) -> Tumour:
    """In the sella, at the midline, small, even, bright, growing upwards."""
    radius = rng.uniform(0.10, 0.16)
    return Tumour(
        centre=SELLA + np.array([rng.normal(0, 0.015), rng.normal(0, 0.015), 0.6 * radius]),
        radius=radius,
        shape=np.diag([1.0, 1.05, 0.9]) @ _draw_shape(rng, 1.08),
        border=draw_waves(rng, 0.4),
        roughness=0.05,
        rim=radius * 3,
        rim_signal=signal["enhancing"] * rng.uniform(0.7, 1.0),
        core_signal=0.0,
        oedema=0.0,
        push=rng.uniform(0.1, 0.4),
    )


TUMOURS: dict[str, Callable[[np.random.Generator, dict[str, float]], Tumour]] = {
    "glioma": _draw_glioma,
    "meningioma": _draw_meningioma,
    "pituitary": _draw_pituitary,
}


def _skull_at(point: np.ndarray) -> float:
    return float(inside_skull(point[:, None])[0])


def _draw_until(rng: np.random.Generator, accepted: Callable[[np.ndarray], bool]) -> np.ndarray:
    while True:
        point = rng.uniform([-0.6, -0.75, -0.42], [0.6, 0.75, 0.6])
        if accepted(point):
            return point


def _draw_on_dura(rng: np.random.Generator, radius: float) -> np.ndarray:
    """A centre so far below the dura that the tumour lies against it; four in ten on the skull base."""
    start = np.array([0.0, 0.2, -0.15]) if rng.random() < 0.4 else np.zeros(3)
    while True:
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        if (direction[2] < -0.6) if start.any() else (direction[2] > -0.2):
            break
    reach = np.linspace(0.05, 1, 200)
    outside = inside_skull(start[:, None] + direction[:, None] * reach) > 0
    return start + direction * (reach[outside.argmax()] - 0.7 * radius)


def _patients(count: int, slices: int, seed: int) -> Iterator[tuple[Patient, str, list[Cut]]]:
    """Patients of every class with split and cuts; a patient is the same however many others there are."""
    testing = max(1, round(count * TEST_SHARE))
    for code, label in enumerate(CLASSES):
        for number in range(count):
            rng = np.random.default_rng([seed, code, number])
            patient = draw_patient(rng, label, f"ph-{label}-{number:03d}")
            yield patient, "Testing" if number >= count - testing else "Training", cuts(rng, slices)


def _check(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputRejected(what, value, f"between {low} and {high}", "Choose another number.")


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _store(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file without the clock and the system in it, so that the archive's bytes depend on its content alone."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    archive.writestr(entry, content)
