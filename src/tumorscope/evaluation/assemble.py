"""Gather what the report shows from run folders and the catalogue they were made on."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumorscope.config import Recipe, load_recipe
from tumorscope.data.cache import input_pixels, pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import RunMismatch
from tumorscope.evaluation.evaluate import (
    Scored,
    comparison_rows,
    differences,
    leak_notes,
    pooled_intervals,
    tested_on,
    why_unscored,
)
from tumorscope.evaluation.report import PARTS, Mistakes, ModelSection, Report, Samples
from tumorscope.evaluation.scores import worst_mistakes
from tumorscope.labels import CLASSES, INDEX
from tumorscope.models.registry import build, drawn_at_random, layer_table
from tumorscope.protocols import folds
from tumorscope.training.identity import environment
from tumorscope.training.runs import read_predictions
from tumorscope.training.schedules import rate
from tumorscope.transforms.oversample import oversample

#: Slices shown as samples and as worst mistakes, and the resolution they are shown at.
SHOWN, SHOWN_SIZE = 15, 128
#: Synthetic slices shown, each with a real one.
PAIRS = 6


def report_of(
    scored: Scored,
    catalogue: Catalogue,
    *,
    epochs: pd.DataFrame | None = None,
    notices: Sequence[str] = (),
) -> Report:
    """What the report of finished runs shows, for `report.write_report`; raises `RunMismatch` for `left_apart` runs."""
    runs = [one["run"] for several in scored.values() for one in several]
    for run, why in left_apart(runs, catalogue).items():
        raise RunMismatch(f"{run}: {why}")
    return Report(
        title=f"tumorscope: {catalogue.name}",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        data=data_facts(catalogue),
        environment=environment(),
        models=[_section(several, catalogue) for several in scored.values()],
        comparison=comparison_rows(scored, reported=is_report_data(catalogue)),
        notices=[*notices, *catalogue.notices, *leak_notes(scored)],
        classes=catalogue.table,
        samples=_samples(catalogue),
        epochs=epochs,
        differences=differences(scored),
    )


def left_apart(runs: Sequence[Path], catalogue: Catalogue) -> dict[Path, str]:
    """Runs that do not belong into a report on this catalogue, each with the reason: not scored, or on other slices."""
    known = set(catalogue.table["path"])
    found = {}
    for run in runs:
        why = why_unscored(run)
        if not why:
            scored = read_predictions(run)
            # Validation slices may be of a further set that the recipe names, and none of them is shown.
            if not known.issuperset(scored.loc[scored["part"] == "test", "path"]):
                other = tested_on(run, scored)
                data = "--data alone" if other is None else f"--data, and {other} with --test-data"
                why = f"scored on slices that {catalogue.name} does not hold. Give the run's {data}."
        if why:
            found[run] = why
    return found


def is_report_data(catalogue: Catalogue) -> bool:
    """Whether this is the Kaggle set that the student report used, by its published counts."""
    return catalogue.table["split"].value_counts().to_dict() == {"train": 5712, "test": 1311}


def data_facts(catalogue: Catalogue) -> dict[str, Any]:
    """Counts of the catalogue, for report and `data info`."""
    table = catalogue.table
    sides = table[["width", "height"]]
    return {
        "name": catalogue.name,
        "slices": len(table),
        "files left out": len(catalogue.rejected),
        "training slices": int((table["split"] == "train").sum()),
        "test slices": int((table["split"] == "test").sum()),
        "different sizes": len(sides.drop_duplicates()),
        "smallest and largest side": f"{sides.min().min()} and {sides.max().max()} px",
        "patients known": int(table.loc[table["patient"] != "", "patient"].nunique()),
        "digest": catalogue.digest,
    }


def _section(several: Sequence[dict[str, Any]], catalogue: Catalogue) -> ModelSection:
    """One model under one protocol from the scores of its seeds; pictures and curves from the first."""
    first = several[0]["run"]
    recipe = load_recipe(first / "recipe.toml")
    predictions = read_predictions(first)
    files = [file for one in several for file in sorted(one["run"].glob("fold-*/history.csv"))]
    histories = [history for file in files for history in _histories(file)]
    layers = layer_table(build(drawn_at_random(recipe.model), recipe.input.size), recipe.input.size)
    return ModelSection(
        name=recipe.name,
        layers=[(layer.name, " x ".join(map(str, layer.output)), layer.parameters) for layer in layers],
        recipe=recipe.toml(),
        histories=histories,
        scores={part: [one[part] for one in several] for part in PARTS},
        predictions={part: predictions[predictions["part"] == part] for part in PARTS},
        intervals={part: pooled_intervals(several, part) for part in PARTS},
        seconds=float(sum(history["seconds"].sum() for history in histories)),
        protocol=several[0]["protocol"],
        test_set=several[0]["test_set"],
        mistakes=_mistakes(predictions[predictions["part"] == "test"], catalogue),
        rates=[planned for history in histories if (planned := _rates(recipe, history))],
        synthetic=_synthetic(recipe, first, catalogue),
    )


def _histories(file: Path) -> list[pd.DataFrame]:
    """Of a fold's history.csv, one for each network that it has."""
    history = pd.read_csv(file)
    return [part for _, part in history.groupby("member")] if "member" in history else [history]


