"""What a search may change: checked before the first trial, so that no trial leaves something out in silence."""

from typing import Any

from pydantic import BaseModel

from tumorscope.config import Recipe
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import InputRejected, RecipeError
from tumorscope.tuning.space import Space, first

#: Protocols whose validation parts share no picture with training. official's does, external needs a second set, all has none.
GROUPED = ("patient-cv", "published-cv", "picture-cv", "clean")


def need_grouped(protocol: str) -> None:
    """Raise `InputRejected` unless slices of one picture are never on both sides of the protocol's validation parts."""
    if protocol not in GROUPED:
        limit = "a search judges trials on validation slices that share no picture with training"
        raise InputRejected("protocol", protocol, limit, f"Choose {', '.join(GROUPED[:-1])} or {GROUPED[-1]}.")


def need_searchable(recipe: str, base: Recipe, space: Space) -> None:
    """Raise `RecipeError` for fields that the recipe lacks, and for what trials would silently leave out.

    All trials see the same slices, and heads on a frozen backbone the same features.
    """
    if base.pixels_of_fold:
        raise RecipeError(f"{base.name}: its slices are made for each fold, which a search does not do; use train")
    if base.external:
        raise RecipeError(f"{base.name}: external: a search has no further sets; take it out")
    pixels = [key for key in space if key.startswith("input.") and key != "input.normalise"]
    if pixels:
        raise RecipeError(f"{pixels[0]}: every trial sees the recipe's own slices; take it out of the space")
    whole = [key for key in space if key == "external" or isinstance(_value(base, key), BaseModel)]
    if whole:
        raise RecipeError(f"{whole[0]}: a search changes single fields; name those in it")
    if base.frozen:
        _need_same_features(base, space)
    unfrozen = space.get("model.backbone.unfrozen")
    if unfrozen and 0 in (unfrozen.low, *unfrozen.choices):
        raise RecipeError("model.backbone.unfrozen: a search trains through the network; take 0 out of the space")
    if "model.backbone.weights" in space:
        raise RecipeError(
            "model.backbone.weights: nobody proves a trial's weights apart from the set; take it out of the space"
        )
    first(recipe, space)  # before the storage is claimed for a space with a typo, which mended would be another one


def _need_same_features(base: Recipe, space: Space) -> None:
    """Raise `RecipeError` for fields that change a frozen backbone's features, which are computed once for all trials."""
    from tumorscope.models.heads import POOLING
    from tumorscope.training.features import views

    backbone = base.model.backbone
    assert backbone is not None
    of_head = ["model.backbone.head"]
    if backbone.texture:
        of_head += ["model.backbone.texture.fusion", "model.backbone.texture.width"]
    for key, values in space.items():
        of_backbone = key.startswith("model.backbone.") and key not in of_head
        if of_backbone or key in ("model.name", "input.normalise"):
            raise RecipeError(
                f"{key}: a frozen backbone's features are computed once for all trials; take it out of the space"
            )
        if key == "model.backbone.head" and len({head in POOLING for head in (backbone.head, *values.choices)}) > 1:
            raise RecipeError(
                f"{key}: features are stored as means over places for {' and '.join(POOLING)}, whole for other heads, and "
                f"the recipe's is {backbone.head}; keep to heads of one kind"
            )
        if key in ("augment.mirror", "training.mirror_average") and views(base) == 1:
            raise RecipeError(
                f"{key}: features of mirrors are stored where the recipe mirrors; set augment.mirror in it"
            )


def _value(base: Recipe, key: str) -> Any:
    """What the recipe holds at a dotted key; None where it has no such table or field."""
    value: Any = base
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def need_weights(base: Recipe, catalogue: Catalogue) -> None:
    """Raise `RecipeError` for weights that a fold would have to learn first, and what `weights_of` and `need_apart` raise."""
    if base.model.backbone is None:
        return
    if base.model.backbone.weights == "pretrain":
        raise RecipeError(
            f"{base.name}: model.backbone.weights: a search learns none for its folds; make them with tumorscope pretrain "
            "and give file:PATH"
        )
    from tumorscope.models.weights import weights_of
    from tumorscope.training.pretrain import need_apart

    if source := weights_of(base.model.backbone):
        need_apart(source, catalogue)
