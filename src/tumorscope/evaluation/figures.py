"""The figures of a report, each a function from plain data to a matplotlib `Figure`.

Most are 4.4 inches wide with text of 9 points and more, so that one fills a phone and two stand side by side on a
page. Class colours are of Okabe and Ito's palette: told apart with colour-blindness and, by their dashes, in grey.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from tumorscope.evaluation.scores import auc_of, calibration_bins, calibration_error, probability_of, truth_of
from tumorscope.evaluation.student_report import REFERENCE_LINES
from tumorscope.files import write_bytes
from tumorscope.labels import CLASSES

#: One colour a class, in class order, used by every figure and by the page.
PALETTE = {"glioma": "#D55E00", "meningioma": "#0072B2", "notumor": "#4D4D4D", "pituitary": "#CC79A7"}
#: Names short enough for a tick.
SHORT = {"glioma": "Glioma", "meningioma": "Meningioma", "notumor": "No tumour", "pituitary": "Pituitary"}
DPI = 150
#: Colours and width in inches that all figures share.
INK, MUTED, GREY, WIDTH = "#1F2933", "#7B8794", "#9AA5B1", 4.4
#: A reliability bar of fewer slices than this is drawn pale.
FEW = 10

_DASHES = dict(zip(CLASSES, ("-", (0, (6, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))), strict=True))
_VALIDATION = "#0072B2"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    # Names come from users: a dollar sign in one is a dollar sign.
    "text.parse_math": False,
    "svg.hashsalt": "tumorscope",
}

Parameters = ParamSpec("Parameters")


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Draw in the style above and leave matplotlib's own settings as they were."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # other libraries set styles of their own for the whole process
            matplotlib.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return drawn


@styled
def class_distribution(table: pd.DataFrame) -> Figure:
    """Slices of each class in each split; `table` is a catalogue table (columns `label` and `split`)."""
    splits = [split for split in ("train", "test", "") if (table["split"] == split).any()]
    titles = {"train": "Training", "test": "Testing", "": "No split given"}
    figure = Figure(figsize=(WIDTH, 0.6 + 1.6 * len(splits)))
    panels = np.atleast_1d(figure.subplots(len(splits), sharex=True))
    for axes, split in zip(panels, splits, strict=True):
        counts = table.loc[table["split"] == split, "label"].value_counts().reindex(CLASSES, fill_value=0)
        bars = axes.barh([SHORT[name] for name in CLASSES], counts, color=[PALETTE[name] for name in CLASSES])
        axes.bar_label(bars, [f"{count:,} ({count / counts.sum():.0%})" for count in counts], padding=4, fontsize=9)
        axes.set_title(f"{titles[split]}: {counts.sum():,} slices")
        axes.invert_yaxis()
        axes.margins(x=0.35)
    panels[-1].set_xlabel("slices")
    return figure


@styled
def sample_grid(images: NDArray[np.uint8], labels: Sequence[str]) -> Figure:
    """Slices `images` (k, s, s), 0 to 255, each under its class name."""
    return grid(images, [(SHORT[name], PALETTE[name]) for name in labels])


@styled
def mistakes_grid(
    images: NDArray[np.uint8], true: Sequence[str], predicted: Sequence[str], probability: Sequence[float]
) -> Figure:
    """Wrongly answered slices `images` (k, s, s): what each is, what was said, and the probability given to that."""
    rows = zip(true, predicted, probability, strict=True)
    return grid(images, [(f"{SHORT[t]}\n→ {SHORT[p]}\n{q:.0%}", INK) for t, p, q in rows])


@styled
def curves(histories: Sequence[pd.DataFrame], title: str) -> Figure:
    """Loss and accuracy against epoch on training and validation slices, a line a run.

    Columns `epoch`, `train_loss`, `train_accuracy`, `val_loss`, `val_accuracy`; a column of NaN is left out.
    """
    figure = Figure(figsize=(WIDTH, 4.8))
    loss, accuracy = figure.subplots(2, sharex=True)
    parts = (("train", "training", MUTED, (0, (4, 1.5))), ("val", "validation", _VALIDATION, "-"))
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for part, label, colour, dash in parts:
            _lines(axes, histories, f"{part}_{name}", color=colour, linestyle=dash, label=label)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
    accuracy.set_xlabel("epoch")
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.set_ylim(bottom=0)
    loss.set_title(title)
    loss.legend()
    return figure


@styled
def rates(steps: Sequence[Sequence[float]], title: str) -> Figure:
    """Learning rate against step, a line a run."""
    figure = Figure(figsize=(WIDTH, 2.6))
    axes = figure.subplots()
    for one in steps:
        axes.plot(range(1, len(one) + 1), one, color=_VALIDATION, alpha=0.8 if len(steps) == 1 else 0.4)
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.grid(alpha=0.25)
    return figure


@styled
def labelled_grid(images: NDArray[np.uint8], captions: Sequence[str], columns: int) -> Figure:
    """Slices in rows of `columns`, a caption above each."""
    return grid(images, [(caption, INK) for caption in captions], columns)


@styled
def confusion(matrix: NDArray[np.int64] | Sequence[Sequence[int]], title: str) -> Figure:
    """Confusion matrix (4, 4), rows true and columns said: counts, with each row's shares, which set the shade."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(WIDTH, 3.9))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        colour = "white" if shares[i, j] > 0.55 else INK
        axes.text(j, i, f"{count:,}\n{shares[i, j]:.0%}", ha="center", va="center", color=colour)
    names = [SHORT[name] for name in CLASSES]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="said", ylabel="true")
    axes.set_title(title)
    return figure


