"""The report: one self-contained page, the same numbers as JSON and CSV, and the figures as files.

`write_report` takes everything it shows from a `Report`; it reads no data set and no run folder.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorscope.evaluation import figures, student_report
from tumorscope.evaluation.pages import DISCLAIMER, Illustration, illustrate, listed, percent, template
from tumorscope.evaluation.scores import flat, summarise
from tumorscope.files import write_json, write_text
from tumorscope.labels import CLASSES

Row = dict[str, Any]
Interval = tuple[float, float]

#: The parts of the data a model is scored on, in the order they are shown.
PARTS = ("validation", "test")

_PER_CLASS = ("precision", "recall", "specificity", "f1", "auc")


@dataclass(frozen=True)
class Samples:
    """Some slices to look at: `images` (k, s, s) uint8 and their k class names."""

    images: NDArray[np.uint8]
    labels: Sequence[str]


@dataclass(frozen=True)
class Mistakes:
    """The worst mistakes: `images` (k, s, s) uint8; k true and predicted class names; k probabilities of those."""

    images: NDArray[np.uint8]
    true: Sequence[str]
    predicted: Sequence[str]
    probability: Sequence[float]


@dataclass(frozen=True)
class ModelSection:
    """One model under one protocol.

    `layers` are (name, output shape, parameters); `recipe` is TOML text; `histories` has a table a run (see
    `figures.curves`); `scores` maps a part to the `scores.score` of every seed; `predictions` maps a part to the table
    of the first seed; `intervals` maps it to {metric: (low, high)}; `seconds` is the training time of all runs; `rates` has the
    learning rate of every step of a run; `synthetic` has oversampled slices, each before the training slice nearest to it;
    `test_set` is the name of the other set, under external.
    """

    name: str
    layers: Sequence[tuple[str, str, int]]
    recipe: str
    histories: Sequence[pd.DataFrame]
    scores: Mapping[str, Sequence[Mapping[str, Any]]]
    predictions: Mapping[str, pd.DataFrame]
    intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    seconds: float = float("nan")
    protocol: str = student_report.PROTOCOL
    test_set: str | None = None
    mistakes: Mistakes | None = None
    rates: Sequence[Sequence[float]] = ()
    synthetic: Samples | None = None


@dataclass(frozen=True)
class Report:
    """All that a report shows.

    `data` and `environment` are facts by name (nested dictionaries are flattened); `notices` stand at the top, such as
    that the slices are phantoms; `comparison` has the rows of `comparison_row`; `classes` is a catalogue table;
    `epochs` is the table of `figures.epoch_curve`; `differences` has the rows of `evaluate.differences`. What is None is
    left out with a word saying so.
    """

    title: str
    created: str
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    models: Sequence[ModelSection]
    comparison: Sequence[Row]
    notices: Sequence[str] = ()
    classes: pd.DataFrame | None = None
    samples: Samples | None = None
    epochs: pd.DataFrame | None = None
    differences: Sequence[Row] = ()


def comparison_row(
    model: str,
    protocol: str,
    part: str,
    scores: Sequence[Mapping[str, Any]],
    intervals: Mapping[str, Interval] | None = None,
    memoriser: float | None = None,
    reported: Mapping[str, float] | None = None,
    test_set: str | None = None,
) -> Row:
    """One flat row of the comparison table, from the `scores.score` of every seed on one part.

    For every flat metric `<metric>_mean` and `<metric>_sd` over seeds; `<metric>_low` and `_high` where `intervals` has
    it; `<metric>_reported` where the student report has a figure (`reported`, by default what it says of a model of
    this name, part and protocol; pass {} for other data). `memoriser` is the memoriser's accuracy on the same part;
    `test_set` the name of the other set that was tested on, under external.
    """
    known = student_report.reported(model, part, protocol) if reported is None else reported
    row: Row = {"model": model, "protocol": protocol, "test_set": test_set, "part": part, "seeds": len(scores)}
    row |= {"slices": scores[0]["n"], "pictures": scores[0]["pictures"], "patients": scores[0]["patients"]}
    row["memoriser_accuracy"] = memoriser
    for metric, value in summarise(scores).items():
        row |= {f"{metric}_mean": value["mean"], f"{metric}_sd": value["sd"]}
        if intervals and metric in intervals:
            row[f"{metric}_low"], row[f"{metric}_high"] = intervals[metric]
        if metric in known:
            row[f"{metric}_reported"] = known[metric]
    return row


def write_report(folder: Path, report: Report) -> Path:
    """Write `report.html`, `report.json`, `comparison.csv` and `figures/` into `folder`; returns the page's path.

    The page needs no other file and no network. CSV and JSON hold the numbers unrounded.
    """
    drawn = folder / "figures"
    page = template("evaluation/report.html.j2").render(
        report=report,
        summarise=summarise,
        words=in_words(report.comparison),
        classes=CLASSES,
        display=figures.SHORT,
        metrics=_PER_CLASS,
        under=under,
        rows={(row["model"], row["protocol"], row["test_set"], row["part"]): row for row in report.comparison},
        about=_about(report, drawn),
        models=[(section, _of_model(section, drawn, slug)) for section, slug in _slugs(report.models)],
        mistakes=[(section, _of_mistakes(section, drawn, slug)) for section, slug in _slugs(report.models)],
    )
    write_text(folder / "report.html", page)
    write_text(folder / "comparison.csv", pd.DataFrame(list(report.comparison)).to_csv(index=False))
    write_json(folder / "report.json", _plain(report))
    return folder / "report.html"


def under(protocol: str, test_set: str | None) -> str:
    """The protocol, and under external the set that was tested on."""
    return protocol if test_set is None else f"{protocol} on {test_set}"


def in_words(rows: Sequence[Row]) -> list[str]:
    """The test rows of the comparison table as plain sentences, a paragraph a protocol and test set."""
    tested = [row for row in rows if row["part"] == "test" and row["accuracy_mean"] is not None]
    places = dict.fromkeys((row["protocol"], row["test_set"]) for row in tested)
    paragraphs = [
        _protocol_in_words([row for row in tested if (row["protocol"], row["test_set"]) == place]) for place in places
    ]
    if tested and ("patient-cv", None) not in places:
        paragraphs.append("No score here is on patients kept apart from training; expect less on a new patient.")
    return paragraphs


def _protocol_in_words(rows: Sequence[Row]) -> str:
    right = listed(f"{percent(row['accuracy_mean'])} for {row['model']}" for row in rows)
    few, many = min(row["seeds"] for row in rows), max(row["seeds"] for row in rows)
    runs = "one seed" if many == 1 else f"mean of {many if few == many else f'{few} to {many}'} seeds"
    where = f" of {rows[0]['test_set']}" if rows[0]["test_set"] else ""
    share = f"the share of {rows[0]['slices']:,} test slices{where} named correctly"
    text = f"Under the {rows[0]['protocol']} protocol {share} is {right} ({runs})."
    said = [(row["model"], row["accuracy_reported"]) for row in rows if row.get("accuracy_reported") is not None]
    if said:
        text += f" The student report gives {listed(f'{percent(value)} for {name}' for name, value in said)}."
    floor = next((row["memoriser_accuracy"] for row in rows if row["memoriser_accuracy"] is not None), None)
    return text if floor is None else text + _memoriser_in_words(floor, max(row["accuracy_mean"] for row in rows))


def _memoriser_in_words(floor: float, best: float) -> str:
    text = f" The memoriser, which only looks up the most similar training slice, reaches {percent(floor)}"
    if floor >= best:
        return text + ", no less than any model: a score here says little about slices that are really new."
    return text + f"; the best model is {100 * (best - floor):.1f} points above it."


def _about(report: Report, folder: Path) -> dict[str, Illustration]:
    """Illustrations of the data and the epoch analysis, by section."""
    shown = {}
    if report.classes is not None:
        counts = report.classes.value_counts(["split", "label"], sort=False).reset_index(name="slices")
        bars = listed(f"{split} {label} {slices}" for split, label, slices in counts.itertuples(index=False))
        alt = f"Bars of slices by split and class: {bars}."
        caption = "How many slices each class has in each split: see whether a class is rare, or rarer in one split."
        shown["classes"] = illustrate(folder, "classes", figures.class_distribution(report.classes), alt, caption)
    if report.samples is not None:
        figure = figures.sample_grid(report.samples.images, report.samples.labels)
        alt = f"{len(report.samples.labels)} slices with their classes: {listed(report.samples.labels)}."
        caption = "Slices as the data set labels them: see how planes, framing and contrast differ between classes."
        shown["samples"] = illustrate(folder, "samples", figure, alt, caption, "png")
    if report.epochs is not None:
        last = report.epochs.groupby("epoch")["test_accuracy"].mean()
        alt = "Accuracy against epochs trained; mean test accuracy " + listed(
            f"{last[epoch]:.3f} after {epoch}" for epoch in sorted({last.index[0], last.index[-1]})
        )
        caption = "See how much of the gap between the two published figures is training time alone."
        shown["epochs"] = illustrate(folder, "epochs", figures.epoch_curve(report.epochs), alt, caption)
    return shown


def _of_model(section: ModelSection, folder: Path, slug: str) -> list[Illustration]:
    """Illustrations of one model: confusion and ROC for each part, curves, reliability."""
    parts = [part for part in PARTS if part in section.predictions]
    shown = [_of_confusion(section, part, folder, slug) for part in parts if section.scores.get(part)]
    shown += [_of_roc(section, part, folder, slug) for part in parts]
    if section.histories:
        alt = (
            f"Training and validation loss and accuracy of {section.name} against epoch, {len(section.histories)} runs."
        )
        caption = "Loss and accuracy by epoch, a line a run: see whether validation still improves or has turned."
        figure = figures.curves(section.histories, f"{section.name}: training")
        shown.append(illustrate(folder, f"{slug}-curves", figure, alt, caption))
    if section.rates:
        largest = max(max(one) for one in section.rates)
        alt = f"Learning rate of {section.name} against step, at most {largest:g}."
        caption = "Learning rate by step, a line a run: see where it rises, falls and is cut."
        figure = figures.rates(section.rates, f"{section.name}: learning rate")
        shown.append(illustrate(folder, f"{slug}-rates", figure, alt, caption))
    if section.synthetic is not None:
        alt = "Pairs of a synthetic slice and the training slice nearest to it."
        caption = "Slices that oversampling made, each before the training slice nearest to it: see how little is new."
        figure = figures.labelled_grid(section.synthetic.images, section.synthetic.labels, 4)
        shown.append(illustrate(folder, f"{slug}-synthetic", figure, alt, caption, "png"))
    for part in parts[-1:]:
        figure = figures.reliability(section.predictions[part], f"{section.name}: {part}")
        alt = f"Share of right answers of {section.name} against the probability given, {part} slices."
        caption = "Bars below the dashed line are answers given more surely than they deserve"
        caption += f" (pale: fewer than {figures.FEW} slices)."
        shown.append(illustrate(folder, f"{slug}-reliability-{part}", figure, alt, caption))
    return shown


def _of_confusion(section: ModelSection, part: str, folder: Path, slug: str) -> Illustration:
    matrix = np.asarray(section.scores[part][0]["confusion"])
    right = listed(f"{name} {matrix[k, k]} of {matrix[k].sum()}" for k, name in enumerate(CLASSES))
    alt = f"Confusion matrix of {section.name} on {part} slices; right are {right}."
    caption = f"Off the diagonal, see which classes are taken for which ({part}, first seed; rows are the truth)."
    figure = figures.confusion(matrix, f"{section.name}: {part}")
    return illustrate(folder, f"{slug}-confusion-{part}", figure, alt, caption)


def _of_roc(section: ModelSection, part: str, folder: Path, slug: str) -> Illustration:
    figure = figures.roc(section.predictions[part], f"{section.name}: {part}")
    areas = flat(section.scores[part][0]) if section.scores.get(part) else {}
    known = listed(f"{name} {areas[f'auc_{name}']:.3f}" for name in CLASSES if areas.get(f"auc_{name}") is not None)
    alt = f"ROC curves of {section.name} on {part} slices; areas: {known or 'not defined'}."
    caption = f"Each class against the rest ({part}, first seed): the nearer to the upper left corner, the better."
    return illustrate(folder, f"{slug}-roc-{part}", figure, alt, caption)


def _of_mistakes(section: ModelSection, folder: Path, slug: str) -> Illustration | None:
    wrong = section.mistakes
    if wrong is None or not len(wrong.images):
        return None
    figure = figures.mistakes_grid(wrong.images, wrong.true, wrong.predicted, wrong.probability)
    pairs = zip(wrong.true, wrong.predicted, wrong.probability, strict=True)
    alt = f"Slices {section.name} got wrong: " + listed(f"{t} called {p} at {q:.2f}" for t, p, q in pairs) + "."
    caption = f"The wrong answers {section.name} was surest of, worst first (truth → answer, its probability)."
    return illustrate(folder, f"{slug}-mistakes", figure, alt, caption, "png")


def _slugs(sections: Sequence[ModelSection]) -> Iterator[tuple[ModelSection, str]]:
    """Each section with a file name of its own."""
    for i, section in enumerate(sections):
        yield section, f"{i + 1}-" + re.sub(r"[^A-Za-z0-9_-]+", "_", f"{section.name}-{section.protocol}")


def _plain(report: Report) -> dict[str, Any]:
    """The report's numbers as plain data; images and predictions stay in their own files."""
    return {
        "title": report.title,
        "created": report.created,
        "disclaimer": DISCLAIMER,
        "notices": list(report.notices),
        "data": report.data,
        "environment": report.environment,
        "comparison": list(report.comparison),
        "differences": list(report.differences),
        "models": [_plain_model(section) for section in report.models],
        "epochs": None if report.epochs is None else report.epochs.to_dict("records"),
        "student_report": {f"{model} {part}": dict(v) for (model, part), v in student_report.SCORES.items()},
    }


def _plain_model(section: ModelSection) -> dict[str, Any]:
    return {
        "name": section.name,
        "protocol": section.protocol,
        "test_set": section.test_set,
        "seconds": section.seconds,
        "parameters": sum(count for _, _, count in section.layers),
        "layers": [dict(zip(("name", "output", "parameters"), layer, strict=True)) for layer in section.layers],
        "recipe": section.recipe,
        "histories": [history.to_dict("records") for history in section.histories],
        "scores": section.scores,
        "summary": {part: summarise(runs) for part, runs in section.scores.items()},
        "intervals": section.intervals,
    }
