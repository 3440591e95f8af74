"""What an audit found, what it means and what to do, in words that a newcomer understands; for the terminal and the page."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from tumorscope.audit.leakage import patient_counts
from tumorscope.evaluation.figures import SHORT
from tumorscope.evaluation.pages import listed
from tumorscope.labels import CLASSES, NO_TUMOUR

if TYPE_CHECKING:
    from tumorscope.audit.audit import Audit

#: Share of test slices that training may hold again before a published split is warned of.
NOTABLE = 0.01


@dataclass(frozen=True)
class Finding:
    """One thing found, in a sentence or two, and what it means for a score."""

    title: str
    found: str
    means: str


def summary(audit: "Audit", width: int = 96) -> str:
    """The audit for the terminal: findings with their meaning, then what to do; lines of at most `width` characters."""
    blocks = [f"Audit of {audit.name}"]
    for finding in findings(audit):
        blocks.append(
            "\n".join([finding.title.upper(), _lines(finding.found, width), _lines(finding.means, width, "→ ")])
        )
    steps = [_lines(step, width, f"{number}. ") for number, step in enumerate(advice(audit), start=1)]
    blocks.append("\n".join(["WHAT TO DO", *steps]))
    return "\n\n".join(blocks)


def findings(audit: "Audit") -> list[Finding]:
    """Everything that was looked at, in the order in which it matters."""
    return [
        *_copies(audit),
        *_leakage(audit),
        *_memoriser(audit),
        *_patients(audit),
        *_confounding(audit),
        *_labels(audit),
    ]


def advice(audit: "Audit") -> list[str]:
    """What to do with this data set, most important first."""
    return [*_protocol_advice(audit), *_presence_advice(audit), *_label_advice(audit)]


def _lines(text: str, width: int, mark: str = "") -> str:
    return textwrap.fill(text, width, initial_indent=f"  {mark}", subsequent_indent=" " * (2 + len(mark)))


def _copies(audit: "Audit") -> Iterator[Finding]:
    total = audit.copies.iloc[-1]
    slices, files, same_pixels, pictures = (int(total[name]) for name in ("slices", "bytes", "pixels", "picture"))
    found = f"{slices:,} slices hold {pictures:,} different pictures."
    if pictures == slices:
        yield Finding("Copies", found, "No slice is there twice, also not mirrored, turned or re-encoded.")
        return
    found += (
        f" {slices - files:,} files repeat another byte for byte and {slices - same_pixels:,} pixel for pixel; the other copies "
        "are mirrored, turned or stored anew."
    )
    yield Finding("Copies", found, "Copies count one picture several times: splits must keep all copies on one side.")


def _leakage(audit: "Audit") -> Iterator[Finding]:
    if audit.leakage.empty:
        means = "There is nothing to leak yet; use --protocol patient-cv or picture-cv to split it."
        yield Finding("Published split", "This set has no published training and test parts.", means)
        return
    total = audit.leakage.iloc[-1]
    again, test = int(total["picture"]), int(total["test"])
    title, slices, place = _parts(audit.table)
    found = (
        f"{again:,} of {test:,} {slices} ({again / test:.0%}) are {place} again: {total['only_bytes']:,} the same "
        f"file, {total['only_pixels']:,} the same pixels, {total['only_picture']:,} mirrored, turned or stored anew."
    )
    if total["patient"]:
        found += (
            f" {total['only_patient']:,} more show a training patient. {total['new']:,} are new, as far as is known."
        )
    gone = [SHORT[row["class"]] for _, row in audit.leakage.iloc[:-1].iterrows() if row["picture"] == row["test"]]
    if gone:
        found += f" Of {' and '.join(gone)} every test slice has its copy in training."
    means = "A score on these slices rewards remembering the training slices; it says little about new ones."
    if total["new"] >= (1 - NOTABLE) * test:
        means = "The test part is new to training, as far as pictures and known patients can show."
    yield Finding(title, found, means)


def _parts(table: pd.DataFrame) -> tuple[str, str, str]:
    """Title, and what test and training slices are called: two parts of one set, or two sets."""
    train, test = (sorted(set(table.loc[table["split"] == part, "source"])) for part in ("train", "test"))
    if set(train) & set(test):
        return "Published split", "test slices", "a training slice"
    return "External set", f"slices of {listed(test)}", f"a slice of {listed(train)}"


def _memoriser(audit: "Audit") -> Iterator[Finding]:
    rows = audit.memoriser[~audit.memoriser["mirrors"] & audit.memoriser["accuracy"].notna()].set_index("protocol")
    if rows.empty:
        return
    accuracy = rows["accuracy"]
    listed = ", ".join(f"{value:.1%} under {protocol}" for protocol, value in accuracy.items())
    found = (
        f"1-nearest-neighbour on raw pixels, which has learnt nothing, names the class of test slices right: {listed}."
    )
    means = "Read every score as the distance to the memoriser's under the same protocol."
    honest = next((name for name in ("patient-cv", "picture-cv") if name in accuracy), None)
    if honest and "official" in accuracy and accuracy["official"] - accuracy[honest] > 0.05:
        gap = 100 * (accuracy["official"] - accuracy[honest])
        means = f"The published split gives {gap:.0f} points to a model that only remembers. {means}"
    yield Finding("Memoriser", found, means)


def _patients(audit: "Audit") -> Iterator[Finding]:
    count = patient_counts(audit.table)
    if not count["slices"]:
        means = (
            "Slices of one patient may lie in training and test, and no one can see it: scores may be too high. Bring ids with "
            "--patients or --link."
        )
        yield Finding("Patients", "No patient ids are known.", means)
        return
    found = f"{count['slices']:,} of {len(audit.table):,} slices have a patient id ({count['patients']:,} patients)."
    if audit.known:
        found += f" {audit.known}"
    means = "patient-cv keeps every known patient on one side; slices without an id are kept apart by picture."
    if count["test_patients"]:
        shared = f"{count['test_patients_in_training']:,} of the {count['test_patients']:,} patients in the test part"
        means = f"{shared} are in training too. {means}"
    yield Finding("Patients", found, means)


def _confounding(audit: "Audit") -> Iterator[Finding]:
    if audit.confounding is None:
        return
    about = (("A tumour or none", audit.confounding.presence), ("Which tumour", audit.confounding.type))
    for title, (found, *means) in ((title, said) for title, said in about if said):
        yield Finding(title, found, " ".join(means))


def _labels(audit: "Audit") -> Iterator[Finding]:
    pictures = audit.conflicts["picture"].nunique()
    found = f"{pictures:,} pictures carry more than one class ({len(audit.conflicts):,} slices)."
    if audit.links is not None:
        found += f" {int(audit.links['conflict'].sum()):,} slices have another class in the figshare set."
    if audit.issues is not None:
        found += f" {audit.issues.run} doubts {len(audit.issues.ranked):,} of {audit.issues.judged:,} labels."
    means = "Nothing is corrected. Pictures under two classes are left out of cross-validation."
    if not pictures:
        means = "No picture contradicts itself."
    yield Finding("Labels", found, means)


def _protocol_advice(audit: "Audit") -> Iterator[str]:
    allowed = set(audit.memoriser.loc[audit.memoriser["accuracy"].notna(), "protocol"])
    if "patient-cv" not in allowed:
        yield "This set is too small for cross-validation; take its scores as a test of the tool."
        return
    by_patient = (audit.table["patient"] != "").any()
    protocol = "patient-cv" if by_patient else "picture-cv"
    advice = f"Report scores under {protocol}: tumorscope train RECIPE --data DATA --protocol {protocol}"
    yield advice if by_patient else f"{advice} (and say that patients are unknown)."
    if not audit.leakage.empty and audit.leakage.iloc[-1]["new"] < (1 - NOTABLE) * audit.leakage.iloc[-1]["test"]:
        yield "Use the official protocol for comparison with the literature only, with the memoriser's score beside it."


def _presence_advice(audit: "Audit") -> Iterator[str]:
    if audit.confounding is not None and audit.confounding.verdict in ("confounded", "partly"):
        yield (
            "Do not report sensitivity and specificity from this set alone: score tumour against no tumour on a collection that "
            "holds both."
        )


def _label_advice(audit: "Audit") -> Iterator[str]:
    if len(audit.conflicts):
        yield "Look at the label conflicts on the page, and tell the makers of the set."
    if audit.issues is None and not audit.memoriser.empty:
        yield "Once a run is trained, list the labels that it doubts: tumorscope audit DATA --run RUN"
    absent = set(CLASSES) - set(audit.table["label"])
    if absent and CLASSES[NO_TUMOUR] not in absent:
        yield f"The set has no slice of class {', '.join(sorted(absent))}: its scores are over the other classes."
