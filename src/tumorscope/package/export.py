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
from tumorscope.data.cards import CARDS, Card
from tumorscope.data.catalogue import Catalogue
from tumorscope.data.known import DIGITS
from tumorscope.errors import InputRejected, RunMismatch
from tumorscope.evaluation.evaluate import by_model, comparison_rows
from tumorscope.evaluation.figures import encoded, reliability
from tumorscope.files import write_bytes
from tumorscope.inference.gate import LOOK, layout
from tumorscope.labels import CLASSES, INDEX, LABELS
from tumorscope.models.heads import POOLING
from tumorscope.package.calibration import answered, calibration, fits_of_folds
from tumorscope.package.card import FORMAT, load_package, write_package
from tumorscope.package.graph import largest_difference, to_onnx
from tumorscope.package.limits import embeddings_of, held_out, limits_of, statistics, trained_rows
from tumorscope.package.model_card import QUESTIONS, model_card
from tumorscope.protocols import ALL, PROTOCOLS, digest, folds
from tumorscope.training.external import widened, with_rows
from tumorscope.training.fold import PROBABILITIES
from tumorscope.training.identity import environment
from tumorscope.training.network import load_network
from tumorscope.training.runs import facts_of, read_predictions

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
CLASS_MAPS = {"compact_cnn": "activation", "region_unet": "regions", "backbone": "activation"}


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
    recipe, facts = load_recipe(run / "recipe.toml"), _facts(run, catalogue)
    cv = _check(run, recipe, facts, scored, catalogue)
    module = load_network(run / "fold-0", recipe)
    images = input_pixels(catalogue, recipe.input)
    labels = catalogue.table["label"].map(INDEX).to_numpy()
    say("Writing the graph and checking it on real slices")
    graph = to_onnx(module, recipe)
    difference = largest_difference(graph, module, recipe, images)
    if not difference <= TOLERANCE:
        raise InputRejected("graph", f"{difference:g}", f"at most {TOLERANCE:g} from torch", "Report this as a bug.")
    say("Measuring slices for the gate")
    trained = trained_rows(facts, catalogue)
    layouts = np.stack([layout(head) for head in pixels(catalogue, LOOK, crop="head")])
    known = {
        "embeddings": statistics(embeddings_of(module, recipe, images[trained]), labels[trained]),
        "layouts": statistics(layouts[trained], labels[trained]),
    }
    held = held_out(cv[0], recipe, catalogue, images, layouts, labels)
    # Of one seed, so that what a fold is calibrated on holds none of its own slices.
    predictions = read_predictions(cv[0])
    predictions = predictions[predictions["part"] == "test"]
    scores = _scores(scored)
    told = {
        "graph_difference": difference,
        **calibration(predictions),
        "gate": limits_of(catalogue, trained, held),
        "scores": scores,
        "not_measured": _not_measured(recipe.name, {row["protocol"] for row in scores}),
    }
    card = _card(recipe, facts, catalogue, trained, told)
    statistics_file = io.BytesIO()
    clouds = {
        f"{name}_{what}": getattr(cloud, what) for name, cloud in known.items() for what in ("centres", "precision")
    }
    np.savez(statistics_file, **{name: values.astype(np.float32) for name, values in clouds.items()})
    write_bytes(out.with_name(f"{out.name}-reliability.svg"), reliability_of(recipe.name, predictions))
    made = _written(out, {"model.onnx": graph, "gate.npz": statistics_file.getvalue()}, card)
    return add_to_card(out, external=external, say=say) if external else made


