"""The figures of an audit, each a function from plain data to a matplotlib `Figure`, in the style of the report's."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from tumorscope.audit.confounding import CUES, METRICS
from tumorscope.evaluation.figures import GREY, INK, MUTED, SHORT, WIDTH, grid, styled

#: Column of `leakage.leakage` to its name and colour, the worst first; told apart in grey by lightness.
LEAKS = {
    "only_bytes": ("same file", "#7A1F1F"),
    "only_pixels": ("same pixels", "#B2432F"),
    "only_picture": ("mirrored, turned or re-encoded", "#E08A5B"),
    "only_patient": ("another slice of a training patient", "#F3CFA4"),
    "new": ("new, as far as is known", "#5B8FB0"),
}
TURNED = {
    "same": "not turned",
    "mirror": "mirrored",
    "flip": "upside down",
    "half_turn": "half turn",
    "quarter_left": "quarter turn left",
    "quarter_right": "quarter turn right",
    "transpose": "transposed",
    "antitranspose": "transposed and turned",
}
QUESTIONS = dict(zip(METRICS, ("four classes", "a tumour or none", "which tumour"), strict=True))

_TWINS, _STRANGERS = "#D55E00", "#0072B2"


@styled
def leakage_bars(leakage: pd.DataFrame) -> Figure:
    """Shares of the test slices of each class by how training holds them again; `leakage` as of `leakage.leakage`."""
    names = [SHORT.get(name, "All") for name in leakage["class"]]
    figure = Figure(figsize=(WIDTH * 1.4, 1.5 + 0.42 * len(names)))
    axes = figure.subplots()
    start = np.zeros(len(names))
    for column, (label, colour) in LEAKS.items():
        share = (leakage[column] / leakage["test"]).to_numpy()
        bars = axes.barh(names, share, left=start, color=colour, label=label, edgecolor="white", linewidth=0.6)
        counts = [f"{count:,}" if part > 0.06 else "" for count, part in zip(leakage[column], share, strict=True)]
        dark = column in ("only_bytes", "only_pixels", "new")
        axes.bar_label(bars, counts, label_type="center", fontsize=9, color="white" if dark else INK)
        start += share
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of test slices")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(loc="outside lower center", ncols=2, handlelength=1.2)
    return figure


@styled
def pairs_grid(left: NDArray[np.uint8], right: NDArray[np.uint8], titles: Sequence[str], columns: int = 2) -> Figure:
    """Twins side by side: `left` and `right` (k, s, s), and a title a pair."""
    gap = np.full((len(left), left.shape[1], 4), 255, np.uint8)
    return grid(np.concatenate([left, gap, right], axis=2), [(title, INK) for title in titles], columns)


@styled
def numbered_grid(images: NDArray[np.uint8], titles: Sequence[str]) -> Figure:
    """Slices `images` (k, s, s), numbered from 1, each with a title of a line or more."""
    return grid(images, [(f"{number}. {title}", INK) for number, title in enumerate(titles, start=1)])


@styled
def similarity(twins: NDArray[np.float64], strangers: NDArray[np.float64], threshold: float) -> Figure:
    """Fine correlation of twins (a value a pair) and of every slice with its nearest stranger, and the threshold.

    Above all of it, below the part around the threshold; counts on a logarithmic axis, so that single pairs show.
    """
    figure = Figure(figsize=(WIDTH * 1.4, 4.4))
    for axes, (low, bins) in zip(figure.subplots(2), ((0.0, 60), (0.8, 50)), strict=True):
        edges = np.linspace(low, 1.0, bins + 1)
        for values, colour, label in ((strangers, _STRANGERS, "nearest stranger"), (twins, _TWINS, "twins")):
            shown = values[values >= low].clip(max=1.0)
            axes.hist(shown, edges, color=colour, alpha=0.75, label=f"{label} ({len(values):,})")
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle="--", label=f"joined from {threshold:g}")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set(ylabel="count", xlim=(low, 1.0))
    axes.set_xlabel("correlation of the edges at 128x128")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=1.2)
    return figure


@styled
def confounding_dots(scores: pd.DataFrame, chance: dict[str, float]) -> Figure:
    """What cues alone score, a panel a question and a row a set of cues; the line is chance."""
    names = [_cue_name(row) for _, row in scores.iterrows()]
    metrics = [metric for metric in METRICS if scores[metric].notna().any()]
    figure = Figure(figsize=(WIDTH * 1.6, 1.1 + 0.27 * len(names)))
    panels = np.atleast_1d(figure.subplots(1, max(1, len(metrics)), sharey=True))
    for axes, metric in zip(panels, metrics, strict=False):
        _dots(axes, scores, metric, chance[metric])
        axes.set_xlabel("AUC" if metric.endswith("auc") else "balanced accuracy")
        axes.set_title(QUESTIONS[metric])
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    return figure


def _cue_name(row: "pd.Series[str]") -> str:
    if row["kind"] == "cue":
        return CUES[row["cues"]]
    return {"all": "ALL CUES", "storage": "STORAGE", "size in bytes": "SIZE IN BYTES", "frame": "FRAME"}[row["cues"]]


def _dots(axes: Axes, scores: pd.DataFrame, metric: str, chance: float) -> None:
    rows, is_set = np.arange(len(scores)), (scores["kind"] == "set").to_numpy()
    colours = np.where(is_set, _TWINS, GREY)
    axes.hlines(rows, chance, scores[metric], color=colours, linewidth=1.4)
    axes.scatter(scores[metric], rows, color=colours, s=26, zorder=3)
    axes.axvline(chance, color=MUTED, linewidth=1, linestyle="--")
    for row, value in zip(rows[is_set], scores.loc[is_set, metric], strict=True):
        axes.annotate(f"{value:.2f}", (value, row), (0, 4), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xlim(min(chance, scores[metric].min()) - 0.05, 1.05)
    axes.grid(axis="x", alpha=0.25)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


@styled
def memoriser_bars(memoriser: pd.DataFrame) -> Figure:
    """Accuracy (bar, 95 % interval) and balanced accuracy (diamond) of the memoriser by protocol, without and with mirrors."""
    known = memoriser[memoriser["accuracy"].notna()]
    protocols = list(dict.fromkeys(known["protocol"]))
    figure = Figure(figsize=(WIDTH * 1.4, 1.4 + 0.62 * max(1, len(protocols))))
    axes = figure.subplots()
    for mirrors, shift, colour, label in ((False, -0.2, "#0072B2", "as it is"), (True, 0.2, "#7FB2D6", "with mirrors")):
        rows = known[known["mirrors"] == mirrors].set_index("protocol").loc[protocols]
        place = np.arange(len(protocols)) + shift
        spread = np.abs(rows[["accuracy_low", "accuracy_high"]].to_numpy(float).T - rows["accuracy"].to_numpy(float))
        axes.barh(place, rows["accuracy"], 0.36, color=colour, label=f"accuracy, {label}")
        axes.errorbar(rows["accuracy"], place, xerr=np.nan_to_num(spread), fmt="none", ecolor=INK, elinewidth=1)
        balanced = "balanced accuracy" if mirrors else None
        axes.scatter(
            rows["balanced_accuracy"], place, marker="D", s=22, color="white", edgecolor=INK, zorder=3, label=balanced
        )
        for where, value in zip(place, rows["accuracy"], strict=True):
            axes.text(0.01, where, f"{value:.3f}", va="center", fontsize=9, color=INK if mirrors else "white")
    axes.set_yticks(range(len(protocols)), protocols)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of test slices named right")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(loc="outside lower center", ncols=3, handlelength=1.2)
    return figure
