"""Backbones of timm's registry below our heads, frozen or trained from a stage on.

timm states for each network the size, mean, deviation and interpolation that its weights were trained with: its contract.
"""

import contextlib
import sys
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn

from tumorscope.config import Backbone, Model
from tumorscope.errors import InputRejected, RecipeError, first_line
from tumorscope.models.heads import POOLING, Head
from tumorscope.models.registry import register
from tumorscope.models.weights import Source, weights_of


@dataclass(frozen=True)
class Contract:
    """What a network's published weights expect: pixels a side, mean and deviation a channel in 0..1, interpolation."""

    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    interpolation: str

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@register("backbone")
def backbone_network(model: Model, size: int, classes: int) -> nn.Module:
    """The backbone that `model.backbone` names, with its weights and head; `dense` and `dropout` are the head's."""
    assert model.backbone is not None
    source = weights_of(model.backbone)
    return BackboneNetwork(model, make_features(model.backbone, size, source), size, classes)


class Trunk(nn.Module):
    """A backbone's features, of which the last stages are trained, as the recipe says, and the others do not move."""

    def __init__(self, backbone: Backbone, features: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = features
        #: Modules by stage, from first to last.
        self.stages = stages(features)
        #: How many of the last stages are trained at present.
        self.unfrozen = 0
        self.unfreeze(0)

    def unfreeze(self, epoch: int) -> None:
        """Set what is trained in `epoch` (from 0): the last stages that the recipe names, one more every `gradual` epochs."""
        spec, known = self.backbone, self.stages
        due = 1 + epoch // spec.gradual if spec.gradual else spec.unfrozen
        self.unfrozen = min(due, spec.unfrozen, len(known)) if spec.unfrozen else 0
        for number, stage in enumerate(reversed(known)):
            for module in stage:
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(number < self.unfrozen)

    def train(self, mode: bool = True) -> Self:
        """As usual, but frozen stages stay in evaluation mode: their statistics do not move, and they drop nothing."""
        super().train(mode)
        if mode:
            known = self.stages
            for stage in known[: len(known) - self.unfrozen]:
                for module in stage:
                    module.training = False  # eval() would reach into later stages, of which some modules are the frame
        return self

    def rate_groups(self, whole: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters of `whole`, which holds this trunk, with the factor on their learning rate.

        What is not of the backbone has 1, each earlier stage `rate_decay` times the next; stages that stay frozen are left out.
        """
        inside = {id(parameter) for parameter in self.features.parameters()}
        groups = [([parameter for parameter in whole.parameters() if id(parameter) not in inside], 1.0)]
        trained = self.stages[-self.backbone.unfrozen :] if self.backbone.unfrozen else []
        for number, stage in enumerate(reversed(trained)):
            held = [parameter for module in stage for parameter in module.parameters(recurse=False)]
            groups += [(held, self.backbone.rate_decay ** (number + 1))] if held else []
        return groups


class BackboneNetwork(Trunk):
    """Grey slices (n, 1, s, s), scaled, to logits (n, classes). Raises `InputRejected` for slices of another size.

    Pooling heads would take any size, and answer with features at a scale that they have not learnt.
    """

    def __init__(self, model: Model, features: nn.Module, size: int, classes: int) -> None:
        assert model.backbone is not None
        super().__init__(model.backbone, features)
        self.size = size
        self.head = Head(model, feature_shape(features, model.backbone, size), classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return self.head(self._features(images))

    def _features(self, images: Tensor) -> Tensor:
        if images.shape[2:] != (self.size, self.size):
            given, built = (f"{rows}x{columns} px" for rows, columns in (images.shape[2:], (self.size, self.size)))
            raise InputRejected("slices", given, f"{self.backbone.name} was built for {built}", "Resize them.")
        return feature_map(self.features, images, self.backbone)

    def explained(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, class activation map (n, classes, h, w) and embedding (n, channels); of pooling heads."""
        features = self._features(images)
        return self.head(features), self.head.maps(features), features.mean(dim=(2, 3))


class Levels(Trunk):
    """A backbone's feature maps at its first `count` resolutions, fine to coarse.

    features : from `make_features` with as many levels. Raises `RecipeError` where slices of `size` are too small for them.
    """

    def __init__(self, backbone: Backbone, features: nn.Module, count: int, size: int) -> None:
        super().__init__(backbone, features)
        self.indices = list(range(count))
        info: Any = features.feature_info
        self.channels: list[int] = [entry["num_chs"] for entry in list(info)[:count]]
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, backbone.channels, size, size))
        sides = [one.shape[2] for one in maps]
        if sides != sorted(set(sides), reverse=True):
            raise RecipeError(
                f"{backbone.name} at {size}x{size}: maps of {', '.join(map(str, sides))} px a side, and each must be coarser "
                "than the one before. Choose a larger input.size, fewer model.filters or a convolutional network."
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (n, channels, h, w), fine to coarse, of scaled slices (n, 1 or 3, s, s)."""
        whole: Any = self.features
        found: list[Tensor] = whole.forward_intermediates(
            in_colour(images, self.backbone), indices=self.indices, intermediates_only=True, stop_early=True
        )
        return found

    @property
    def deepest(self) -> nn.Module:
        """What makes the coarsest map."""
        info: Any = self.features.feature_info
        return self.features.get_submodule(info[self.indices[-1]]["module"])


def trunk_of(module: nn.Module) -> Trunk | None:
    """The backbone inside a network, where it has one."""
    return next((part for part in module.modules() if isinstance(part, Trunk)), None)


def contract_of(name: str) -> Contract:
    """Of a timm network by name; raises `RecipeError` for an unknown one."""
    timm = load_timm()
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:5]}*")[:5]) or "vgg16, resnet50, densenet121"
        raise RecipeError(f"model.backbone.name: timm {timm.__version__} knows no {name!r}; among others {near}")
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # what stands behind the dot names weights
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise RecipeError(
            f"model.backbone.name: timm {timm.__version__} knows no {name!r}; published: {tags}"
        ) from error
    return Contract(known.input_size[-1], tuple(known.mean), tuple(known.std), known.interpolation)


def make_features(backbone: Backbone, size: int, source: Source | None, levels: int = 0) -> nn.Module:
    """The network without its classifier, with `source`'s weights or drawn at random with the recipe's seed.

    levels : feature maps behind which the rest is cut off, counted from the finest; 0 keeps all

    Raises `RecipeError` for an unknown name or a size that it does not take, `InputRejected` for weights that do not fit.
    """
    timm = load_timm()
    contract_of(backbone.name)
    settings: dict[str, Any] = {"num_classes": 0, "in_chans": backbone.channels}
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(None):
        torch.manual_seed(backbone.seed)
        try:
            if timm.get_pretrained_cfg(backbone.name).fixed_input_size:  # transformers, whose positions are of one size
                settings["img_size"] = size
            network = timm.create_model(backbone.name, **settings)
        except (AssertionError, ValueError, TypeError, RuntimeError) as error:
            raise RecipeError(f"{backbone.name} at {size}x{size}: {error}; change input.size") from error
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    patch = patch if isinstance(patch, int) else patch[0]
    if "img_size" in settings and size % patch:
        raise RecipeError(f"{backbone.name} at {size}x{size}: its patches are {patch} pixels wide; choose a multiple")
    if levels:
        _cut(network, backbone, levels)
    for unused in ("pre_logits", "head", "fc", "classifier"):  # what timm keeps behind the features
        if isinstance(getattr(network, unused, None), nn.Module):
            setattr(network, unused, nn.Identity())
    if source is not None:
        source.put_into(network, partly=bool(levels))
    placed: nn.Module = network.to(memory_format=torch.channels_last)
    return placed


def _cut(network: Any, backbone: Backbone, levels: int) -> None:
    """Take off what lies behind the first `levels` feature maps."""
    if not hasattr(network, "prune_intermediate_layers"):
        raise RecipeError(f"{backbone.name}: timm gives no feature maps of it; choose another model.backbone.name")
    if len(network.feature_info) < levels:
        known = len(network.feature_info)
        raise RecipeError(f"model.filters: {levels} levels of {backbone.name}, which gives {known}; list fewer filters")
    network.prune_intermediate_layers(list(range(levels)), prune_norm=True, prune_head=True)


def feature_map(features: nn.Module, images: Tensor, backbone: Backbone) -> Tensor:
    """(n, channels, h, w) of scaled slices (n, 1 or 3, s, s); a transformer's tokens become one place, their mean."""
    made: Any = features.forward_features(in_colour(images, backbone))  # type: ignore[operator]
    if not isinstance(made, Tensor):
        raise RecipeError(
            f"{backbone.name}: its features are of several kinds at once; choose another model.backbone.name"
        )
    if made.ndim == 4 and str(getattr(features, "output_fmt", "NCHW")).endswith("NHWC"):
        made = made.permute(0, 3, 1, 2)
    found: Tensor = made if made.ndim == 4 else made.mean(dim=1)[:, :, None, None]
    return found


def in_colour(images: Tensor, backbone: Backbone) -> Tensor:
    """Grey slices with as many channels as the backbone takes."""
    return images.expand(-1, backbone.channels, -1, -1) if images.shape[1] < backbone.channels else images


def feature_shape(features: nn.Module, backbone: Backbone, size: int) -> tuple[int, int, int]:
    """Channels, rows and columns of the feature map. Raises `RecipeError` for a size that leaves none."""
    before = features.training
    device = next(features.parameters()).device
    try:
        with torch.no_grad():
            made = feature_map(features.eval(), torch.zeros(1, backbone.channels, size, size, device=device), backbone)
    except (AssertionError, RuntimeError, ValueError) as error:
        why = first_line(error)
        raise RecipeError(f"{backbone.name} does not take {size}x{size}: {why}. Choose a larger input.size.") from error
    finally:
        features.train(before)
    if not made.numel():
        raise RecipeError(f"{backbone.name} leaves no pixel of {size}x{size}. Choose a larger input.size.")
    channels, rows, columns = made.shape[1:]
    return (channels, 1, 1) if backbone.head in POOLING else (channels, rows, columns)


def stages(features: nn.Module) -> list[list[nn.Module]]:
    """Modules in order, cut behind each one that timm's feature_info names; stages without parameters and statistics left out.

    Modules that hold nothing are among them, since some of them drop paths at random in training.
    """
    names = [name for name, _ in features.named_modules()]
    ends = [entry["module"] for entry in features.feature_info][:-1]  # type: ignore[union-attr]
    held = [[at for at, name in enumerate(names) if name == end or name.startswith(f"{end}.")] for end in ends]
    last = [max(places) for places in held if places]  # levels that were cut off have none
    found: list[list[nn.Module]] = [[] for _ in range(len(last) + 1)]
    for at, module in enumerate(features.modules()):
        found[sum(end < at for end in last)].append(module)
    return [stage for stage in found if any(_holds(module) for module in stage)]


def _holds(module: nn.Module) -> bool:
    """Whether it has parameters or statistics of its own."""
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])


@cache
def load_timm() -> Any:
    """timm. It imports torchvision for transforms that are not used here.

    torchvision's wheels on PyPI belong to CUDA builds of torch: beside a CPU build its compiled operators do not load, and its
    import fails on two that it then cannot describe. Declaring them is enough, since nothing here calls them.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            _DECLARED.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    return timm


#: Lasts as long as the process, and with it what it declares.
_DECLARED = torch.library.Library("torchvision", "FRAGMENT")
