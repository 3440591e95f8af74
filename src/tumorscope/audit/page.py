"""The audit on paper: one self-contained page, the same numbers as JSON, the catalogue as CSV, and the figures as files."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tumorscope.audit import figures
from tumorscope.audit.audit import Audit
from tumorscope.audit.leakage import patient_counts
from tumorscope.audit.pictures import weakest_links
from tumorscope.audit.summary import advice, findings
from tumorscope.evaluation.figures import SHORT
from tumorscope.evaluation.pages import DISCLAIMER, Illustration, illustrate, listed, template
from tumorscope.files import write_json, write_text

#: Pairs and slices shown in a grid.
SHOWN = 12


def write_audit(folder: Path, audit: Audit, environment: dict[str, Any]) -> Path:
    """Write `audit.html`, `audit.json`, `catalogue.csv` and `figures/` into `folder`; returns the page's path.

    environment : facts about machine and versions, see `training.runs.environment`
    """
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    page = template("audit/audit.html.j2").render(
        audit=audit,
        created=created,
        findings=findings(audit),
        advice=advice(audit),
        shown=dict(_illustrations(audit, folder / "figures")),
        display=SHORT,
        environment=environment | {"seconds": {name: f"{value:.1f}" for name, value in audit.seconds.items()}},
        kinds=figures.LEAKS,
    )
    write_text(folder / "audit.html", page)
    write_text(folder / "catalogue.csv", audit.table.to_csv(index=False))
    write_json(folder / "audit.json", plain(audit) | {"created": created, "environment": environment})
    return folder / "audit.html"


def plain(audit: Audit) -> dict[str, Any]:
    """The audit's numbers and lists as plain data; slices by path."""
    issues, confounded = audit.issues, audit.confounding
    return {
        "name": audit.name,
        "disclaimer": DISCLAIMER,
        "findings": [vars(finding) for finding in findings(audit)],
        "advice": advice(audit),
        "notices": list(audit.notices),
        "known": audit.known,
        "copies": _records(audit.copies),
        "leakage": _records(audit.leakage),
        "patients": patient_counts(audit.table),
        "memoriser": _records(audit.memoriser),
        "conflicts": _records(audit.conflicts),
        "figshare_conflicts": [] if audit.links is None else _records(_figshare_conflicts(audit)),
        "confounding": None
        if confounded is None
        else {
            "verdict": confounded.verdict,
            "slices": confounded.slices,
            "chance": confounded.chance,
            "scores": _records(confounded.scores),
            "collections": _records(confounded.collections.reset_index()),
        },
        "label_issues": None
        if issues is None
        else {"run": issues.run, "judged": issues.judged, "note": issues.note, "ranked": _records(issues.ranked)},
        "thresholds": {"coarse": audit.pictures.coarse_threshold, "fine": audit.pictures.fine_threshold},
        "seconds": audit.seconds,
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, what is missing as None."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")
    ]


def _figshare_conflicts(audit: Audit) -> pd.DataFrame:
    links = audit.links
    assert links is not None
    found = links[links["conflict"]]
    ours = audit.table.iloc[found["row"]][["path", "label"]].reset_index(drop=True)
    return ours.join(found[["figshare", "figshare_label", "patient"]].reset_index(drop=True))


def _illustrations(audit: Audit, folder: Path) -> Iterator[tuple[str, Illustration]]:
    """Every figure that this audit has something to show in, by section."""
    if not audit.leakage.empty:
        total = audit.leakage.iloc[-1]
        alt = (
            f"Test slices by how training holds them again: {int(total['picture'])} of {int(total['test'])} are copies."
        )
        caption = "Red parts are slices that training holds again; only the blue part is new, as far as can be known."
        yield "leakage", illustrate(folder, "leakage", figures.leakage_bars(audit.leakage), alt, caption)
    yield from _of_twins(audit, folder)
    if audit.memoriser["accuracy"].notna().any():
        figure = figures.memoriser_bars(audit.memoriser)
        alt = "Accuracy of the memoriser by protocol, with and without mirrors; the numbers are in the table below."
        caption = "How far remembering alone gets: the floor for every score under the same protocol (95 % intervals)."
        yield "memoriser", illustrate(folder, "memoriser", figure, alt, caption)
    if audit.confounding is not None:
        figure = figures.confounding_dots(audit.confounding.scores, audit.confounding.chance)
        alt = "What can be told from storage, size and frame alone, by cue and question; the line is chance."
        caption = "Right of the line, the class shows in something that is not anatomy."
        yield "confounding", illustrate(folder, "confounding", figure, alt, caption)
    yield from _of_labels(audit, folder)


