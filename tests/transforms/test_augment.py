"""Augmentation: drawn first, applied after; maps whose outcome is known, and that what was drawn rebuilds the batch."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from tumorscope.config import Augment
from tumorscope.transforms.augment import STEPS, Draw, apply, draw, mixed_loss

ALL = Augment(mirror=0.5, rotate=15, scale=0.1, shift=0.1)


def batch(count: int = 5, side: int = 12) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0)) * 255


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0.02)  # of 255 grey levels


def test_what_was_drawn_rebuilds_the_same_batch():
    images = batch()
    drawn = draw(ALL, len(images), 12, seeded())
    assert drawn is not None
    once = apply(images, drawn)
    assert torch.equal(once, apply(images, Draw(drawn.affine.clone())))
    assert not torch.equal(once, images)


def test_the_same_seed_draws_the_same_maps_and_goes_on():
    generator = seeded()
    first, second = draw(ALL, 4, 12, generator), draw(ALL, 4, 12, generator)
    again = draw(ALL, 4, 12, seeded())
    assert first is not None
    assert second is not None
    assert again is not None
    assert torch.equal(first.affine, again.affine)
    assert not torch.equal(first.affine, second.affine)


def test_a_recipe_without_augmentation_draws_nothing_and_changes_nothing():
    generator = seeded()
    before = generator.get_state()
    assert draw(Augment(), 4, 12, generator) is None
    assert torch.equal(before, generator.get_state())
    images = batch()
    assert apply(images, None) is images


def test_the_identity_leaves_a_batch_as_it_is():
    images = batch()
    close(apply(images, Draw(torch.eye(2, 3).repeat(5, 1, 1))), images)


def test_a_certain_mirror_is_a_flip_and_an_impossible_one_is_none():
    images = batch()
    close(apply(images, draw(Augment(mirror=1), 5, 12, seeded())), images.flip(3))
    tiny = draw(Augment(mirror=0, shift=1e-9), 5, 12, seeded())
    close(apply(images, tiny), images)


def test_a_mirror_comes_at_its_rate():
    drawn = draw(Augment(mirror=0.3), 20_000, 12, seeded())
    assert drawn is not None
    assert float((drawn.affine[:, 0, 0] < 0).float().mean()) == pytest.approx(0.3, abs=0.02)


def test_a_quarter_turn_is_a_quarter_turn():
    images = batch()
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0]]).repeat(5, 1, 1)
    turned = apply(images, Draw(quarter))
    assert min((turned - images.rot90(k, (2, 3))).abs().max() for k in (1, 3)) < 0.02


def test_a_shift_by_whole_pixels_brings_black_in():
    """A shift of 2/12 in -1..1 is one pixel of twelve; the output at x takes the input at x + 1."""
    images = batch()
    moved = apply(images, Draw(torch.tensor([[1.0, 0, 2 / 12], [0, 1, 0]]).repeat(5, 1, 1)))
    close(moved[..., :-1], images[..., 1:])
    close(moved[..., -1], torch.zeros(5, 1, 12))


def test_between_pixels_bicubic_keeps_detail_that_bilinear_smooths():
    """A quarter of a pixel from a bright one: bilinear 3/4 of it; bicubic (Keys 1981, a = -0.75) has weights
    -0.1055, 0.8789, 0.2617 and -0.0352, of 0, 100, 0 and 100.
    """
    row = torch.tensor([0.0, 100, 0, 100, 0, 100]).repeat(1, 1, 6, 1)
    quarter = torch.tensor([[[1.0, 0, 1 / 12], [0, 1, 0]]])
    smooth, sharp = (float(apply(row, Draw(quarter, bicubic=bicubic))[0, 0, 2, 1]) for bicubic in (False, True))
    assert smooth == pytest.approx(75, abs=0.02)
    assert sharp == pytest.approx(87.89 - 3.52, abs=0.02)


@pytest.mark.parametrize("bicubic", [False, True])
def test_greys_stay_within_black_and_white_however_slices_are_turned(bicubic):
    turned = apply(batch(), draw(Augment(rotate=30, scale=0.2, shift=0.1, bicubic=bicubic), 5, 12, seeded()))
    assert float(turned.min()) >= 0
    assert float(turned.max()) <= 255


@given(
    mirror=st.floats(0, 1),
    rotate=st.floats(0, 180),
    scale=st.floats(0, 0.9),
    shift=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_every_map_is_a_turn_a_zoom_and_a_shift_within_the_recipes_limits(mirror, rotate, scale, shift, seed):
    drawn = draw(Augment(mirror=mirror, rotate=rotate, scale=scale, shift=shift), 20, 12, seeded(seed))
    if drawn is None:
        assert not any((mirror, rotate, scale, shift))
        return
    square, moved = drawn.affine[:, :, :2].double(), drawn.affine[:, :, 2]
    zoom = torch.linalg.det(square).abs().sqrt()
    assert ((zoom - 1).abs() <= scale + 1e-5).all()
    assert (moved.abs() <= shift + 1e-6).all()
    angle = torch.atan2(-square[:, 0, 1], square[:, 1, 1]).abs() * 180 / math.pi
    assert (angle <= rotate + 1e-3).all()
    turn = square / zoom[:, None, None]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(2).double().repeat(20, 1, 1), rtol=0, atol=1e-5)


GREY = Augment(
    **{"mirror": 0.5, "rotate": 10, "bias_field": 0.4, "contrast": 0.3, "brightness": 0.2, "gamma": 0.5, "curve": 0.3},
    **{"blur": 0.05, "resolution": 0.5, "noise": 0.1, "compression": 0.9, "cutout": 0.5, "mixup": 0.4},
)


def test_everything_drawn_rebuilds_the_batch_within_grey():
    images = batch()
    drawn = draw(GREY, 5, 12, seeded())
    once = apply(images, drawn)
    assert torch.equal(once, apply(images, drawn))
    assert float(once.min()) >= 0
    assert float(once.max()) <= 255
    assert not torch.equal(once, apply(images, draw(GREY, 5, 12, seeded(1))))


def test_intensity_by_hand():
    """Grey 63.75 is a quarter of white: exponent 0.5 makes it a half, gain 1.2 makes 0.6, offset 0.1 makes 0.7."""
    images = torch.full((1, 1, 4, 4), 63.75)
    close(apply(images, Draw(intensity=torch.tensor([[0.5, 1.2, 0.1]]))), torch.full((1, 1, 4, 4), 0.7 * 255))


def test_a_curve_by_hand():
    """Between an eighth and three eighths of white lie greys that go halfway from one point of the curve to the next."""
    images = torch.tensor([0.0, 0.125, 0.25, 0.375, 1.0]).reshape(1, 1, 1, 5) * 255
    curve = torch.tensor([[0.0, 0.8, 0.4, 0.5, 0.6]])
    close(apply(images, Draw(curve=curve)), torch.tensor([0.0, 0.4, 0.8, 0.6, 0.6]).reshape(1, 1, 1, 5) * 255)
    straight = torch.linspace(0, 1, 5).repeat(5, 1)
    close(apply(batch(), Draw(curve=straight)), batch())


@given(largest=st.floats(0.01, 1), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_a_curve_keeps_black_and_moves_other_points_no_farther_than_asked(largest, seed):
    curve = draw(Augment(curve=largest), 50, 12, seeded(seed)).curve
    assert (curve[:, 0] == 0).all()
    assert float(curve.min()) >= 0
    assert float(curve.max()) <= 1
    assert ((curve - torch.linspace(0, 1, 5)).abs() <= largest + 1e-6).all()


def test_a_blur_is_scipys_gaussian_of_each_slices_own_width():
    images = batch(3, 40)
    blurred = apply(images, Draw(blur=torch.tensor([0.0, 1.0, 2.0])))
    close(blurred[0], images[0])
    for one, before, width in zip(blurred[1:, 0], images[1:, 0], (1.0, 2.0), strict=True):
        expected = gaussian_filter(before.numpy(), width, mode="nearest", radius=5)
        close(one, torch.from_numpy(expected))


def test_a_blur_is_no_wider_than_asked():
    widths = draw(Augment(blur=0.02), 1000, 100, seeded()).blur
    assert 0 <= float(widths.min()) < 0.1
    assert 1.9 < float(widths.max()) <= 2.0


def test_half_the_resolution_by_hand():
    """0, 0, 100, 200 shrinks to 0, 150; enlarged, the middles of the four lie at -1/4, 1/4, 3/4 and 5/4 of the two."""
    row = torch.tensor([0.0, 0, 100, 200]).expand(4, 4)[None, None]
    expected = torch.tensor([0.0, 37.5, 112.5, 150]).expand(4, 4)[None, None]
    close(apply(row, Draw(resolution=torch.tensor([2.0]))), expected)
    close(apply(row.mT, Draw(resolution=torch.tensor([2.0]))), expected.mT)


def test_each_slice_has_its_own_resolution():
    """Where pixels shrink by whole numbers, torch's averages and straight lines are the same thing."""
    images = batch(4, 24)
    left = (24, 12, 8, 1)
    coarse = apply(images, Draw(resolution=torch.tensor(left, dtype=torch.float32)))
    for before, after, side in zip(images, coarse, left, strict=True):
        small = torch.nn.functional.avg_pool2d(before[None], 24 // side)
        close(after[None], torch.nn.functional.interpolate(small, size=24, mode="bilinear", align_corners=False))
    between = apply(torch.full((1, 1, 24, 24), 130.0), Draw(resolution=torch.tensor([7.0])))
    close(between, torch.full((1, 1, 24, 24), 130.0))


def test_resolution_and_quality_stay_within_what_was_asked_for():
    drawn = draw(Augment(resolution=0.5, compression=0.7), 5000, 40, seeded())
    assert drawn.resolution.unique().tolist() == list(range(20, 41))
    assert drawn.compression.unique().tolist() == list(range(30, 101))


def encoded(image: np.ndarray, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


@pytest.mark.parametrize("quality", [10, 37, 50, 75, 95])
def test_compression_is_pillows_jpeg_but_for_rounding(quality):
    """On a smooth slice with a bright square, of sides that are no whole blocks.

    Halfway between two steps a frequency may be rounded either way, which its whole block shows.
    """
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(44, 44)), 2)
    grey = (128 + 60 * smooth / smooth.std()).clip(0, 255).round().astype(np.uint8)
    grey[13:30, 9:20] = 240
    ours = apply(torch.from_numpy(grey)[None, None].float(), Draw(compression=torch.tensor([float(quality)])))
    away = np.abs(ours[0, 0].numpy() - np.asarray(encoded(grey, quality)).astype(float))
    lost = np.abs(np.asarray(encoded(grey, quality)).astype(float) - grey)
    assert (away < 1.01).mean() > 0.9
    assert away.mean() < lost.mean() / 2


