"""Weights for a backbone from slices: as a classifier of another labelled set, or without labels from two views of each slice.

Never from slices that are scored: weights for a fold come from its training part; a file made of another set names the sets that
it was proven apart from, and training refuses it for any other.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tumorscope.config import Augment, Backbone, Recipe, Training
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import RecipeError, SplitLeak, TumorscopeError
from tumorscope.models.backbones import feature_map, load_timm, make_features
from tumorscope.models.registry import build
from tumorscope.models.weights import Source
from tumorscope.training.checkpoint import State, load_checkpoint, save_checkpoint, save_weights
from tumorscope.training.fold import open_fabric
from tumorscope.training.loop import fit, reproducible
from tumorscope.training.network import Scaler
from tumorscope.transforms.augment import apply, draw

Say = Callable[[str, str], Callable[[int, int], None]]
#: Header field of a weights file that says what it was made of.
ORIGIN = "pretrained_on"
#: How the two views of a slice may differ: as two scans of one head might.
VIEWS = Augment.model_validate(
    {"mirror": 0.5, "rotate": 20.0, "scale": 0.25, "shift": 0.15, "bias_field": 0.3, "contrast": 0.3}
    | {"brightness": 0.1, "gamma": 0.4, "noise": 0.05, "cutout": 0.3}
)
#: Temperature of SimCLR's softmax over views, that of Chen et al. for small batches.
TEMPERATURE = 0.5


def fold_weights(
    recipe: Recipe, slices: Path, labels: np.ndarray, rows: np.ndarray, seed: int, device: str, say: Say
) -> Path:
    """Weights file learnt on the slices `rows` of the file `slices` alone, beside it; made where it is not there."""
    backbone = _backbone(recipe)
    asked = {
        "input": recipe.input.model_dump(mode="json"),
        "backbone": backbone.model_dump(mode="json", include={"name", "channels", "seed"}),
        "pretrain": recipe.pretrain.model_dump(mode="json"),
        **{"slices": slices.name, "rows": hashlib.sha256(np.sort(rows).tobytes()).hexdigest(), "seed": seed},
        **{"timm": load_timm().__version__, "torch": torch.__version__, "threads": recipe.training.threads},
        **{"precision": recipe.training.precision, "device": device},
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    file = slices.parent / f"weights-{backbone.name}-{key}.safetensors"
    if not file.exists():
        images = np.load(slices, mmap_mode="r")[np.sort(rows)]
        work = f"Pretraining {backbone.name} ({recipe.pretrain.method}) on {len(rows):,} slices"
        header = {ORIGIN: json.dumps({"fold": True, "slices": len(rows)})}
        pretrain(
            recipe, images, labels[np.sort(rows)], file, header, seed=seed, device=device, progress=say(work, "epochs")
        )
    return file


def check(recipe: Recipe) -> None:
    """Raise `RecipeError` for a recipe whose backbone other images cannot give weights: before they are read."""
    if recipe.pixels_of_fold:
        raise RecipeError(
            f"{recipe.name}: its slices are made for each fold, which other images have none of; use weights = pretrain, or take "
            "input.filter = mfcn and region_of_interest out"
        )
    build(classifier(recipe).model, recipe.input.size)


def pretrain(
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray | None,
    file: Path,
    header: dict[str, str],
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Learn the backbone's weights on slices uint8 (n, s, s) as `recipe.pretrain` says and write them to `file` (safetensors).

    labels : int64 (n,) from 0, needed by the method labels alone
    An interrupted one goes on from the checkpoint beside `file`; other data, settings or sets to be apart from have another.
    """
    decided = json.dumps([recipe.model_dump(mode="json"), header, seed], sort_keys=True).encode()
    data = (np.ascontiguousarray(images), np.zeros(0) if labels is None else labels)
    key = hashlib.sha256(b"".join([decided, *(part.tobytes() for part in data)])).hexdigest()[:12]
    checkpoint = file.with_name(f".{file.stem}.{key}.checkpoint.safetensors")
    fabric = open_fabric(device, recipe.training.precision)
    if recipe.pretrain.method == "labels":
        features = _by_labels(recipe, images, labels, checkpoint, fabric, seed, progress)
    else:
        features = _by_views(recipe, images, checkpoint, fabric, seed, progress)
    save_weights(file, features.state_dict(), {"backbone": _backbone(recipe).name, **header})
    checkpoint.unlink(missing_ok=True)
    return file


def origin_of(source: Source) -> str | None:
    """What weights that were learnt here were learnt on, by name; None of foreign files, which do not say."""
    if ORIGIN not in source.header:
        return None
    return str(json.loads(source.header[ORIGIN]).get("name", "a fold of this set"))


def need_apart(source: Source, catalogue: Catalogue) -> None:
    """Raise `SplitLeak` where weights were learnt here on slices that may be scored now; foreign files do not say."""
    name = origin_of(source)
    if name is None:
        return
    proven = json.loads(source.header[ORIGIN]).get("apart_from", ())
    unproven = [part.name for part in catalogue.sets if part.digest not in proven]
    if unproven:
        every = " ".join(f"--apart-from {part.origin}" for part in catalogue.sets)
        raise SplitLeak(
            f"{source.path}: learnt on {name}, which is not proven apart from {' and '.join(unproven)}. Make it with tumorscope "
            f"pretrain {every}, or use weights = pretrain, which learns on each fold's training part."
        )


