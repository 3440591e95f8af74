"""Losses against values worked out by hand and against cross-entropy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tumorscope.config import Loss
from tumorscope.training.losses import class_weights, focal_loss, make_loss

LOGIT = st.floats(-50, 50, width=32)
BATCH = st.lists(st.tuples(LOGIT, LOGIT, LOGIT, LOGIT, st.integers(0, 3)), min_size=1, max_size=8)


def tensors(batch: list[tuple[float, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = np.array(batch)
    return torch.tensor(rows[:, :4], dtype=torch.float32), torch.tensor(rows[:, 4], dtype=torch.int64)


def test_focal_values_by_hand():
    """Probabilities 1/2 and 1/4 for the true class: -0.25 (1/2)^2 log 1/2 and -0.25 (3/4)^2 log 1/4."""
    logits = torch.log(torch.tensor([[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]).clamp_min(1e-30))
    target = torch.tensor([1, 3])
    first, second = 0.25 * 0.25 * math.log(2), 0.25 * 0.5625 * math.log(4)
    assert float(focal_loss(logits[:1], target[:1], 2, 0.25)) == pytest.approx(first)
    assert float(focal_loss(logits[1:], target[1:], 2, 0.25)) == pytest.approx(second)
    assert float(focal_loss(logits, target, 2, 0.25)) == pytest.approx((first + second) / 2)


def test_focal_gradient_by_hand():
    """Two classes at p = 1/2, gamma 2: dL/dp = 2 (1 - p) log p - (1 - p)^2 / p and dp/dz = p (1 - p)."""
    logits = torch.zeros(1, 2, requires_grad=True)
    focal_loss(logits, torch.tensor([0]), 2).backward()
    p = 0.5
    by_hand = p * (1 - p) * (2 * (1 - p) * math.log(p) - (1 - p) ** 2 / p)
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([by_hand, -by_hand])


@given(BATCH)
@settings(max_examples=50, deadline=None)
def test_focal_at_gamma_0_and_alpha_1_is_cross_entropy(batch):
    logits, target = tensors(batch)
    torch.testing.assert_close(focal_loss(logits, target, 0, 1), F.cross_entropy(logits, target))


@given(BATCH, st.floats(0, 10), st.floats(0.01, 1))
@settings(max_examples=100, deadline=None)
def test_focal_is_finite_below_cross_entropy_and_proportional_to_alpha(batch, gamma, alpha):
    logits, target = tensors(batch)
    logits.requires_grad_()
    loss = focal_loss(logits, target, gamma, alpha)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    assert 0 <= loss <= alpha * F.cross_entropy(logits, target) * 1.0001 + 1e-6
    torch.testing.assert_close(loss, alpha * focal_loss(logits, target, gamma, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0, 2.0])
def test_a_slice_that_is_certain_has_no_gradient_and_not_an_undefined_one(gamma):
    logits = torch.tensor([[200.0, 0, 0, 0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0]), gamma).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_a_recipe_names_its_loss():
    logits, target = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    plain = make_loss(Loss())(logits, target)
    torch.testing.assert_close(plain, -logits.log_softmax(1)[range(5), target].mean())
    smooth = make_loss(Loss(label_smoothing=0.2))(logits, target)
    torch.testing.assert_close(smooth, 0.8 * plain - 0.2 * logits.log_softmax(1).mean())
    focal = make_loss(Loss(name="focal", gamma=3.0, alpha=0.5))(logits, target)
    torch.testing.assert_close(focal, focal_loss(logits, target, 3.0, 0.5))


def test_class_weights_by_hand():
    counts = torch.tensor([1, 2, 4, 4])  # inverses 1, 1/2, 1/4, 1/4 have mean 1/2
    weights = class_weights("balanced", counts)
    assert weights is not None
    assert weights.tolist() == pytest.approx([2, 1, 0.5, 0.5])
    assert class_weights("none", counts) is None
    effective = class_weights("effective", torch.tensor([1, 2, 0, 0]))
    assert effective is not None
    inverse = np.array([1.0, 1 / 1.999])  # effective numbers 1 and 1 + 0.999
    assert effective.tolist() == pytest.approx([*(2 * inverse / inverse.sum()), 0, 0], rel=1e-3)


def test_weighted_losses_are_the_mean_over_the_batch_of_weight_times_loss():
    logits, target = torch.zeros(2, 4), torch.tensor([0, 2])
    counts = torch.tensor([1, 2, 4, 4])
    for name, each in (("cross_entropy", math.log(4)), ("focal", 0.75**2 * math.log(4))):
        loss = Loss(name=name, class_weights="balanced")
        assert float(make_loss(loss, counts)(logits, target)) == pytest.approx(each * (2 + 0.5) / 2)
        assert float(make_loss(loss)(logits, target)) == pytest.approx(each)  # validation is not weighted


def test_an_alpha_a_class_weighs_each_slice_by_its_class():
    loss = Loss(name="focal", gamma=0.0, alpha=(1.0, 0.5, 0.25, 1.0))
    logits, target = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    assert float(make_loss(loss)(logits, target)) == pytest.approx(math.log(4) * 1.75 / 3)
