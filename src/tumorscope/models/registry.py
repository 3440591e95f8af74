"""Networks by name. Each builder takes the recipe's model part, the input size and the number of classes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tumorscope.config import Model
from tumorscope.errors import RecipeError
from tumorscope.labels import CLASSES

Builder = Callable[[Model, int, int], nn.Module]
_BUILDERS: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Decorator: make a builder known under `name`."""

    def add(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        return builder

    return add


def model_names() -> list[str]:
    """Every registered network."""
    _load()
    return sorted(_BUILDERS)


def build(model: Model, size: int, classes: int = len(CLASSES)) -> nn.Module:
    """The network of `model` for grey input (n, 1, size, size) float32 in 0..1, giving logits (n, classes).

    Raises `RecipeError` for an unknown name or an input too small for its poolings.
    """
    _load()
    if model.name not in _BUILDERS:
        raise RecipeError(f"model.name: {model.name!r} is unknown; allowed: {', '.join(model_names())}")
    network = _BUILDERS[model.name](model, size, classes)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def drawn_at_random(model: Model) -> Model:
    """The model with its backbone's weights drawn at random: its shape, where its own weights come later."""
    if model.backbone is None:
        return model
    return model.model_copy(update={"backbone": model.backbone.model_copy(update={"weights": "none"})})


@dataclass(frozen=True)
class Layer:
    """A row of the layer table: output shape without the batch axis (channels, rows, columns)."""

    name: str
    output: tuple[int, ...]
    parameters: int


def layer_table(network: nn.Module, size: int) -> list[Layer]:
    """Every leaf layer in the order in which data passes through it, for one grey slice of `size`."""
    layers: list[Layer] = []

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        count = sum(parameter.numel() for parameter in module.parameters())
        layers.append(Layer(_describe(module), tuple(output.shape[1:]), count))

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(note) for module in leaves]
    training = network.training
    try:
        with torch.no_grad():
            device = next(network.parameters()).device
            network.eval()(torch.zeros(1, 1, size, size, device=device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return layers


def _describe(module: nn.Module) -> str:
    match module:
        case nn.Conv2d():
            padding = "zero padding" if module.padding != (0, 0) else "no padding"
            return f"conv {module.out_channels} {module.kernel_size[0]}x{module.kernel_size[1]}, {padding}"
        case nn.MaxPool2d():
            return f"max-pool {module.kernel_size}"
        case nn.Linear():
            return f"dense {module.out_features}"
        case nn.Dropout():
            return f"dropout {module.p}"
        case _:
            return type(module).__name__.lower()


def _load() -> None:
    """Import the modules that register networks."""
    from tumorscope.models import backbones, regions, residual, small  # noqa: F401