class TwoViews(nn.Module):
    """Scaler, backbone, mean over places and lightly's projection head."""

    def __init__(self, recipe: Recipe, images: Tensor) -> None:
        super().__init__()
        self.backbone = _backbone(recipe)
        self.scale = Scaler(recipe, images)
        self.features = make_features(self.backbone.model_copy(update={"weights": "none"}), recipe.input.size, None)
        with torch.no_grad():
            self.features.eval()
            width = self._means(torch.zeros(1, 1, recipe.input.size, recipe.input.size)).shape[1]
        self.projection = _projection(recipe.pretrain.method, width, recipe.pretrain.projection)

    def forward(self, images: Tensor) -> Tensor:
        """Projections (n, p) of slices (n, 1, s, s) in 0..255."""
        projected: Tensor = self.projection(self._means(images))
        return projected

    def _means(self, images: Tensor) -> Tensor:
        return feature_map(self.features, self.scale(images), self.backbone).mean(dim=(2, 3))


def _by_views(
    recipe: Recipe,
    images: np.ndarray,
    checkpoint: Path,
    fabric: Fabric,
    seed: int,
    progress: Callable[[int, int], None],
) -> nn.Module:
    settings = recipe.pretrain
    batch_size = min(settings.batch_size, len(images))
    if batch_size < 2:
        raise TumorscopeError(
            f"pretrain: {len(images)} slices; two at least, so that a slice has another to differ from."
        )
    with reproducible(seed, recipe.training.threads, fabric.device):
        slices = torch.from_numpy(np.array(images)[:, None]).to(fabric.device)
        module = TwoViews(recipe, slices).to(fabric.device)
        loss_of = _loss(settings.method)
        optimiser = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=1e-4, fused=True)
        state = State(module, optimiser, torch.Generator().manual_seed(seed))
        wrapped, stepper = fabric.setup(module, optimiser)
        if checkpoint.exists():
            load_checkpoint(checkpoint, state)
        steps = len(slices) // batch_size
        while state.epoch < settings.epochs:
            module.train()
            order = torch.randperm(len(slices), generator=state.generator)[: steps * batch_size]
            for index, rows in enumerate(order.split(batch_size)):
                share = (state.epoch * steps + index) / (settings.epochs * steps)
                for group in stepper.param_groups:
                    group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * share)) / 2
                batch = slices[rows.to(fabric.device)].float()
                one, other = (apply(batch, draw(VIEWS, len(rows), recipe.input.size, state.generator)) for _ in "ab")
                loss = loss_of(*wrapped(torch.cat([one, other])).chunk(2))
                if not torch.isfinite(loss):
                    raise TumorscopeError(f"pretrain: the loss became {float(loss)}; lower pretrain.learning_rate.")
                stepper.zero_grad(set_to_none=True)
                fabric.backward(loss)
                stepper.step()
            state.epoch += 1
            save_checkpoint(checkpoint, state)
            progress(state.epoch, settings.epochs)
        return module.features


def _by_labels(
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray | None,
    checkpoint: Path,
    fabric: Fabric,
    seed: int,
    progress: Callable[[int, int], None],
) -> nn.Module:
    if labels is None or len(np.unique(labels)) < 2:
        raise TumorscopeError(
            "pretrain.method labels: it needs two classes at least; put each into a folder, or use simclr."
        )
    nothing = np.empty((0, *images.shape[1:]), np.uint8), np.empty(0, np.int64)
    settings = recipe.pretrain
    module, _ = fit(
        classifier(recipe),
        seed,
        (images, labels),
        nothing,
        fabric=fabric,
        checkpoint=checkpoint,
        report=lambda row: progress(int(row["epoch"]), settings.epochs),
        classes=int(labels.max()) + 1,
    )
    network: Any = module
    features: nn.Module = network.network.features
    return features


def classifier(recipe: Recipe) -> Recipe:
    """The recipe that the method labels trains: the whole backbone from random weights below a linear head."""
    backbone = _backbone(recipe).model_copy(
        update={"weights": "none", "head": "linear", "unfrozen": 99, "gradual": 0, "rate_decay": 1.0, "texture": None}
    )
    settings = recipe.pretrain
    return Recipe.model_validate(
        {
            "name": f"{recipe.name}-pretrain",
            "input": recipe.input.model_dump(),
            "model": {"name": "backbone", "backbone": backbone.model_dump()},
            "optimiser": {"name": "adamw", "learning_rate": settings.learning_rate, "weight_decay": 0.01},
            "schedule": {"name": "one_cycle"},
            "augment": {"mirror": 0.5, "rotate": 15.0, "scale": 0.1, "shift": 0.1},
            "training": Training(
                epochs=settings.epochs, batch_size=settings.batch_size, threads=recipe.training.threads
            ).model_dump(),
        }
    )


def _backbone(recipe: Recipe) -> Backbone:
    if recipe.model.backbone is None:
        raise RecipeError(f"{recipe.name}: {recipe.model.name} has no backbone; name one in [model.backbone]")
    return recipe.model.backbone


def _projection(method: str, width: int, out: int) -> nn.Module:
    load_timm()  # lightly imports torchvision as timm does
    from lightly.models.modules import BarlowTwinsProjectionHead, SimCLRProjectionHead

    if method == "simclr":
        return SimCLRProjectionHead(width, width, out)
    return BarlowTwinsProjectionHead(width, out, out)


def _loss(method: str) -> nn.Module:
    from lightly.loss import BarlowTwinsLoss, NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE) if method == "simclr" else BarlowTwinsLoss()
