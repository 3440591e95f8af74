"""What is trained, stored and run: a scaler and a network, or a head on a frozen backbone's stored features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tumorscope.config import Recipe
from tumorscope.errors import RunMismatch, TumorscopeError
from tumorscope.labels import CLASSES
from tumorscope.models.registry import build, drawn_at_random
from tumorscope.training.checkpoint import read_weights
from tumorscope.training.fold import BACKBONE

#: Pixels of slices that pass through a network at once outside training, by device. On a GPU a memory limit: VGG16 needs 9 KB a
#: pixel. On a CPU few, since maps that leave its cache, and memory that is asked for anew, cost time.
PIXELS_AT_ONCE = {"cpu": 8 * 128 * 128, "cuda": 64 * 128 * 128}
#: Channels, rows and columns of a feature map.
Shape = tuple[int, int, int]


def at_once(side: int, device: str) -> int:
    """Slices of `side` pixels that pass through a network at once."""
    return max(1, PIXELS_AT_ONCE[device] // side**2)


def in_turn(images: Tensor) -> tuple[Tensor, ...]:
    """Slices (n, 1, s, s) in batches to be scored; stored features, which a head is quick with, in larger ones."""
    return images.split(at_once(images.shape[-1], images.device.type) if images.ndim == 4 else 512)


class Scaler(nn.Module):
    """uint8 grey to the network's float input; mean and deviation travel with the weights.

    They come from the training part, or from what timm states for a backbone, a channel each; else values go to 0..1.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, recipe: Recipe, training: Tensor | None = None) -> None:
        super().__init__()
        mean, deviation = torch.tensor(0.0), torch.tensor(255.0)
        if recipe.input.normalise == "backbone" and recipe.model.backbone is not None:
            mean, deviation = _stated(recipe.model.backbone.name, recipe.model.backbone.channels)
        if recipe.input.normalise == "standard" and training is not None:
            values = training.float()
            mean, deviation = values.mean(), values.std()
            if not float(deviation) > 0:
                raise TumorscopeError(
                    f"input.normalise: every training pixel is {float(mean):g}, which has no spread to divide by. "
                    "Check the slices."
                )
        self.register_buffer("mean", mean.cpu())
        self.register_buffer("deviation", deviation.cpu())

    def forward(self, images: Tensor) -> Tensor:
        """Float32 (n, 1, s, s), or (n, 3, s, s) where each channel has its own mean; channels last in memory."""
        return ((images.float() - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)


class SliceNetwork(nn.Module):
    """Scaler and network in one."""

    def __init__(self, recipe: Recipe, training: Tensor | None = None, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.scale = Scaler(recipe, training)
        networks = [build(recipe.model, recipe.input.size, classes) for _ in range(recipe.training.members)]
        self.network = networks[0] if len(networks) == 1 else Members(networks)

    def forward(self, images: Tensor, regions: bool = False) -> Any:
        """Logits (n, classes) of uint8 or float images (n, 1, s, s) in 0..255; of a region model also its pixels' logits."""
        return self.network(self.scale(images), regions=True) if regions else self.network(self.scale(images))

    def mirrored(self, images: Tensor) -> Tensor:
        """The slices left to right."""
        return images.flip(3)


class Members(nn.Module):
    """Networks of one recipe that were trained apart and answer together (Lakshminarayanan et al. 2017, arXiv:1612.01474)."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)

    def forward(self, images: Tensor, regions: bool = False) -> Any:
        """Logs of the members' mean probabilities (n, classes); with `regions` also the mean of their pixels' logits."""
        if not regions:
            return _mean_answer([member(images) for member in self.members])
        answers = [member(images, regions=True) for member in self.members]
        return _mean_answer([slices for slices, _ in answers]), torch.stack([pixels for _, pixels in answers]).mean(0)

    def explained(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer and map as above, and the first member's embedding, since places in those of others mean other things."""
        parts: list[Any] = [member.explained(images) for member in self.members]  # type: ignore[operator]
        slices, maps, embeddings = zip(*parts, strict=True)
        return _mean_answer(slices), torch.stack(maps).mean(0), embeddings[0]


def _mean_answer(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([one.softmax(1) for one in logits]).mean(0).clamp_min(1e-12).log()


class FeatureNetwork(nn.Module):
    """A head on stored features: float32 (n, views, channels * rows * columns + texture), view 0 the slice, view 1 its mirror.

    training : features of the training part, that texture is standardised with
    """

    def __init__(self, recipe: Recipe, shape: Shape, training: Tensor, classes: int = len(CLASSES)) -> None:
        from tumorscope.models.heads import Head

        super().__init__()
        self.shape, self.mirror = shape, recipe.augment.mirror
        self.length = shape[0] * shape[1] * shape[2]
        self.head = Head(recipe.model, shape, classes, training.shape[2] - self.length)
        if self.head.branch is not None:
            self.head.branch.standardise(training[:, 0, self.length :])

    def forward(self, features: Tensor) -> Tensor:
        """Logits (n, classes); in training each slice's mirror stands in for it with the recipe's share."""
        chosen = features[:, 0]
        if self.training and features.shape[1] > 1 and self.mirror:
            turned = torch.rand(len(features), device=features.device) < self.mirror
            chosen = torch.where(turned[:, None], features[:, 1], chosen)
        places, texture = chosen[:, : self.length], chosen[:, self.length :]
        return self.head(places.reshape(-1, *self.shape), texture if texture.shape[1] else None)

    def mirrored(self, features: Tensor) -> Tensor:
        """The mirrors in the slices' place."""
        return features.flip(1)


def untrained_network(recipe: Recipe) -> SliceNetwork:
    """The network that a recipe trains, all of it drawn at random: no weights that it starts from are read."""
    return SliceNetwork(recipe.model_copy(update={"model": drawn_at_random(recipe.model)}))


def load_network(fold: Path, recipe: Recipe) -> SliceNetwork:
    """The trained network of a run's fold, ready to answer; of a frozen recipe the backbone with the stored head.

    Raises `TumorscopeError` where texture, which comes from outside the network, is part of the model.
    """
    tensors, header = read_weights(fold / "weights.safetensors")
    if not recipe.frozen:
        module = untrained_network(recipe)
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunMismatch(
                f"{fold}: its weights do not fit the network that {recipe.name} is now. Train it again with --overwrite."
            ) from error
        return module.eval()
    from tumorscope.models.weights import weights_of
    from tumorscope.training.features import fold_recipe, weights_sha256

    assert recipe.model.backbone is not None
    if recipe.model.backbone.texture:
        raise TumorscopeError(f"{fold}: texture is computed outside the network, so it cannot be used on pixels alone.")
    own = fold / BACKBONE  # runs made before it was kept there name a file elsewhere
    recipe = fold_recipe(recipe, str(own) if own.exists() else header.get("backbone", ""))
    assert recipe.model.backbone is not None
    now = weights_sha256(recipe.model.backbone, weights_of(recipe.model.backbone))
    if header.get("backbone_sha256", now) != now:
        raise RunMismatch(
            f"{fold}: its head was trained on other weights of {recipe.model.backbone.name} than are there now "
            f"({header['backbone_sha256'][:24]}, now {now[:24]}). Put those back, or train it again."
        )
    module = SliceNetwork(recipe)
    head: Any = module.network.head
    head.load_state_dict({name.removeprefix("head."): value for name, value in tensors.items()})
    return module.eval()


def _stated(name: str, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation a channel, (channels, 1, 1) in 0..255; their means over colours for one channel."""
    from tumorscope.models.backbones import contract_of

    contract = contract_of(name)
    found = [torch.tensor(values) * 255 for values in (contract.mean, contract.deviation)]
    mean, deviation = (value if channels == 3 else value.mean(0, keepdim=True) for value in found)
    return mean[:, None, None], deviation[:, None, None]
