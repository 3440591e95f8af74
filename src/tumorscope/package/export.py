"""From finished runs to a model package: the graph, checked against torch on real slices; calibration, limits and the card."""

import datetime
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumorscope import __version__
from tumorscope.config import Recipe, load_recipe
from tumorscope.data.cache import input_pixels, pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import InputRejected, RunMismatch
from tumorscope.evaluation.figures import encoded, reliability
from tumorscope.files import as_json, write_bytes
from tumorscope.inference.gate import LOOK, layout
from tumorscope.labels import CLASSES, INDEX, LABELS
from tumorscope.package.belonging import (
    CLASS_MAPS,
    facts_to_export,
    need_the_same_data,
    need_the_same_recipe,
    patient_cv_of,
)
from tumorscope.package.calibration import answered, calibration, fits_of_folds
from tumorscope.package.card import FORMAT, load_package, write_package
from tumorscope.package.graph import largest_difference, to_onnx
from tumorscope.package.limits import embeddings_of, held_out, limits_of, statistics, trained_rows
from tumorscope.package.model_card import model_card
from tumorscope.package.scores import not_measured, scores_of
from tumorscope.package.training_data import files_of, sets_of, trained_with_further
from tumorscope.protocols import PROTOCOLS
from tumorscope.training.identity import environment
from tumorscope.training.network import SliceNetwork, load_network
from tumorscope.training.runs import read_predictions

#: Largest difference of probabilities between graph and network.
TOLERANCE = 1e-4
#: What a package is for, and what is not known of it, on every card.
USE = "For research and teaching on single grey slices of brain MR; not for decisions about a patient."
LIMITS = (
    "In the Kaggle set these are mostly contrast-enhanced T1 slices of one group of hospitals, and tumour-free slices of another "
    "source. Other sequences, scanners, ages, operated brains and other tumours are unknown to it.",
    "On another collection probabilities and prediction sets may hold much less than they say, and small tumours are missed more "
    "often, than scores of new patients from the same collections tell.",
    "Slices that lie otherwise than radiologists look at them are answered as they lie, where the gate does not notice.",
)


def export_run(
    run: Path,
    scored: Sequence[Path],
    catalogue: Catalogue,
    out: Path,
    say: Callable[[str], None] = lambda _: None,
    external: Sequence[Path] = (),
) -> Path:
    """Make a package of `run` (one fold, as under protocol `all`) in the folder `out` and beside it as one file; its path.

    Beside it lies the reliability diagram of its answers too, OUT-reliability.svg.

    scored : runs of the same recipe, among them patient-cv ones, whose held-out predictions give scores, temperature,
    prediction sets and the gate's limits
    catalogue : of the main set; what the gate is measured on is of it alone, whatever further sets the recipe names
    external : folders or archives of other collections, which the finished package is asked about, for its card

    Raises `RunMismatch` where the runs do not belong together, `InputRejected` where graph and network differ.
    """
    recipe, facts = load_recipe(run / "recipe.toml"), facts_to_export(run, catalogue)
    cv = patient_cv_of(run, recipe, facts, scored, catalogue)
    module = load_network(run / "fold-0", recipe)
    images = input_pixels(catalogue, recipe.input)
    labels = catalogue.table["label"].map(INDEX).to_numpy()
    say("Writing the graph and checking it on real slices")
    graph, difference = _checked_graph(module, recipe, images)
    say("Measuring slices for the gate")
    trained = trained_rows(facts, catalogue)
    layouts = np.stack([layout(head) for head in pixels(catalogue, LOOK, crop="head")])
    known = _gate_file(embeddings_of(module, recipe, images[trained]), layouts[trained], labels[trained])
    held = held_out(cv[0], recipe, catalogue, images, layouts, labels)
    # Of one seed, so that what a fold is calibrated on holds none of its own slices.
    predictions = read_predictions(cv[0])
    predictions = predictions[predictions["part"] == "test"]
    scores = scores_of(scored)
    told = {
        "graph_difference": difference,
        **calibration(predictions),
        "gate": limits_of(catalogue, trained, held),
        "scores": scores,
        "not_measured": not_measured(recipe.name, {row["protocol"] for row in scores}),
    }
    card = _card(recipe, facts, catalogue, trained, told)
    write_bytes(out.with_name(f"{out.name}-reliability.svg"), reliability_of(recipe.name, predictions))
    made = _written(out, {"model.onnx": graph, "gate.npz": known}, card)
    return add_to_card(out, external=external, say=say) if external else made


def _checked_graph(module: SliceNetwork, recipe: Recipe, images: np.ndarray) -> tuple[bytes, float]:
    """The network as an ONNX graph, and how far their probabilities are apart; raises `InputRejected` where that is too far."""
    graph = to_onnx(module, recipe)
    difference = largest_difference(graph, module, recipe, images)
    if not difference <= TOLERANCE:
        raise InputRejected("graph", f"{difference:g}", f"at most {TOLERANCE:g} from torch", "Report this as a bug.")
    return graph, difference


