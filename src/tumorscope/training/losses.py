"""Losses over logits (n, classes) and integer targets (n,), each the mean over the batch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tumorscope.config import Loss
from tumorscope.labels import INDEX

#: Of the effective number of samples (Cui et al. 2019, arXiv:1901.05555).
BETA = 0.999


def make_loss(loss: Loss, counts: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that a recipe names; `counts` (classes,) of the training part switch its class weights on."""
    alpha = torch.tensor(loss.alpha) if isinstance(loss.alpha, tuple) else loss.alpha
    if loss.name == "cross_entropy" and (counts is None or loss.class_weights == "none"):
        return lambda logits, target: F.cross_entropy(logits, target, label_smoothing=loss.label_smoothing)
    weights = None if counts is None else class_weights(loss.class_weights, counts)

    def weighted(logits: Tensor, target: Tensor) -> Tensor:
        if loss.name == "focal":
            each = _focal(logits, target, loss.gamma, alpha)
        else:
            each = F.cross_entropy(logits, target, label_smoothing=loss.label_smoothing, reduction="none")
        # The mean over the batch, as Keras has it, not over the weights.
        return (each if weights is None else each * weights[target]).mean()

    return weighted


def class_weights(kind: str, counts: Tensor) -> Tensor | None:
    """Weights float32 (classes,) with mean 1 over the classes that are there; None for "none". See `config.Loss`."""
    if kind == "none":
        return None
    counts = counts.float()
    effective = counts if kind == "balanced" else (1 - BETA**counts) / (1 - BETA)
    inverse = torch.where(counts > 0, 1 / effective.clamp_min(1e-12), torch.zeros_like(counts))
    return inverse * (counts > 0).sum() / inverse.sum()


def focal_loss(logits: Tensor, target: Tensor, gamma: float, alpha: float | Tensor = 1.0) -> Tensor:
    """Softmax focal loss, mean of -alpha (1 - p)^gamma log p of the true class (Lin et al. 2017, arXiv:1708.02002).

    alpha : one weight, or one a class, float32 (classes,)

    At gamma 0 and alpha 1 this is cross-entropy. Under Adam a scalar alpha changes next to nothing: the update is a ratio
    of gradient moments, in which a constant factor cancels.
    """
    return _focal(logits, target, gamma, alpha).mean()


def region_loss(pixels: Tensor, masks: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy of every pixel plus soft Dice loss of tumour against background, over slices whose mask is known.

    pixels : logits (n, classes, h, w), the channel of notumor being background; masks : float (n, 1, h, w) of 0 and 1
    labels : int64 (n,); known : bool (n,)
    """
    if not known.any():
        return pixels.sum() * 0
    pixels, inside, labels = pixels[known], masks[known, 0] > 0.5, labels[known]
    target = torch.where(inside, labels[:, None, None], INDEX["notumor"])
    chance = 1 - pixels.softmax(1)[:, INDEX["notumor"]]
    overlap = (chance * inside).sum()
    dice = (2 * overlap + 1) / (chance.sum() + inside.sum() + 1)
    return F.cross_entropy(pixels, target) + 1 - dice


def _focal(logits: Tensor, target: Tensor, gamma: float, alpha: float | Tensor) -> Tensor:
    log_p = F.log_softmax(logits, dim=1).gather(1, target[:, None]).squeeze(1)
    # Where p rounds to 1, a gamma below 1 has an infinite slope, and infinity times log 1 is no number.
    missing = (1 - log_p.exp()).clamp_min(torch.finfo(log_p.dtype).tiny)
    weight = alpha.to(logits.device)[target] if isinstance(alpha, Tensor) else alpha
    return -(weight * torch.pow(missing, gamma) * log_p)
