"""Which runs a package can be made of, and which belong to it: those of its recipe, its data and its folds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tumorscope.config import Recipe
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import RunMismatch
from tumorscope.models.heads import POOLING
from tumorscope.protocols import ALL, digest, folds
from tumorscope.training.external import widened, with_rows
from tumorscope.training.runs import facts_of, shapes_of

#: What the map of a model's graph shows.
CLASS_MAPS = {"compact_cnn": "activation", "region_unet": "regions", "backbone": "activation"}


def facts_to_export(run: Path, catalogue: Catalogue) -> dict[str, Any]:
    """environment.json of a run that a package can be made of."""
    protocol = json.loads((run / "environment.json").read_text(encoding="utf-8"))["protocol"]
    if protocol == "external":
        raise RunMismatch(
            f"{run}: trained under external; a package is made of one on --data alone. Use --protocol {ALL}."
        )
    return facts_of(run, catalogue)


def patient_cv_of(
    run: Path, recipe: Recipe, facts: dict[str, Any], scored: Sequence[Path], catalogue: Catalogue
) -> list[Path]:
    """The patient-cv runs among `scored`; raises `RunMismatch` where something does not belong together, or there is none."""
    backbone = recipe.model.backbone
    head = backbone.head if backbone and recipe.model.name == "backbone" else ""
    if recipe.model.name not in CLASS_MAPS or (head and head not in POOLING):
        kind = f"a {head} head" if head else recipe.model.name
        raise RunMismatch(
            f"{run}: {kind} has no map; a package is made of compact_cnn, region_unet or a backbone with a "
            f"{' or '.join(sorted(POOLING))} head."
        )
    if recipe.pixels_of_fold:
        raise RunMismatch(
            f"{run}: its slices are made by another network (super-resolution, regions), which a package does not hold."
        )
    _need_the_same_folds(run, recipe, facts, catalogue)
    if len(facts["folds"]) != 1:
        raise RunMismatch(f"{run}: {len(facts['folds'])} models; train one with --protocol {ALL}.")
    cv = []
    for one in scored:
        other = json.loads((one / "environment.json").read_text())
        need_the_same_recipe(one, other, recipe, run)
        data = {"name": catalogue.name, "digest": catalogue.digest, "run_digest": facts["data"]["digest"]}
        need_the_same_data(one, other, data, run)
        if (theirs := shapes_of(one)) and theirs != shapes_of(run):
            raise RunMismatch(
                f"{one}: another network than {run}, trained before the recipe's network was changed or after; its scores would "
                "not be this model's. Train the older one again with --overwrite."
            )
        if other["protocol"] != "external":
            _need_the_same_folds(one, recipe, other, catalogue)
            if other["protocol"] == "patient-cv":
                cv.append(one)
    if not cv:
        raise RunMismatch(
            f"{run}: no patient-cv run of the same recipe among --scores; without one nothing is known of a new patient. "
            f"Train it with tumorscope train {run / 'recipe.toml'} --protocol patient-cv"
        )
    return cv


def need_the_same_recipe(run: Path, facts: dict[str, Any], recipe: Recipe, of: Path) -> None:
    """Raise `RunMismatch` where a run is of another recipe than `recipe`, that of `of`, names apart."""
    unnamed = {"name": "", "title": ""}
    if Recipe.model_validate(facts["recipe"]).model_copy(update=unnamed) != recipe.model_copy(update=unnamed):
        raise RunMismatch(f"{run}: another recipe than {of}; its scores would not be this model's.")


def need_the_same_data(run: Path, facts: dict[str, Any], data: dict[str, Any], of: Path) -> None:
    """Raise `RunMismatch` where a run was trained on other data than a card's, `data`; under external on another main set."""
    if facts["protocol"] != "external":
        same = facts["data"]["digest"] == data.get("run_digest", data["digest"])
    elif "sets" in facts:
        same = facts["sets"][0]["digest"] == data["digest"]
    else:  # runs of before have one digest, of the set that was tested on too, and the names of all
        same = facts["data"]["name"].startswith(f"{data['name']} with ")
    if not same:
        raise RunMismatch(
            f"{run}: trained on {facts['data']['name']}, other data than {of}, which is of {data['name']}. "
            "Train it on the same --data."
        )


def _need_the_same_folds(run: Path, recipe: Recipe, facts: dict[str, Any], catalogue: Catalogue) -> None:
    """Raise `RunMismatch` where the catalogue has learnt of pictures or patients since; held-out slices would not be held out."""
    wide, further = with_rows(recipe, catalogue)
    made = [widened(fold, wide.table, further)[0] for fold in folds(facts["protocol"], catalogue.table, facts["seed"])]
    if digest(made, wide.table) != facts["split"]:
        raise RunMismatch(
            f"{run}: its folds are not those that {catalogue.name} has now, since pictures or patients were found or named "
            "after it was trained. Train it again with --overwrite."
        )
