"""Features of a frozen backbone, computed once for every slice (and its mirror) and kept as one memory-mapped file.

The file's name carries everything that decides its content: slices, input contract, backbone, the weights' sha256, versions and
device, since features of a CPU and of a GPU differ in their last bits.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tumorscope import home
from tumorscope.config import Backbone, Recipe
from tumorscope.files import replacing
from tumorscope.models.backbones import feature_map, feature_shape, load_timm, make_features
from tumorscope.models.heads import POOLING
from tumorscope.models.weights import Source, weights_of
from tumorscope.training.network import Scaler, Shape, at_once
from tumorscope.transforms.texture import texture_values

Progress = Callable[[int, int], None]
#: Of the files; another one where features of the same weights and slices are computed in another way.
FORMAT = 2


@dataclass(frozen=True)
class Features:
    """Stored features: files of float32 (n, views, c, h, w) and, where the recipe asks for texture, (n, views, k).

    shape : c, h, w; sha256 : of the backbone's weights file, or how they were drawn; weights : that file, "" where drawn
    """

    maps: Path
    texture: Path | None
    shape: Shape
    sha256: str
    weights: str

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Float32 (len(rows), views, c * h * w + k), in memory."""
        maps = np.load(self.maps, mmap_mode="r")[rows]
        flat = maps.reshape(*maps.shape[:2], math.prod(maps.shape[2:]))
        if self.texture is None:
            return flat
        return np.concatenate([flat, np.load(self.texture, mmap_mode="r")[rows]], axis=2)


def fold_recipe(recipe: Recipe, weights: str) -> Recipe:
    """The recipe with `weights`, a file, in the place of "pretrain"; itself where it asks for others."""
    backbone = recipe.model.backbone
    if backbone is None or backbone.weights != "pretrain":
        return recipe
    changed = backbone.model_copy(update={"weights": f"file:{weights}"})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"backbone": changed})})


def stored_features(
    recipe: Recipe,
    slices: Path,
    folder: Path,
    device: str,
    say: Callable[[str], Progress] = lambda work: lambda done, total: None,
) -> Features:
    """Features of every slice in the file `slices`, uint8 (n, s, s), from `folder` where they are there already.

    device : "cpu" or "cuda", which computes them
    say : gives for each piece of work, by its name, what is told of its progress
    Raises what `weights_of` raises.
    """
    backbone = recipe.model.backbone
    assert backbone is not None
    source = weights_of(backbone)
    sha256 = weights_sha256(backbone, source)
    key = _key(
        recipe.input.model_dump(mode="json"),
        backbone.model_dump(mode="json", include={"name", "channels"}),
        {
            "slices": slices.name,
            **{"weights": sha256, "format": FORMAT},
            **{"timm": load_timm().__version__, "device": device},
            "means": backbone.head in POOLING,
            "views": views(recipe),
        },
    )
    file = folder / f"features-{backbone.name}-{key}.npy"
    if not file.exists():
        progress = say(f"Features of {backbone.name}")
        _compute(recipe, np.load(slices, mmap_mode="r"), source, file, device, progress)
    shape = np.load(file, mmap_mode="r").shape
    texture = _texture(recipe, slices, folder, say("Texture")) if backbone.texture else None
    weights = str(source.path.resolve()) if source else ""
    return Features(file, texture, (shape[2], shape[3], shape[4]), sha256, weights)


def weights_sha256(backbone: Backbone, source: Source | None) -> str:
    """Of a backbone's weights file, or how they are drawn."""
    return source.sha256 if source else f"drawn-{backbone.seed}-torch-{torch.__version__}"


def views(recipe: Recipe) -> int:
    """2 where the recipe mirrors slices, in training or in answering."""
    return 2 if recipe.augment.mirror or recipe.training.mirror_average else 1


def _compute(
    recipe: Recipe, images: np.ndarray, source: Source | None, file: Path, device: str, progress: Progress
) -> None:
    from tumorscope.training.loop import reproducible

    backbone = recipe.model.backbone
    assert backbone is not None
    network = make_features(backbone, recipe.input.size, source).eval().to(device)
    scale = Scaler(recipe).to(device)
    shape = feature_shape(network, backbone, recipe.input.size)
    batch = at_once(recipe.input.size, device)
    with (
        reproducible(0, home.cores() if device == "cpu" else recipe.training.threads, torch.device(device)),
        replacing(file) as temporary,
        torch.inference_mode(),
    ):
        size = (len(images), views(recipe), *shape)
        stored: Any = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=size)
        for start in range(0, len(images), batch):
            part = torch.from_numpy(np.array(images[start : start + batch])[:, None]).to(device)
            for view in range(size[1]):
                made = feature_map(network, scale(part.flip(3) if view else part), backbone)
                made = made.mean(dim=(2, 3), keepdim=True) if backbone.head in POOLING else made
                stored[start : start + batch, view] = made.float().cpu().numpy()
            progress(min(start + batch, len(images)), len(images))
        stored.flush()
        del stored


def _texture(recipe: Recipe, slices: Path, folder: Path, progress: Progress) -> Path:
    """File of texture values, float32 (n, views, k)."""
    assert recipe.model.backbone is not None
    assert recipe.model.backbone.texture is not None
    texture = recipe.model.backbone.texture
    asked = texture.model_dump(mode="json", include={"properties", "distances", "angles", "levels"})
    file = folder / f"texture-{_key(asked, {'slices': slices.name, 'views': views(recipe)})}.npy"
    if not file.exists():
        images = np.load(slices, mmap_mode="r")
        turns = (1, -1)[: views(recipe)]
        seen = [
            texture_values(images[:, :, ::turn], texture, partial(_in_turn, progress, place, len(turns)))
            for place, turn in enumerate(turns)
        ]
        with replacing(file) as temporary:
            np.save(temporary, np.stack(seen, axis=1))
    return file


def _in_turn(progress: Progress, place: int, count: int, done: int, total: int) -> None:
    """Progress of the pass `place` (from 0) of `count` equal ones."""
    progress(place * total + done, count * total)


def _key(*parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
