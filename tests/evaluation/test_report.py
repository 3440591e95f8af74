"""The report as a reader and as a program meets it: page, JSON, CSV and figures."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from tumorscope.evaluation import figures, student_report
from tumorscope.evaluation.intervals import bootstrap
from tumorscope.evaluation.report import (
    DISCLAIMER,
    Mistakes,
    ModelSection,
    Report,
    Samples,
    comparison_row,
    in_words,
    write_report,
)
from tumorscope.evaluation.scores import score
from tumorscope.labels import CLASSES

HOSTILE = "<script>alert('$x_{$')</script>"
SECTIONS = ["summary", "data", "samples", "models", "mistakes", "epochs", "environment"]


def predictions(n: int = 80, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    label = np.array(classes)[np.arange(n) % len(classes)]
    values = random.dirichlet(np.ones(4), size=n) + np.array([[name == c for c in CLASSES] for name in label]) * 0.4
    table = pd.DataFrame(values / values.sum(axis=1, keepdims=True), columns=[f"p_{name}" for name in CLASSES])
    return table.assign(
        label=label, path=[f"{i}.png" for i in range(n)], patient="", picture=[f"k{i}" for i in range(n)]
    )


def history() -> pd.DataFrame:
    epoch = np.arange(1, 4)
    columns = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return pd.DataFrame({"epoch": epoch, **dict.fromkeys(columns, 1 / epoch)})


def section(name: str, seeds: int = 2, **more: object) -> ModelSection:
    tables = {part: [predictions(seed=seed) for seed in range(seeds)] for part in ("validation", "test")}
    return ModelSection(
        name=name,
        layers=[("conv1", "32 x 30 x 30", 320), ("dense", "4", 132)],
        recipe='name = "x"\n[input]\nsize = 30\n',
        histories=[history() for _ in range(seeds)],
        scores={part: [score(table) for table in several] for part, several in tables.items()},
        predictions={part: several[0] for part, several in tables.items()},
        intervals={part: bootstrap(pd.concat(several), n=100) for part, several in tables.items()},
        seconds=75.0,
        **more,
    )


def rows_of(one: ModelSection, memoriser: float | None = 0.9725) -> list[dict]:
    arguments = [(part, one.scores[part], one.intervals.get(part)) for part in one.scores]
    return [comparison_row(one.name, one.protocol, *rest, memoriser=memoriser) for rest in arguments]


class Page(HTMLParser):
    """Tags with their attributes, ids in order, and the text outside style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self.inside = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside != "style":
            self.text += " " + data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    images = np.random.default_rng(0).integers(0, 256, size=(15, 12, 12), dtype=np.uint8)
    wrong = Mistakes(images[:3], ["glioma"] * 3, ["notumor"] * 3, [0.9, 0.8, 0.7])
    models = [section("baseline_cnn", mistakes=wrong), section(HOSTILE, seeds=1)]
    epochs = [(e, s, 1 - 1 / (e + 1), 1 - 1 / (e + 2)) for e in range(1, 6) for s in range(2)]
    report = Report(
        title=f"Report {HOSTILE}",
        created="2026-01-02T03:04:05Z",
        data={"slices": 7023, "source": HOSTILE},
        environment={"python": "3.11", "libraries": {"numpy": "2.4"}},
        models=models,
        comparison=[row for one in models for row in rows_of(one)],
        notices=["These are phantoms, not patients."],
        classes=pd.DataFrame({"label": [*CLASSES, "glioma"], "split": ["train"] * 4 + ["test"]}),
        samples=Samples(images, [CLASSES[i % 4] for i in range(15)]),
        epochs=pd.DataFrame(epochs, columns=["epoch", "seed", "test_accuracy", "val_accuracy"]),
    )
    return write_report(tmp_path_factory.mktemp("report"), report).parent


