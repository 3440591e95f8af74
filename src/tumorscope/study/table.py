"""Run the rows of the report, gather their scores, and write the table: JSON, CSV, a figure and a page."""

import datetime
import json
import math
import textwrap
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tumorscope.api import train
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import DataNotFound, RunMismatch
from tumorscope.evaluation.evaluate import (
    by_model,
    comparison_rows,
    pooled_test,
    pooled_threshold_intervals,
    presence_by_size,
)
from tumorscope.evaluation.figures import GREY, INK, WIDTH, styled
from tumorscope.evaluation.intervals import paired_difference
from tumorscope.evaluation.pages import illustrate, template
from tumorscope.evaluation.regions import summary
from tumorscope.evaluation.report import PARTS
from tumorscope.files import write_json, write_text
from tumorscope.labels import CLASSES
from tumorscope.study.rows import Row, all_rows
from tumorscope.training.fold import Report
from tumorscope.training.identity import environment, machines_of
from tumorscope.training.runs import place_of, read_predictions, read_regions, shapes_of

PROTOCOLS = ("official", "patient-cv")
#: What the table shows of every row and protocol.
COLUMNS = (
    "accuracy",
    "balanced_accuracy",
    "precision_weighted",
    "f1_weighted",
    "presence_auc",
    "type_balanced_accuracy",
)
#: Kept without intervals: for the figures that the report gives by class.
BY_CLASS = tuple(f"{metric}_{name}" for name in CLASSES for metric in ("precision", "recall", "f1", "auc"))

_COLOURS = {"official": "#0072B2", "patient-cv": "#D55E00"}