def _gate_file(embeddings: np.ndarray, layouts: np.ndarray, labels: np.ndarray) -> bytes:
    """gate.npz, float32: `statistics` of training slices' embeddings (n, d) and layouts (n, e)."""
    clouds = {"embeddings": statistics(embeddings, labels), "layouts": statistics(layouts, labels)}
    values = {
        f"{name}_{what}": getattr(cloud, what) for name, cloud in clouds.items() for what in ("centres", "precision")
    }
    file = io.BytesIO()
    np.savez(file, **{name: array.astype(np.float32) for name, array in values.items()})
    return file.getvalue()


def add_to_card(
    package: Path,
    scored: Sequence[Path] = (),
    external: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Put scores of further runs and answers about other collections on a package folder's card; the package as one file.

    scored : runs of the package's recipe and data, of any protocol but patient-cv, whose slices the answers are calibrated with
    external : folders or archives of other collections

    Graph and gate stay as they are; the limits of every package are those known now. Scores of before under the same protocol
    and on the same test set go, and answers of before about a set of the same name. Raises `RunMismatch` where a run does not
    belong to the package, and what `load_package` does.
    """
    card = load_package(package).card
    kept = {name: (package / name).read_bytes() for name in ("model.onnx", "gate.npz")}
    for run in scored:
        facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        need_the_same_recipe(run, facts, Recipe.model_validate(card["recipe"]), package)
        need_the_same_data(run, facts, card["data"], package)
        if facts["protocol"] == "patient-cv":
            raise RunMismatch(
                f"{run}: of patient-cv, which {package} is calibrated with. Export its run again with --scores {run}."
            )
    added = scores_of(scored)
    again = {(row["protocol"], row["test_set"]) for row in added}
    kept_rows = [row for row in card["scores"] if (row["protocol"], row.get("test_set")) not in again]
    # As `by_model` orders those of one recipe.
    card["scores"] = sorted([*kept_rows, *added], key=lambda row: list(PROTOCOLS).index(row["protocol"]))
    card["not_measured"] = not_measured(card["name"], {row["protocol"] for row in card["scores"]})
    for data in external:
        say(f"Asking the package about {data.stem}")
        asked = _asked(package, data)
        others = [one for one in card.get("external", []) if one["data"]["name"] != asked["data"]["name"]]
        card["external"] = [*others, asked]
    if card.get("external"):
        card["not_measured"].pop("external", None)
    card["limits"] = [card["limits"][0], *LIMITS]  # what it was trained on, and what is known of all by now
    return _written(package, kept, card)


def _written(out: Path, parts: dict[str, bytes], card: dict[str, Any]) -> Path:
    told = {"card.json": as_json(card), "MODEL_CARD.md": model_card(card).encode()}
    return write_package(out, parts | told)


def _asked(package: Path, data: Path) -> dict[str, Any]:
    """What a package, as it answers, makes of another collection; the gate's refusals are left out of the scores."""
    from tumorscope.evaluation.package_scores import score_package

    _, found = score_package(package, data)
    if "presence" not in found:
        raise InputRejected("external", str(data), "at least one slice that the package answers", "Give another set.")
    return {
        "data": {name: found["data"][name] for name in ("name", "digest", "slices")},
        "presence": found["presence"],
        "sets": found.get("set coverage"),
        "regions": found["regions"]["all"] if "regions" in found else None,
    }


def reliability_of(name: str, held: pd.DataFrame) -> bytes:
    """SVG of how often answers are right against how sure they are, each fold's calibrated by the others."""
    return encoded(reliability(answered(held, fits_of_folds(held)), name), "svg")


def _card(
    recipe: Recipe, facts: dict[str, Any], catalogue: Catalogue, trained: np.ndarray, told: dict[str, Any]
) -> dict[str, Any]:
    """card.json: what the model takes and gives, is made of, and what is `told` of it by measurements.

    trained : rows of the catalogue that the run was trained on. Files of their pictures are listed, those of further sets too
    """
    wide, every = trained_with_further(recipe, facts, catalogue)
    trained_on = f"Trained on {len(trained)} pictures of {catalogue.name}"
    if recipe.external:
        sets = ", ".join(dict.fromkeys(Path(entry.data).name for entry in recipe.external))
        trained_on += f" and {len(every) - len(trained)} slices of {sets}, which the gate is not measured on"
    return {
        "format": FORMAT,
        "name": recipe.name,
        "title": recipe.title,
        "version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "labels": list(CLASSES),
        "codes": {"system": "SNOMED CT", **{label.name: label.code for label in LABELS if label.code}},
        "input": {
            **{name: getattr(recipe.input, name) for name in ("size", "crop", "enlarged_from", "filter")},
            **{"range": [0, 255], "colour": "grey"},
        },
        "map": CLASS_MAPS[recipe.model.name],
        "use": USE,
        "limits": [f"{trained_on}.", *LIMITS],
        **told,
        "external": [],
        "data": {
            **{"name": catalogue.name, "digest": catalogue.digest, "slices": len(trained), "pictures": len(trained)},
            "run_digest": facts["data"]["digest"],  # with the further sets
            "sha256": " ".join(files_of(wide.table, every)),
            "sets": sets_of(recipe, facts, wide),
        },
        "made_of": {name: facts[name] for name in ("weights", "masks", "contract") if name in facts},
        "recipe": recipe.model_dump(mode="json"),
        "environment": environment(),
        "licence": "Apache-2.0",
    }
