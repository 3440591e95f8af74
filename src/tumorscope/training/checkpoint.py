"""Checkpoints as safetensors: tensors by name, everything else as JSON in the header. No pickle is written or read."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tumorscope.errors import InputRejected, RunMismatch
from tumorscope.files import replacing

Weights = dict[str, Tensor]


@dataclass
class State:
    """Everything that changes from epoch to epoch, so that a run can go on as if it had never stopped.

    epoch : epochs finished
    generator : draws order and augmentation, on the CPU
    best : weights at the lowest validation loss, where early stopping keeps them
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    epoch: int = 0
    best: Weights = field(default_factory=dict)
    best_loss: float = float("inf")
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(path: Path, state: State) -> None:
    """Write `state` and the global random states of CPU and CUDA, atomically."""
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    optimiser = state.optimiser.state_dict()
    for index, slots in optimiser["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    tensors |= {"random.order": state.generator.get_state(), "random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    plain = {name: getattr(state, name) for name in ("epoch", "best_loss", "waited", "history")}
    save_weights(path, tensors, {"state": json.dumps(plain), "groups": json.dumps(optimiser["param_groups"])})


def load_checkpoint(path: Path, state: State) -> None:
    """Bring `state` and the global random states to what `path` holds.

    Raises `InputRejected` for a damaged file, `RunMismatch` for one of another network.
    """
    tensors, header = read_weights(path)
    try:
        state.network.load_state_dict(_below(tensors, "network."))
    except RuntimeError as error:
        raise RunMismatch(
            f"{path}: it is of another network than this recipe's is now. Train the run anew with --overwrite."
        ) from error
    state.best = _below(tensors, "best.")
    slots = _slots(_below(tensors, "optimiser."), state.optimiser)
    state.optimiser.load_state_dict({"state": slots, "param_groups": json.loads(header["groups"])})
    state.generator.set_state(tensors["random.order"])
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    for name, value in json.loads(header["state"]).items():
        setattr(state, name, value)


def save_weights(path: Path, tensors: Weights, header: dict[str, str]) -> None:
    """Write tensors and a header of strings as safetensors, atomically."""
    with replacing(path) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, temporary, header
        )


def read_weights(path: Path) -> tuple[Weights, dict[str, str]]:
    """Tensors of a safetensors file, on the CPU, and its header. Raises `InputRejected` for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise InputRejected(
            str(path), f"damaged ({error})", "must be whole safetensors", "Delete it, or put a whole one there."
        ) from error


def _slots(tensors: Weights, optimiser: torch.optim.Optimizer) -> dict[int, Weights]:
    """The optimiser's tensors by parameter, each laid out in memory as its parameter is.

    Files keep row order; the fused optimisers step through memory and would pair the values of a channels-last weight wrongly.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    slots: dict[int, Weights] = {}
    for name, value in tensors.items():
        index, _, slot = name.partition(".")
        laid_out = torch.empty_like(parameters[int(index)]).copy_(value) if value.ndim else value
        slots.setdefault(int(index), {})[slot] = laid_out
    return slots


def _below(tensors: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def copy_weights(network: nn.Module) -> dict[str, Any]:
    """The network's weights as they are now, detached from it."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
