"""Slices of a phantom patient: cuts through one three-dimensional head, so that a tumour's outline agrees between planes."""

from dataclasses import dataclass

import numpy as np

from tumorscope.data.phantom.anatomy import (
    BRIGHT,
    CALLOSUM,
    CEREBELLUM,
    CRANIUM,
    DEEP_GREY,
    FACE,
    FACE_AND_NECK,
    HINDBRAIN,
    VENTRICLES,
    Part,
    ellipsoid,
    inside_skull,
)
from tumorscope.data.phantom.patients import Patient, Tumour, Waves

#: Head axes along which a picture of each plane runs: down, to the right, and through it.
PLANES = {
    "axial": np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32),
    "coronal": np.array([[0, 0, -1], [1, 0, 0], [0, 1, 0]], np.float32),
    "sagittal": np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]], np.float32),
}

Window = tuple[slice, slice]
EVERYWHERE: Window = (slice(None), slice(None))


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

    def values(self, waves: Waves) -> np.ndarray:
        """A field at every pixel, float32 (size, size). A wave on a plane is rows times columns: one matrix product."""
        down = np.outer(self.steps, waves.vectors @ self.down) + waves.vectors @ self.origin + waves.phases
        right = np.outer(waves.vectors @ self.right, self.steps)
        down, right = down.astype(np.float32), right.astype(np.float32)
        rows, columns = np.hstack([np.cos(down), -np.sin(down)]), np.vstack([np.cos(right), np.sin(right)])
        return rows @ columns * np.float32(np.sqrt(2 / len(waves.phases)))

    @property
    def pixel(self) -> float:
        """Width of a pixel in head units."""
        return float(np.linalg.norm(self.down) * (self.steps[1] - self.steps[0]))


def cuts(rng: np.random.Generator, count: int) -> list[Cut]:
    """Draw `count` slices of a patient, the planes in turn, spread over the middle of the tumour."""
    planes = [tuple(PLANES)[k % 3] for k in range(count)]
    spread = np.linspace(-0.5, 0.5, -(-count // 3)) + rng.uniform(-0.1, 0.1, -(-count // 3))
    return [Cut(plane, float(spread[k // 3]), int(rng.integers(2**32))) for k, plane in enumerate(planes)]


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
        self.points = self.straight + 0.018 * np.stack([plane.values(waves) for waves in patient.warp])
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


def _paint_head(canvas: _Canvas) -> None:
    """Scalp, muscle, skull with its marrow, and the face."""
    cranium, outline = canvas.cranium, canvas.outline
    canvas.paint("fat", outline)
    strands = 0.2 * canvas.plane.values(canvas.patient.texture) + 0.3 * canvas.plane.values(canvas.patient.folds)
    canvas.paint(canvas.patient.signal["muscle"] * (1 + strands), outline + 0.05)
    canvas.paint_parts(FACE, canvas.points, outline + 0.03)
    vault = np.maximum(cranium + 0.045, canvas.brain - 0.045)
    canvas.paint("bone", vault)
    canvas.paint("marrow", np.abs(cranium + 0.07) - 0.010 + np.maximum(vault, 0))
    canvas.paint("csf", canvas.brain)


def _paint_brain(canvas: _Canvas) -> None:
    """Folded cortex over white matter, cerebellum and brainstem."""
    patient, x = canvas.patient, canvas.points[0]
    texture = 1 + 0.04 * canvas.plane.values(patient.texture)
    joined = np.maximum(-ellipsoid(canvas.points, *CALLOSUM), 0)
    depth = np.minimum(-canvas.brain - 0.015, np.sqrt(x**2 + joined**2) - 0.012)
    fold = np.abs(canvas.plane.values(patient.folds)) + (np.maximum(depth, 0) / 0.11) ** 2
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
    one, other = (canvas.plane.values(waves) for waves in patient.vessels)
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
    border = canvas.plane.values(tumour.border)
    offset = np.tensordot(tumour.shape, canvas.straight - tumour.centre[:, None, None], 1)
    body = np.sqrt((offset**2).sum(axis=0)) - tumour.radius * (1 + tumour.roughness * border)
    body = np.maximum(body.astype(np.float32), canvas.brain + 0.005)
    grain = 1 + 0.05 * canvas.plane.values(canvas.patient.texture)
    if tumour.oedema:
        fingers = tumour.oedema * (1 + 0.5 * canvas.plane.values(canvas.patient.folds))
        canvas.paint("oedema", np.maximum(body - fingers, canvas.brain + 0.05))
    canvas.paint(tumour.rim_signal * grain, body)
    canvas.paint(tumour.core_signal * grain, body + tumour.rim * (1 + 0.45 * border))
    return body < 0


def _record(canvas: _Canvas, cut: Cut) -> np.ndarray:
    """What the scanner makes of the picture: bias field, Rician noise, gain and gamma. uint8 (size, size)."""
    patient, shape = canvas.patient, canvas.picture.shape
    field = np.exp(patient.bias_strength * canvas.plane.values(patient.bias))
    noise = np.random.default_rng(cut.noise_seed).standard_normal((2, *shape), np.float32)
    magnitude = np.hypot(canvas.picture * field + patient.noise * noise[0], patient.noise * noise[1])
    return np.round(255 * np.clip(magnitude * patient.gain, 0, 1) ** patient.gamma).astype(np.uint8)