@pytest.fixture(scope="module")
def page(full: Path) -> Page:
    return Page((full / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_no_other_file(page):
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) == 3 + 1 + 2 * 6  # classes, samples, epochs; mistakes of one model; six figures a model
    assert all(source.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")) for source in sources)
    assert all(link["href"].startswith("#") for link in page.all("a"))


def test_the_style_loads_nothing(full):
    style = (full / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "@media print" in style


def test_every_section_is_there_in_order_and_linked(page):
    assert [attributes["id"] for attributes in page.all("section")] == SECTIONS
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in SECTIONS]


def test_every_figure_has_words(page):
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(page.all("img"))


def test_it_says_what_it_is_not_and_shows_the_notices(page):
    assert DISCLAIMER in page.text
    assert "These are phantoms, not patients." in page.text
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


def test_a_hostile_name_is_text(full, page):
    assert "<script" not in (full / "report.html").read_text()
    assert HOSTILE in page.text
    assert all(path.parent == full / "figures" for path in full.rglob("*.png"))


def test_ours_stand_beside_the_student_report_and_the_memoriser(page):
    assert all(words in page.text for words in ("0.7529", "0.9725", "report 0.7463", "report 0.83"))


def test_parameters_and_time_are_told(page):
    assert "452 parameters; 2 runs, trained in 1 min 15 s." in " ".join(page.text.split())


def test_json_and_csv_hold_the_same_numbers(full):
    rows = json.loads((full / "report.json").read_text())["comparison"]
    table = pd.read_csv(full / "comparison.csv", keep_default_na=False, na_values=[""])
    assert len(table) == len(rows) == 4
    for (_, line), row in zip(table.iterrows(), rows, strict=True):
        for key in table.columns:
            value = row.get(key)
            if value is None:
                assert isinstance(line[key], float)
                assert math.isnan(line[key])
            else:
                assert line[key] == value


def test_json_holds_the_whole_run(full):
    told = json.loads((full / "report.json").read_text())
    model = told["models"][0]
    assert model["parameters"] == 452
    assert model["scores"]["test"][0] == json.loads(json.dumps(score(predictions(seed=0))))
    assert model["summary"]["test"]["accuracy"]["mean"] == told["comparison"][1]["accuracy_mean"]
    assert model["histories"][0][2]["epoch"] == 3
    assert told["student_report"]["improved_cnn test"]["accuracy"] == 0.8871


def test_figures_are_saved_both_ways(full):
    names = {path.stem for path in (full / "figures").iterdir()}
    assert len(names) == 16
    for name in names:
        assert (full / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (full / "figures" / f"{name}.svg").read_bytes()


def test_the_page_is_small(full):
    assert (full / "report.html").stat().st_size < 4e6


def test_what_is_missing_is_said(tmp_path):
    table = predictions(classes=("glioma", "notumor"))
    only = ModelSection("m", [], "", [], {"test": [score(table)]}, {"test": table}, protocol="external")
    report = Report("Small", "2026-01-02", {}, {}, [only], rows_of(only, memoriser=None))
    page = Page(write_report(tmp_path, report).read_text(encoding="utf-8"))
    assert [attributes["id"] for attributes in page.all("section")] == SECTIONS
    assert "No slices were given to show." in page.text
    assert "None to show." in page.text
    assert "Not made for this report." in page.text
    assert len(page.all("img")) == 3  # confusion, ROC, reliability
    assert "nan" not in page.text.lower()
    assert "None" not in page.text.replace("None to show.", "")


def test_nothing_is_quoted_beside_other_data(tmp_path):
    one = section("baseline_cnn", seeds=1)
    row = comparison_row(
        "baseline_cnn", "official", "test", one.scores["test"], {"accuracy": (None, None)}, reported={}
    )
    page = Page(write_report(tmp_path, Report("Phantom", "2026-01-02", {}, {}, [one], [row])).read_text("utf-8"))
    assert "report 0." not in page.text
    assert "95 %:" not in page.text


def test_the_words_say_when_the_memoriser_wins():
    row = comparison_row("baseline_cnn", "official", "test", [score(predictions())], memoriser=0.9725)
    official = in_words([row])
    assert "memoriser" in official[0]
    assert "no less than any model" in official[0]
    assert "student report gives 75.3" in official[0]
    assert "patients kept apart" in official[1]
    patient = in_words([{**row, "protocol": "patient-cv", "accuracy_mean": 0.85, "memoriser_accuracy": 0.72}])
    assert len(patient) == 1
    assert "13.0 points above" in patient[0]


def test_the_student_report_is_quoted_for_its_own_protocol_alone():
    scores = [score(predictions())]
    assert comparison_row("baseline_cnn", "official", "test", scores)["accuracy_reported"] == 0.7529
    assert "accuracy_reported" not in comparison_row("baseline_cnn", "patient-cv", "test", scores)
    assert "accuracy_reported" not in comparison_row("baseline_cnn", "official", "test", scores, reported={})
    assert student_report.reported("improved_cnn", "test")["auc_meningioma"] == 0.96
    assert not student_report.reported("improved_cnn", "validation")


def test_figures_leave_matplotlib_as_it_was_and_come_out_the_same():
    before = dict(matplotlib.rcParams)
    first, second = (figures.encoded(figures.confusion(np.eye(4, dtype=int), "$x_{$"), "svg") for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before
    assert set(figures.PALETTE) == set(figures.SHORT) == set(CLASSES)


def test_an_empty_row_of_a_confusion_matrix_is_drawn():
    axes = figures.confusion([[5, 0, 0, 0], [0] * 4, [0, 0, 3, 1], [0] * 4], "external").axes[0]
    cells = [text.get_text() for text in axes.texts]
    assert cells[0] == "5\n100%"
    assert cells[10:12] == ["3\n75%", "1\n25%"]


def test_roc_shows_the_classes_that_have_one():
    legend = figures.roc(predictions(classes=("glioma", "notumor")), "x").axes[0].get_legend()
    assert [text.get_text().rsplit(" ", 1)[0] for text in legend.get_texts()] == ["chance", "Glioma", "No tumour"]


def test_curves_draw_a_line_a_run_and_skip_what_is_not_known():
    runs = [history(), history().assign(val_loss=math.nan, val_accuracy=math.nan)]
    loss, accuracy = figures.curves(runs, "x").axes
    assert len(loss.lines) == len(accuracy.lines) == 3


def test_the_epoch_curve_quotes_both_published_figures():
    table = pd.DataFrame({"epoch": [1, 2], "seed": [0, 0], "test_accuracy": [0.6, 0.8], "val_accuracy": [0.7, 0.85]})
    words = " ".join(text.get_text() for text in figures.epoch_curve(table).axes[0].texts)
    assert "0.7529" in words
    assert "0.8871" in words


def test_class_distribution_has_a_panel_a_split():
    table = pd.DataFrame({"label": ["glioma", "glioma", "notumor"], "split": ["train", "train", "test"]})
    assert [axes.get_title("left") for axes in figures.class_distribution(table).axes] == [
        "Training: 2 slices",
        "Testing: 1 slices",
    ]


def test_a_style_that_another_library_sets_changes_no_figure():
    import matplotlib.style
    import pandas as pd

    from tumorscope.evaluation.figures import class_distribution, encoded

    table = pd.DataFrame({"split": ["train", "test"], "label": ["glioma", "notumor"]})
    plain = encoded(class_distribution(table), "svg")
    with matplotlib.style.context("ggplot"):
        assert encoded(class_distribution(table), "svg") == plain
