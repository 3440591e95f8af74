"""Losses over logits (n, classes) and integer targets (n,), each the mean over the batch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tumorscope.config import Loss


def make_loss(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that a recipe names."""
    if loss.name == "focal":
        return lambda logits, target: focal_loss(logits, target, loss.gamma, loss.alpha)
    return lambda logits, target: F.cross_entropy(logits, target, label_smoothing=loss.label_smoothing)


def focal_loss(logits: Tensor, target: Tensor, gamma: float, alpha: float = 1.0) -> Tensor:
    """Softmax focal loss, mean of -alpha (1 - p)^gamma log p of the true class (Lin et al. 2017, arXiv:1708.02002).

    At gamma 0 and alpha 1 this is cross-entropy. Under Adam a scalar alpha changes next to nothing: the update is a ratio
    of gradient moments, in which a constant factor cancels.
    """
    log_p = F.log_softmax(logits, dim=1).gather(1, target[:, None]).squeeze(1)
    # Where p rounds to 1, a gamma below 1 has an infinite slope, and infinity times log 1 is no number.
    missing = (1 - log_p.exp()).clamp_min(torch.finfo(log_p.dtype).tiny)
    return -(alpha * torch.pow(missing, gamma) * log_p).mean()