def test_the_steps_at_quality_50_are_those_that_pillow_writes():
    assert tuple(encoded(np.zeros((8, 8), np.uint8), 50).quantization[0]) == STEPS


def test_quality_100_keeps_whole_greys_and_every_quality_an_even_slice():
    """At 100 the steps are 1, so that each frequency is off by at most a half."""
    images = batch(3, 16).round()
    kept = apply(images, Draw(compression=torch.tensor([100.0, 100, 100]))).round()
    assert float((kept - images).abs().max()) == 1.0
    even = torch.full((3, 1, 16, 16), 128.0)
    close(apply(even, Draw(compression=torch.tensor([1.0, 30, 90]))), even)
    black = torch.zeros(1, 1, 16, 16)  # -1024 at frequency 0 of a block: at quality 50 a multiple of 16
    close(apply(black, Draw(compression=torch.tensor([50.0]))), black)


def test_a_block_by_hand():
    """A step from 100 to 156 across the middle of a block: frequencies 1, 3, 5 and 7 down, rounded to the table's steps."""
    images = torch.full((1, 1, 8, 8), 100.0)
    images[:, :, 4:] = 156
    wave = [[math.cos((2 * y + 1) * f * math.pi / 16) / 2 for y in range(8)] for f in range(8)]
    expected = torch.zeros(8)
    for f in (1, 3, 5, 7):
        whole = math.sqrt(8) * sum((28 if y > 3 else -28) * wave[f][y] for y in range(8))
        kept = round(whole / STEPS[8 * f]) * STEPS[8 * f]
        expected += torch.tensor([kept * wave[f][y] / math.sqrt(8) for y in range(8)])
    ours = apply(images, Draw(compression=torch.tensor([50.0])))[0, 0]
    close(ours, (128 + expected)[:, None].expand(8, 8))
    assert not torch.allclose(ours, images[0, 0], atol=1)