def add_to_card(
    package: Path,
    scored: Sequence[Path] = (),
    external: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Put scores of further runs and answers about other collections on a package folder's card; the package as one file.

    scored : runs of the package's recipe and data, of any protocol but patient-cv, whose slices the answers are calibrated with
    external : folders or archives of other collections

    Graph and gate stay as they are. Scores of before under the same protocol and on the same test set go, and answers of before
    about a set of the same name. Raises `RunMismatch` where a run does not belong to the package, and what `load_package` does.
    """
    card = load_package(package).card
    kept = {name: (package / name).read_bytes() for name in ("model.onnx", "gate.npz")}
    for run in scored:
        facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        _need_the_same_recipe(run, facts, Recipe.model_validate(card["recipe"]), package)
        _need_the_same_data(run, facts, card["data"], package)
        if facts["protocol"] == "patient-cv":
            raise RunMismatch(
                f"{run}: of patient-cv, which {package} is calibrated with. Export its run again with --scores {run}."
            )
    added = _scores(scored)
    again = {(row["protocol"], row["test_set"]) for row in added}
    kept_rows = [row for row in card["scores"] if (row["protocol"], row.get("test_set")) not in again]
    # As `by_model` orders those of one recipe.
    card["scores"] = sorted([*kept_rows, *added], key=lambda row: list(PROTOCOLS).index(row["protocol"]))
    card["not_measured"] = _not_measured(card["name"], {row["protocol"] for row in card["scores"]})
    for data in external:
        say(f"Asking the package about {data.stem}")
        asked = _asked(package, data)
        others = [one for one in card.get("external", []) if one["data"]["name"] != asked["data"]["name"]]
        card["external"] = [*others, asked]
    if card.get("external"):
        card["not_measured"].pop("external", None)
    return _written(package, kept, card)


def _written(out: Path, parts: dict[str, bytes], card: dict[str, Any]) -> Path:
    told = {"card.json": json.dumps(card, indent=2).encode(), "MODEL_CARD.md": model_card(card).encode()}
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


def _facts(run: Path, catalogue: Catalogue) -> dict[str, Any]:
    """environment.json of a run that a package can be made of."""
    protocol = json.loads((run / "environment.json").read_text(encoding="utf-8"))["protocol"]
    if protocol == "external":
        raise RunMismatch(
            f"{run}: trained under external; a package is made of one on --data alone. Use --protocol {ALL}."
        )
    return facts_of(run, catalogue)


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


def trained_with_further(recipe: Recipe, facts: dict[str, Any], catalogue: Catalogue) -> tuple[Catalogue, np.ndarray]:
    """The catalogue with the recipe's further sets behind it, and its rows that the run was trained on."""
    wide, further = with_rows(recipe, catalogue)
    fold = folds(facts["protocol"], catalogue.table, facts["seed"])[0]
    return wide, widened(fold, wide.table, further)[0].train


def sets_of(recipe: Recipe, facts: dict[str, Any], catalogue: Catalogue) -> list[dict[str, str]]:
    """Name, title, licence, url and use of every set that slices or masks are of; only the name of those not known here.

    facts : environment.json of the run; the sets need not be there any more
    """
    known = {card.digest: card for card in CARDS.values() if card.digest}
    used = [(known.get(part.digest) or Card(part.name, "", "", "", ""), "slices") for part in catalogue.sets]
    # Runs of before do not say where masks are from; the Kaggle set has none of its own.
    main = catalogue.sets[0]
    bare = main.digest == CARDS["nickparvar"].digest and (main.table["mask"] == "").all()
    if recipe.needs_masks and facts.get("masks_from", "figshare" if bare else "data") == "figshare":
        used.append((CARDS["figshare"], "masks"))
    return [
        {**{field: getattr(card, field) for field in ("name", "title", "licence", "url")}, "use": use}
        for card, use in used
    ]


def files_of(table: pd.DataFrame, trained: np.ndarray) -> list[str]:
    """First digits of the sha256 of the files at these rows, and of all others that show their pictures: copies and mirrors."""
    pictures = table["picture"].iloc[trained]
    again = (table["picture"] != "") & table["picture"].isin(pictures)
    return sorted({*table["sha256"].iloc[trained].str[:DIGITS], *table["sha256"][again].str[:DIGITS]})


def _check(
    run: Path, recipe: Recipe, facts: dict[str, Any], scored: Sequence[Path], catalogue: Catalogue
) -> list[Path]:
    """The patient-cv runs among `scored`, after everything is known to belong together."""
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
        _need_the_same_recipe(one, other, recipe, run)
        data = {"name": catalogue.name, "digest": catalogue.digest, "run_digest": facts["data"]["digest"]}
        _need_the_same_data(one, other, data, run)
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


def _need_the_same_recipe(run: Path, facts: dict[str, Any], recipe: Recipe, of: Path) -> None:
    unnamed = {"name": "", "title": ""}
    if Recipe.model_validate(facts["recipe"]).model_copy(update=unnamed) != recipe.model_copy(update=unnamed):
        raise RunMismatch(f"{run}: another recipe than {of}; its scores would not be this model's.")


def _need_the_same_data(run: Path, facts: dict[str, Any], data: dict[str, Any], of: Path) -> None:
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


def _scores(scored: Sequence[Path]) -> list[dict[str, Any]]:
    """Test scores under each protocol with intervals, the memoriser's beside them."""
    models = by_model(scored)
    rows = [row for row in comparison_rows(models) if row["part"] == "test"]
    kept = ("accuracy", "balanced_accuracy", "f1_weighted", "presence_auc", "type_balanced_accuracy")
    found = []
    for row in rows:
        missed = [
            float((tumours["p_notumor"] >= tumours[PROBABILITIES].max(axis=1)).mean())
            for one in models[row["model"], row["protocol"], row["test_set"]]
            for tumours in [_test_tumours(one["run"])]
            if len(tumours)
        ]
        line = {
            name: row[name]
            for name in ("protocol", "test_set", "seeds", "slices", "pictures", "patients", "memoriser_accuracy")
        }
        for name in kept:
            line |= {
                name: row[f"{name}_mean"],
                f"{name}_low": row.get(f"{name}_low"),
                f"{name}_high": row.get(f"{name}_high"),
            }
        found.append({**line, "missed_tumours": float(np.mean(missed)) if missed else None})
    return found


def _not_measured(name: str, measured: set[str]) -> dict[str, str]:
    """Protocols that nothing is known under, each with the command that would say it."""
    place = {"external": "--test-data OTHER"}
    return {
        protocol: f"tumorscope train {name} --data ARCHIVE {place.get(protocol, f'--protocol {protocol}')}"
        for protocol in QUESTIONS
        if protocol not in measured
    }


def _test_tumours(run: Path) -> pd.DataFrame:
    predictions = read_predictions(run)
    return predictions[(predictions["part"] == "test") & (predictions["label"] != "notumor")]