def _rates(recipe: Recipe, history: pd.DataFrame) -> list[float]:
    """Learning rate of every step of a run; nothing for a history that does not know its steps."""
    if "steps" not in history:
        return []
    per_epoch, losses = int(history["steps"].iloc[0]), history["val_loss"].tolist()
    steps, peak = recipe.training.epochs * per_epoch, recipe.optimiser.learning_rate
    return [
        rate(recipe.schedule, peak, step, steps, per_epoch, losses[: step // per_epoch])
        for step in range(len(history) * per_epoch)
    ]


def _synthetic(recipe: Recipe, run: Path, catalogue: Catalogue) -> Samples | None:
    """Some slices that oversampling made for the run's first fold, made again, each before its nearest training slice."""
    facts = json.loads((run / "environment.json").read_text())
    if not recipe.imbalance.method.endswith("smote") or facts["data"]["digest"] != catalogue.digest:
        return None
    train = folds(facts["protocol"], catalogue.table, facts["seed"])[0].train
    images = np.asarray(input_pixels(catalogue, recipe.input))[train]
    labels = catalogue.table["label"].iloc[train].map(INDEX).to_numpy(np.int64)
    made, made_labels = (part[len(train) :] for part in oversample(images, labels, recipe.imbalance, facts["seed"]))
    if not len(made):
        return None
    chosen = np.random.default_rng(0).permutation(len(made))[:PAIRS]
    shown, captions = [], []
    for image, label in zip(made[chosen], made_labels[chosen], strict=True):
        away = ((images.astype(np.float32) - image.astype(np.float32)) ** 2).mean(axis=(1, 2))
        near = int(away.argmin())
        shown += [image, images[near]]
        captions += [f"{CLASSES[label]},\nsynthetic", f"nearest real:\n{CLASSES[labels[near]]}"]
    return Samples(np.stack(shown), captions)


def _samples(catalogue: Catalogue) -> Samples:
    """Slices of every class in turn, drawn with a fixed seed."""
    random = np.random.default_rng(0)
    labels = catalogue.table["label"].to_numpy()
    drawn = {name: list(random.permutation(np.flatnonzero(labels == name))) for name in CLASSES}
    rows: list[int] = []
    while len(rows) < min(SHOWN, len(labels)):
        rows += [several.pop() for several in drawn.values() if several]
    rows = rows[:SHOWN]
    return Samples(pixels(catalogue, SHOWN_SIZE)[rows], list(labels[rows]))


def _mistakes(test: pd.DataFrame, catalogue: Catalogue) -> Mistakes | None:
    worst = worst_mistakes(test, SHOWN)
    if worst.empty:
        return None
    place = pd.Series(np.arange(len(catalogue.table)), index=catalogue.table["path"])
    images = pixels(catalogue, SHOWN_SIZE)[place[worst["path"]].to_numpy()]
    return Mistakes(images, list(worst["label"]), list(worst["predicted"]), list(worst["probability"]))
