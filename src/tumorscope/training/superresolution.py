"""Super-resolution learnt on a fold's training slices: small slices enlarged against the same slices at full size."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from tumorscope.config import Recipe, SuperResolution
from tumorscope.data.decode import enlarge
from tumorscope.models.superresolution import FusionNetwork
from tumorscope.training.checkpoint import State, load_checkpoint, read_weights, save_checkpoint, save_weights
from tumorscope.training.loop import reproducible

#: Side of the patches that it learns on, at most, and pixels that are sharpened at once; limits of time and memory.
PATCH, BATCH_PIXELS = 60, 64 * 60 * 60
#: What it is compared with.
FILTERS = ("bicubic", "lanczos")


def learn(
    recipe: Recipe,
    enlarged: np.ndarray,
    real: np.ndarray,
    file: Path,
    *,
    seed: int,
    device: str,
    progress: Callable[[int, int], None],
) -> None:
    """Train on slices uint8 (n, s, s), enlarged and real, by mean squared error, and write the weights to `file`.

    An interrupted training goes on from the checkpoint beside `file`.
    """
    settings, checkpoint = recipe.super_resolution, file.with_name(f".{file.stem}.checkpoint.safetensors")
    with reproducible(seed, recipe.training.threads, torch.device(device)):
        before, after = (torch.from_numpy(np.array(images)[:, None]).to(device) for images in (enlarged, real))
        module = FusionNetwork(settings).to(device).train()
        optimiser = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
        state = State(module, optimiser, torch.Generator().manual_seed(seed))
        if checkpoint.exists():
            load_checkpoint(checkpoint, state)
        steps = -(-len(before) // settings.batch_size)
        while state.epoch < settings.epochs:
            order = torch.randperm(len(before), generator=state.generator)
            for index, rows in enumerate(order.split(settings.batch_size)):
                share = (state.epoch * steps + index) / (settings.epochs * steps)
                for group in optimiser.param_groups:
                    group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * share)) / 2
                place = _patch(before.shape[-1], state.generator)
                rows = rows.to(device)
                loss = F.mse_loss(module(_values(before[rows][place])), _values(after[rows][place]))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
            state.epoch += 1
            save_checkpoint(checkpoint, state)
            progress(state.epoch, settings.epochs)
    save_weights(file, module.state_dict(), {"super_resolution": settings.model_dump_json()})
    checkpoint.unlink(missing_ok=True)


def sharpened(file: Path, settings: SuperResolution, enlarged: np.ndarray, device: str) -> np.ndarray:
    """Slices uint8 (n, s, s), enlarged, as the network in `file` gives them: uint8 (n, s, s)."""
    module = FusionNetwork(settings).to(device).eval()
    module.load_state_dict(read_weights(file)[0])
    out = np.empty(enlarged.shape, np.uint8)
    batch = max(1, BATCH_PIXELS // enlarged.shape[1] ** 2)
    with torch.inference_mode():
        for start in range(0, len(enlarged), batch):
            part = torch.from_numpy(np.array(enlarged[start : start + batch])[:, None]).to(device)
            made = (module(_values(part))[:, 0] * 255).round().clamp(0, 255)
            out[start : start + batch] = made.to(torch.uint8).cpu().numpy()
    return out


def likeness(small: np.ndarray, real: np.ndarray, made: np.ndarray) -> pd.DataFrame:
    """PSNR in dB and SSIM (Wang et al. 2004, doi:10.1109/TIP.2003.819861) to the real slices: a row a slice and filter.

    small : uint8 (n, t, t), the slices that all filters start from; real, made : uint8 (n, s, s)
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    rows = []
    for index, truth in enumerate(real):
        answers = {name: enlarge(small[index], truth.shape[0], name) for name in FILTERS} | {"mfcn": made[index]}
        for name, image in answers.items():
            psnr = peak_signal_noise_ratio(truth, image) if (truth != image).any() else math.inf
            ssim = structural_similarity(truth, image, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
            rows.append({"slice": index, "filter": name, "psnr": psnr, "ssim": ssim})
    return pd.DataFrame(rows)


def sheet(small: np.ndarray, real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """A picture, uint8 (h, w): a row a slice, from left to right nearest, bicubic, Lanczos, the network, and the real slice."""
    side = real.shape[1]
    rows = [
        np.hstack([*(enlarge(tiny, side, name) for name in ("nearest", *FILTERS)), sharp, truth])
        for tiny, truth, sharp in zip(small, real, made, strict=True)
    ]
    return np.vstack(rows)


def _values(images: Tensor) -> Tensor:
    return images.float() / 255


def _patch(side: int, generator: torch.Generator) -> Any:
    """Where a batch is cut, the same for all its slices."""
    if side <= PATCH:
        return (...,)
    top, left = torch.randint(side - PATCH + 1, (2,), generator=generator).tolist()
    return (..., slice(top, top + PATCH), slice(left, left + PATCH))