@styled
def roc(predictions: pd.DataFrame, title: str) -> Figure:
    """One-vs-rest ROC curve and its area for every class that is there and is not all there is."""
    truth, probability = truth_of(predictions), probability_of(predictions)
    figure = Figure(figsize=(WIDTH, 3.9))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, label="chance 0.500")
    for k, name in enumerate(CLASSES):
        area = auc_of(truth == k, probability[:, k])
        if area is None:
            continue
        wrong, right, _ = roc_curve(truth == k, probability[:, k])
        axes.plot(wrong, right, color=PALETTE[name], linestyle=_DASHES[name], label=f"{SHORT[name]} {area:.3f}")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.grid(alpha=0.25)
    axes.set_title(title)
    axes.legend(title="area under the curve", title_fontsize=9, loc="lower right", handlelength=3)
    return figure


@styled
def reliability(predictions: pd.DataFrame, title: str = "Reliability") -> Figure:
    """Share right against the probability given, in 15 bins, over how many slices each bin has.

    A bar of fewer than `FEW` slices is pale.
    """
    truth, probability = truth_of(predictions), probability_of(predictions)
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == truth
    count, accuracy, _ = calibration_bins(confidence, correct)
    edges = np.linspace(0, 1, len(count) + 1)
    figure = Figure(figsize=(WIDTH, 4.8))
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    colours = np.where(count < FEW, "#D3E4F0", "#7FB2D6").tolist()
    above.bar(edges[:-1], np.nan_to_num(accuracy), 1 / len(count), align="edge", color=colours, edgecolor="white")
    above.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1, label="as sure as right")
    above.set(ylabel="share right", ylim=(0, 1), xlim=(0, 1))
    above.set_title(f"{title}, calibration error {calibration_error(confidence, correct):.3f}")
    bars = below.bar(edges[:-1], count, 1 / len(count), align="edge", color=GREY, edgecolor="white")
    below.bar_label(bars, [f"{n}" if n else "" for n in count], fontsize=7, padding=1)
    below.margins(y=0.2)
    below.set(xlabel="probability of the answer given", ylabel="slices")
    figure.legend(loc="outside lower center")
    return figure


@styled
def epoch_curve(table: pd.DataFrame, references: Mapping[str, float] = REFERENCE_LINES) -> Figure:
    """Test and validation accuracy against epochs trained: the mean over seeds and their range.

    Columns `epoch`, `seed`, `test_accuracy`, `val_accuracy`; `references` are drawn as labelled lines.
    """
    figure = Figure(figsize=(WIDTH * 1.3, 3.9))
    axes = figure.subplots()
    for column, label, colour, dash in (
        ("test_accuracy", "test", PALETTE["glioma"], "-"),
        ("val_accuracy", "validation", _VALIDATION, (0, (4, 1.5))),
    ):
        runs = table.groupby("epoch")[column].agg(["mean", "min", "max"])
        axes.plot(runs.index, runs["mean"], color=colour, linestyle=dash, label=f"{label}, mean over seeds")
        axes.fill_between(runs.index, runs["min"], runs["max"], color=colour, alpha=0.15, linewidth=0)
    for label, value in references.items():
        axes.axhline(value, color=MUTED, linewidth=1)
        place: Any = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "top"}
        axes.text(0.99, value - 0.003, f"{label} {value:.4f}", fontsize=9, **place)
    axes.set(xlabel="epochs trained", ylabel="accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def encoded(figure: Figure, kind: str) -> bytes:
    """The figure as the bytes of a `png` (150 dpi) or `svg` file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `name`.png and `name`.svg into `folder`, making it."""
    for kind in ("png", "svg"):
        write_bytes(folder / f"{name}.{kind}", encoded(figure, kind))


def grid(images: NDArray[np.uint8], titles: Sequence[tuple[str, str]], columns: int = 5) -> Figure:
    """Slices `images` (k, h, w), each under its title, given with its colour; titles may have several lines."""
    rows = max(1, -(-len(images) // columns))
    lines = max((title.count("\n") + 1 for title, _ in titles), default=1)
    height = WIDTH * 1.2 / columns * (images.shape[1] / images.shape[2] if len(images) else 1)
    figure = Figure(figsize=(WIDTH * 1.2, rows * (height + 0.18 * lines)))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, image, (title, colour) in zip(panels, images, titles, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=9.5, fontweight="normal", loc="center", color=colour, pad=3)
    return figure


def _lines(axes: Axes, histories: Sequence[pd.DataFrame], column: str, label: str, **style: Any) -> None:
    """A line a run, paler the more there are, with one entry in the legend."""
    known = [history for history in histories if column in history and history[column].notna().any()]
    for i, history in enumerate(known):
        alpha = 1.0 if len(known) == 1 else 0.6
        marker = "o" if len(history) == 1 else None
        axes.plot(
            history["epoch"], history[column], alpha=alpha, marker=marker, label=label if i == 0 else None, **style
        )
