"""Patients of the phantom set, drawn at random: `draw_patient` picks every number of one head, painting it picks none."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tumorscope.data.phantom.anatomy import SELLA, SIGNAL, Part, inside_skull

#: Of heads, shown T2-weighted; the others are T1-weighted after contrast agent.
T2_SHARE = 0.1


@dataclass(frozen=True)
class Waves:
    """A smooth random field in space: a sum of cosines of about one wavelength; mean 0, variance 1.

    vectors : (k, 3), radians per head unit; phases : (k,)
    """

    vectors: np.ndarray
    phases: np.ndarray


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


def draw_waves(rng: np.random.Generator, wavelength: float, count: int = 32) -> Waves:
    """A random field with structures about half of `wavelength` wide."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = 2 * np.pi / wavelength * rng.uniform(0.75, 1.25, (count, 1))
    return Waves(directions * lengths, rng.uniform(0, 2 * np.pi, count))


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