def _of_twins(audit: Audit, folder: Path) -> Iterator[tuple[str, Illustration]]:
    pairs = audit.pictures.pairs
    if pairs.empty:
        return
    figure = figures.similarity(
        pairs["fine"].to_numpy(float), audit.pictures.stranger.astype(float), audit.pictures.fine_threshold
    )
    alt = f"Histograms of {len(pairs)} pairs of twins and of every slice's nearest stranger, with the threshold."
    caption = "Twins lie right of the threshold, strangers left of it. Where they meet without a gap, look at the weakest links."
    yield "similarity", illustrate(folder, "similarity", figure, alt, caption)
    changed = pairs[pairs["turn"] != "same"]
    split = audit.table["split"].to_numpy()
    across = changed[split[changed["i"]] != split[changed["j"]]]
    some = (across if len(across) else changed if len(changed) else pairs).sample(frac=1, random_state=0).head(SHOWN)
    caption = (
        "Drawn at random from the turned copies, across the published split where there is one: see that both are one."
    )
    yield "twins", _pairs(audit, some, folder, "twins", caption)
    weak = weakest_links(audit.pictures).head(SHOWN)
    caption = "The least alike that were still joined: see whether the threshold is right for this set."
    yield "weakest", _pairs(audit, weak.merge(pairs[["i", "j", "turn"]], on=["i", "j"]), folder, "weakest", caption)


def _pairs(audit: Audit, pairs: pd.DataFrame, folder: Path, name: str, caption: str) -> Illustration:
    path, turned = audit.table["path"], pairs["turn"].map(figures.TURNED)
    titles = [
        f"{_short(path[i])} and {_short(path[j])}\n{how}, {fine:.3f}"
        for i, j, how, fine in zip(pairs["i"], pairs["j"], turned, pairs["fine"], strict=True)
    ]
    figure = figures.pairs_grid(audit.images[pairs["i"]], audit.images[pairs["j"]], titles)
    alt = "Pairs of slices side by side: " + listed(title.replace("\n", ", ") for title in titles)
    return illustrate(folder, name, figure, alt, caption, "png")


def _of_labels(audit: Audit, folder: Path) -> Iterator[tuple[str, Illustration]]:
    if len(audit.conflicts):
        rows = audit.conflicts.head(2 * SHOWN)
        titles = [f"{_short(path)}\n{SHORT[label]}" for path, label in zip(rows["path"], rows["label"], strict=True)]
        figure = figures.numbered_grid(audit.images[rows["row"]], titles)
        alt = "Slices of pictures under two classes: " + listed(title.replace("\n", ", ") for title in titles)
        caption = "Neighbours are one picture under two classes: one of the labels is wrong."
        yield "conflicts", illustrate(folder, "conflicts", figure, alt, caption, "png")
    if audit.issues is not None and len(audit.issues.ranked):
        rows = audit.issues.ranked.head(2 * SHOWN)
        columns = (rows[name] for name in ("path", "label", "suggested"))
        titles = [f"{_short(path)}\n{SHORT[one]}; {SHORT[two]}?" for path, one, two in zip(*columns, strict=True)]
        figure = figures.numbered_grid(audit.images[rows["row"]], titles)
        alt = "Slices whose label a trained run doubts: " + listed(title.replace("\n", ", ") for title in titles)
        caption = (
            "Labels that the run doubts most, with the class that it gives instead; many will be the run's mistakes."
        )
        yield "issues", illustrate(folder, "label-issues", figure, alt, caption, "png")


def _short(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