def test_changes_that_a_recipe_leaves_off_draw_nothing():
    """So that recipes made before there were resolution and compression are drawn as they were."""
    one = draw(Augment(noise=0.1), 3, 12, seeded())
    generator = seeded()
    torch.rand(3, 1, 1, 1, generator=generator)
    deviations = 0.1 * torch.rand(3, 1, 1, 1, generator=seeded())
    assert torch.equal(one.noise, deviations * torch.randn(3, 1, 12, 12, generator=generator))


def test_an_even_bias_field_is_a_gain_and_an_uneven_one_is_smooth():
    images = torch.full((1, 1, 32, 32), 100.0)
    close(apply(images, Draw(bias_field=torch.full((1, 1, 4, 4), math.log(1.5)))), images * 1.5)
    field = torch.zeros(1, 1, 4, 4)
    field[..., 3] = math.log(2)
    shaded = apply(images, Draw(bias_field=field))[0, 0, 0]
    assert shaded[0] == pytest.approx(100, abs=1)
    assert shaded[-1] == pytest.approx(200, abs=1)
    assert float(shaded.diff().abs().max()) < 15


def test_noise_has_the_deviation_drawn_for_its_slice():
    drawn = draw(Augment(noise=0.2), 2000, 12, seeded())
    deviations = drawn.noise.std(dim=(1, 2, 3))
    assert float(deviations.max()) < 0.2 * 1.3
    assert float(deviations.mean()) == pytest.approx(0.1, abs=0.01)  # uniform from 0 to 0.2