def run_study(
    catalogue: Catalogue,
    rows: Sequence[Row],
    protocols: Sequence[str],
    seeds: int | None,
    runs: Path,
    out: Path,
    *,
    against: Row | None = None,
    overwrite: bool = False,
    workers: int = 0,
    report: Report = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Train every row under every protocol, finished runs kept, and write the table after each; the page's path.

    catalogue : for the protocol external one joined of two; seeds : of every row; each row's own number where None. Further
    seeds that are finished in `runs` count too, and a line of more seeds than these stays, unless `overwrite`
    workers : folds trained at the same time, see `train_runs`
    against : a row whose finished runs in `runs` each row is compared with, slice by slice, over the seeds that both have

    Raises `RunMismatch` where `out` holds rows of other data (external sets may differ); and once all other rows are there, where
    runs of a row are of another recipe or network.
    """
    _need_same_data(out / "study.json", catalogue, protocols)
    unfit: list[str] = []
    for row in rows:
        for protocol in protocols:
            asked = range(seeds or row.seeds)
            try:
                made = train(
                    row.build(),
                    catalogue,
                    protocol,
                    asked if overwrite else _with_finished(asked, row, catalogue, protocol, runs),
                    runs=runs,
                    resume=not overwrite,
                    overwrite=overwrite,
                    workers=workers,
                    report=report,
                )
                line = _line(row, made) | {"data": _named(catalogue)} | _difference(row, made, against)
            except DataNotFound as error:
                say(f"{row.name} under {protocol}: left out. {error}")
                _leave_out(out / "study.json", catalogue, row, protocol, str(error))
                continue
            except RunMismatch as error:
                say(f"{row.name} under {protocol}: left out. {error}")
                unfit.append(f"{row.name} under {protocol}: {error}")
                continue
            say(f"{row.name} under {protocol}: {line['accuracy']:.4f} (memoriser {line['memoriser_accuracy']:.4f})")
            kept = _keep(out / "study.json", line, overwrite)
            if kept["seeds"] > line["seeds"]:
                say(f"The table keeps its line of {kept['seeds']} seeds; --overwrite puts these in its place.")
    if not unfit:
        return write_study(out)
    if (out / "study.json").exists():
        write_study(out)
    raise RunMismatch("\n".join(unfit))


def write_study(out: Path) -> Path:
    """Write study.csv, a figure a group and study.html from study.json; the page's path."""
    kept = read_study(out / "study.json")
    group_of = {row.name: row.group for row in all_rows()}
    grouped: dict[str, list[dict[str, Any]]] = {}
    for line in kept["rows"]:
        grouped.setdefault(group_of.get(line["row"], "other"), []).append(line)
    figures = {
        group: illustrate(
            out / "figures",
            f"study_{group}",
            study_dots(pd.DataFrame(lines)),
            "Test accuracy of every row under each protocol, with the report's figure; the numbers are in the table.",
            "Filled: ours with 95 % interval."
            + " Open: the report's figure on the official test." * any(line["reported"] for line in lines),
        )
        for group, lines in grouped.items()
    }
    write_text(out / "study.csv", pd.DataFrame(kept["rows"]).to_csv(index=False))
    page = template("study/study.html.j2").render(
        kept=kept,
        data=", ".join(dict.fromkeys(f"{one['data']['name']} ({one['data']['digest']})" for one in kept["rows"])),
        grouped=grouped,
        figures=figures,
        likenesses={group: _likenesses(lines) for group, lines in grouped.items()},
        beside=_beside(kept["rows"]),
        created=_now(),
    )
    write_text(out / "study.html", page)
    return out / "study.html"


def _likenesses(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Titles of the rows of a protocol whose slices are as like the real ones, which are the same slices, with that likeness."""
    found: list[dict[str, Any]] = []
    for line in lines:
        if "likeness" not in line:
            continue
        one = {name: line[name] for name in ("protocol", "likeness")}
        earlier = next((other for other in found if other.items() >= one.items()), None)
        if earlier is None:
            found.append({**one, "titles": [line["title"]]})
        else:
            earlier["titles"].append(line["title"])
    return found


def _beside(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every figure of the report but accuracy, which the first table shows, with ours."""
    return [
        {
            **{"title": line["title"], "score": metric.replace("_", " ").replace("auc", "AUC"), "reported": value},
            **{"ours": line.get(metric), "sd": line.get(f"{metric}_sd")},
        }
        for line in lines
        for metric, value in line["reported"].items()
        if metric not in ("accuracy", "accuracy_sd", "recall_weighted")  # weighted recall is accuracy
    ]


@styled
def study_dots(table: pd.DataFrame) -> Figure:
    """Accuracy with 95 % interval of every row, a colour a protocol; the report's figure as an open circle."""
    titles = list(dict.fromkeys(table["title"]))
    figure = Figure(figsize=(WIDTH * 1.7, 1.3 + 0.36 * len(titles)))
    axes = figure.subplots()
    for protocol, part in table.groupby("protocol", sort=False):
        place = [titles.index(title) + (0.12 if protocol == "patient-cv" else -0.12) for title in part["title"]]
        middle = part["accuracy"].to_numpy(float)
        spread = abs(part[["accuracy_low", "accuracy_high"]].to_numpy(float).T - middle)
        colour = _COLOURS.get(str(protocol), GREY)
        axes.errorbar(middle, place, xerr=spread, fmt="o", markersize=5, color=colour, label=str(protocol))
    said = {
        title: reported["accuracy"]
        for title, reported in zip(table["title"], table["reported"], strict=True)
        if reported
    }
    if said:
        axes.plot(
            list(said.values()),
            [titles.index(title) for title in said],
            "o",
            markerfacecolor="none",
            markeredgecolor=INK,
            markersize=8,
            label="report",
        )
    axes.set_yticks(range(len(titles)), [textwrap.fill(title, 45) for title in titles])
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _line(row: Row, runs: Sequence[Path]) -> dict[str, Any]:
    """A flat line of the table from the runs of one row under one protocol."""
    models = by_model(runs)
    rows = comparison_rows(models)
    held_out, scored = (next(one for one in rows if one["part"] == part) for part in PARTS)
    line: dict[str, Any] = {"row": row.name, "title": row.title, "protocol": scored["protocol"]}
    line |= {name: scored[name] for name in ("seeds", "slices", "pictures", "patients", "memoriser_accuracy")}
    for metric in COLUMNS:
        line |= {metric: scored[f"{metric}_mean"], f"{metric}_sd": scored[f"{metric}_sd"]}
        line |= {f"{metric}_{end}": scored.get(f"{metric}_{end}") for end in ("low", "high")}
    for metric in BY_CLASS:
        line |= {metric: scored.get(f"{metric}_mean"), f"{metric}_sd": scored.get(f"{metric}_sd")}
    line |= {"validation_accuracy": held_out["accuracy_mean"], "validation_accuracy_sd": held_out["accuracy_sd"]}
    at = [one["presence_at_threshold"] for several in models.values() for one in several]
    ends = pooled_threshold_intervals(runs)
    for metric in ("sensitivity", "specificity"):
        known = [one[metric] for one in at if one[metric] is not None]
        line[f"{metric}_at_threshold"] = float(np.mean(known)) if known else None
        line |= dict(zip((f"{metric}_at_threshold_low", f"{metric}_at_threshold_high"), ends[metric], strict=True))
    if regional := [run for run in runs if (run / "regions.csv").exists()]:
        regions = [pooled_test([read_regions(run)]) for run in regional]
        tested = [pooled_test([read_predictions(run)]) for run in regional]
        pixels = row.build().input.size ** 2
        line["regions"] = summary(pd.concat(regions, ignore_index=True), pixels, len(regions))
        line["presence_by_size"] = presence_by_size(tested, regions, pixels)
    if shapes := next(filter(None, map(shapes_of, runs)), None):
        line["stored_values"] = sum(map(math.prod, shapes.values()))
    if enlarged := likeness_of(runs):
        line["likeness"] = enlarged
    line["made"] = _made(runs)
    return line | _reported(row, scored["protocol"]) | {"note": row.note}


def likeness_of(runs: Sequence[Path]) -> dict[str, Any]:
    """Mean PSNR in dB and SSIM to the real slices by filter, with the deviation over test slices; empty where none is enlarged.

    Slices that a filter gives back exactly have no PSNR and are left out of its mean.
    """
    found = [files for run in runs if (files := sorted(run.glob("fold-*/likeness.csv")))]
    if not found:
        return {}
    table = pd.concat([pd.read_csv(file) for files in found for file in files], ignore_index=True)
    table = table.replace(np.inf, np.nan)
    filters = {
        str(name): {
            **{metric: float(part[metric].mean()) for metric in ("psnr", "ssim")},
            **{f"{metric}_sd": float(part[metric].std()) for metric in ("psnr", "ssim")},
        }
        for name, part in table.groupby("filter", sort=False)
    }
    slices = len(table) // len(filters) // len(found)  # the same ones in every run
    return {"slices": slices, "by filter": filters}


def _made(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Processor, cores, GPU where there is one, and versions that folds of the runs were trained with, each combination once."""
    found: list[dict[str, Any]] = []
    for one in chain.from_iterable(
        machines_of(json.loads((run / "environment.json").read_text("utf-8"))) for run in runs
    ):
        made = {"processor": one["machine"]["processor"], "cores": one["machine"]["cores"], **one["versions"]}
        made |= {"gpu": one["gpu"]} if "gpu" in one else {}
        if made not in found:
            found.append(made)
    return found


def _reported(row: Row, protocol: str) -> dict[str, Any]:
    """What the report says of a row in figures and in words, all of it on the official split."""
    official = protocol == "official"
    return {"reported": dict(row.reported) if official else {}, "said": row.said if official else ""}


def _difference(row: Row, runs: Sequence[Path], against: Row | None) -> dict[str, Any]:
    """Test accuracy less that of the same slices in the runs of `against` beside these, paired; nothing where there are none."""
    if against is None or against.name == row.name:
        return {}
    others = [run.with_name(run.name.replace(row.name, against.name, 1)) for run in runs]
    pairs = [(run, other) for run, other in zip(runs, others, strict=True) if (other / "predictions.csv").exists()]
    if not pairs:
        return {}
    ours, theirs = (pooled_test([read_predictions(run) for run in several]) for several in zip(*pairs, strict=True))
    return {"against": {"row": against.name, "seeds": len(pairs), **paired_difference(ours, theirs)}}


def _with_finished(asked: Sequence[int], row: Row, catalogue: Catalogue, protocol: str, runs: Path) -> list[int]:
    """The seeds asked for and those whose runs are finished already."""
    start = f"{row.name}-{place_of(catalogue, protocol, 0)}".removesuffix("0")
    finished = (run.parent.name.removeprefix(start) for run in runs.glob(f"{start}*/predictions.csv"))
    return sorted({*asked, *(int(seed) for seed in finished if seed.isdecimal())})


def _need_same_data(file: Path, catalogue: Catalogue, protocols: Sequence[str]) -> None:
    if set(protocols) <= {"external"}:
        return
    for line in _stored(file)["rows"]:
        if line["protocol"] != "external" and line["data"]["digest"] != catalogue.digest:
            raise RunMismatch(
                f"{file}: holds rows of {line['data']['name']} ({line['data']['digest']}), and this is {catalogue.name} "
                f"({catalogue.digest}). Give another --out."
            )


def _keep(file: Path, line: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Put a line into the table on disk, in place of an earlier one of the same row and protocol; the line that stands there.

    Of the earlier one stays the difference to another row where none is asked for, and all of it where it has more seeds; none
    of it where it is of another network, as its stored values tell where both lines have them.
    """
    stored = _stored(file)
    earlier = next((one for one in stored["rows"] if _same(one, line)), None)
    networks = {one["stored_values"] for one in (earlier or {}, line) if "stored_values" in one}
    if earlier is not None and not overwrite and len(networks) < 2:
        if earlier["seeds"] > line["seeds"]:
            line = earlier
        elif "against" in earlier and "against" not in line and earlier["seeds"] == line["seeds"]:
            line = line | {"against": earlier["against"]}
    left_out = [one for one in stored["not_measured"] if not _same(one, line)]
    _write(file, _with(stored["rows"], line), left_out)
    return line


def _leave_out(file: Path, catalogue: Catalogue, row: Row, protocol: str, reason: str) -> None:
    """Note on disk that a row could not be run here, why, and what runs it; an earlier result stays."""
    command = f"tumorscope study run --rows {row.name} --protocol {protocol}"
    line: dict[str, Any] = {
        "row": row.name,
        "title": row.title,
        "protocol": protocol,
        "data": _named(catalogue),
        "reason": reason,
        "command": command,
    }
    line |= _reported(row, protocol)
    stored = _stored(file)
    if not any(_same(one, line) for one in stored["rows"]):
        _write(file, stored["rows"], _with(stored["not_measured"], line))


def read_study(file: Path) -> dict[str, Any]:
    """What `run_study` wrote; lines of before they held what the report says, or their data, get those."""
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    rows = {row.name: row for row in all_rows()}
    for line in (*kept["rows"], *kept["not_measured"]):
        known = _reported(rows[line["row"]], line["protocol"]) if line["row"] in rows else {"reported": {}, "said": ""}
        for name, value in ({"data": kept.get("data")} | known).items():
            line.setdefault(name, value)
    return kept


def _stored(file: Path) -> dict[str, list[dict[str, Any]]]:
    kept = read_study(file) if file.exists() else {}
    return {name: kept.get(name, []) for name in ("rows", "not_measured")}


def _named(catalogue: Catalogue) -> dict[str, str]:
    return {"name": catalogue.name, "digest": catalogue.digest}


def _write(file: Path, rows: list[dict[str, Any]], left_out: list[dict[str, Any]]) -> None:
    write_json(file, {"rows": rows, "not_measured": left_out, **environment()})


def _with(lines: list[dict[str, Any]], line: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines with this one, in the place of an earlier one of the same row, protocol and external set."""
    if any(_same(one, line) for one in lines):
        return [line if _same(one, line) else one for one in lines]
    return [*lines, line]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    external = one["protocol"] == "external"
    named, others = ((each["row"], each["protocol"], each["data"]["name"] if external else "") for each in (one, other))
    return bool(named == others)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