@given(largest=st.floats(0.05, 0.95), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_cutout_is_one_black_square_of_no_more_than_the_share_asked_for(largest, seed):
    images = torch.full((8, 1, 20, 20), 200.0)
    cut = apply(images, draw(Augment(cutout=largest), 8, 20, seeded(seed)))
    for one in cut[:, 0]:
        black = (one == 0).nonzero()
        if len(black):
            sides = black.max(dim=0).values - black.min(dim=0).values + 1
            assert len(black) == int(sides.prod())
            assert int(sides.max()) <= largest * 20 + 1
        assert ((one == 0) | (one == 200)).all()


def test_mixup_lays_the_drawn_slice_over_and_weighs_both_labels():
    images, labels = batch(4), torch.tensor([0, 1, 2, 3])
    order = torch.tensor([1, 0, 3, 2])
    drawn = Draw(mixup=(0.75, order))
    close(apply(images, drawn), 0.75 * images + 0.25 * images[order])
    logits = torch.randn(4, 4, generator=seeded())
    by_hand = sum(
        -(0.75 * one[label].log() + 0.25 * one[other].log())
        for one, label, other in zip(logits.softmax(1), labels.tolist(), labels[order].tolist(), strict=True)
    )
    loss = mixed_loss(torch.nn.functional.cross_entropy, logits, labels, drawn)
    assert float(loss) == pytest.approx(float(by_hand) / 4, rel=1e-5)
    assert mixed_loss(torch.nn.functional.cross_entropy, logits, labels, None) == torch.nn.functional.cross_entropy(
        logits, labels
    )


@given(a=st.floats(0.01, 10), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_mixup_weights_are_at_least_a_half(a, seed):
    weight, order = draw(Augment(mixup=a), 6, 12, seeded(seed)).mixup
    assert 0.5 <= weight <= 1
    assert sorted(order.tolist()) == list(range(6))
