"""The study: every row is a recipe that builds; the table is kept, goes on, and is drawn."""

import json

import pytest
from tests.training.tiny_set import tiny_catalogue

from tumorscope.errors import RecipeError
from tumorscope.study.rows import Row, all_rows, chosen_rows
from tumorscope.study.table import run_study


@pytest.mark.parametrize("row", all_rows(), ids=lambda row: row.name)
def test_every_row_is_a_recipe_that_differs_from_the_others_where_it_says(row):
    recipe = row.build()
    assert recipe.name == row.name
    blank = {"name": "", "title": ""}
    others = [other.build().model_copy(update=blank) for other in all_rows() if other.name != row.name]
    assert recipe.model_copy(update=blank) not in others


def test_the_reports_figures_stand_in_the_rows():
    rows = {row.name: row.reported for row in all_rows() if row.reported}
    assert rows["baseline"]["validation_accuracy"] == 0.8110
    assert rows["best"]["auc_meningioma"] == 0.96
    assert rows["focal"]["recall_meningioma"] - rows["cross_entropy"]["recall_meningioma"] == pytest.approx(0.11)
    assert rows["vgg16_128"]["recall_notumor"] == pytest.approx(0.9333, abs=1e-4)  # 378 of 405
    reported = {name: said["accuracy"] for name, said in rows.items()}
    assert reported == {
        **{"baseline": 0.7529, "cross_entropy": 0.8566, "focal": 0.8741, "best": 0.8871, "vgg16_32": 0.71},
        **{
            "vgg16_64": 0.72,
            "vgg16_96": 0.69,
            "vgg16_32_best": 0.7628,
            "vgg16_128": 0.8154,
            "vgg16_128_energy": 0.7796,
        },
    }


def test_an_unknown_row_is_refused_with_the_known_ones():
    assert [row.name for row in chosen_rows(["best", "baseline"])] == ["baseline", "best"]
    assert {row.group for row in chosen_rows([])} == {"report"}
    assert len(chosen_rows(["regions"])) == 6
    with pytest.raises(
        RecipeError,
        match="row nothing: unknown; choose among report, regions, transfer, interest, super_resolution, baseline",
    ):
        chosen_rows(["best", "nothing"])


@pytest.mark.slow
def test_the_table_goes_on_where_it_stopped_and_keeps_a_line_a_row_and_protocol(tmp_path):
    catalogue = tiny_catalogue(tmp_path / "data")
    rows = [
        Row("one", "One", "baseline_cnn", {"training.epochs": 1}, reported={"accuracy": 0.5, "f1_glioma": 0.4321}),
        Row("two", "Two", "baseline_cnn", {"training.epochs": 2}),
    ]
    said: list[str] = []
    for chosen in (rows[:1], rows):
        page = run_study(
            catalogue,
            chosen,
            ["official", "patient-cv"],
            1,
            tmp_path / "runs",
            tmp_path / "out",
            against=rows[0],
            say=said.append,
        )
    lines = json.loads((tmp_path / "out" / "study.json").read_text())["rows"]
    assert [(line["row"], line["protocol"]) for line in lines] == [
        (name, protocol) for name in ("one", "two") for protocol in ("official", "patient-cv")
    ]
    assert [line["reported"] for line in lines] == [{"accuracy": 0.5, "f1_glioma": 0.4321}, {}, {}, {}]
    scores = json.loads((tmp_path / "runs" / "two-patient-cv-s0" / "scores.json").read_text())
    assert lines[3]["accuracy"] == scores["test"]["accuracy"]
    assert lines[3]["recall_glioma"] == scores["test"]["per_class"]["glioma"]["recall"]
    assert lines[3]["validation_accuracy"] == scores["validation"]["accuracy"]
    assert lines[3]["memoriser_accuracy"] == scores["memoriser"]["test"]["accuracy"]
    at = "sensitivity_at_threshold"
    assert lines[3][at] == scores["presence_at_threshold"]["sensitivity"]
    assert [lines[3][f"{at}_low"], lines[3][f"{at}_high"]] == scores["presence_at_threshold"]["intervals"][
        "sensitivity"
    ]
    assert len(said) == 6
    assert "against" not in lines[0]
    assert lines[3]["against"]["row"] == "one"
    assert lines[3]["against"]["difference"] == pytest.approx(lines[3]["accuracy"] - lines[1]["accuracy"])
    assert lines[3]["against"]["slices"] == 76
    html = page.read_text(encoding="utf-8")
    assert "Two" in html
    assert "f1 glioma</td><td>0.4321</td>" in html
    assert (tmp_path / "out" / "figures" / "study_other.svg").exists()


class Stopped(Exception):
    """What stands for a kill in these tests."""


@pytest.mark.slow
def test_a_study_stopped_in_the_middle_of_a_row_ends_with_the_same_table(tmp_path):
    catalogue = tiny_catalogue(tmp_path / "data")
    row = Row("one", "One", "baseline_cnn", {"training.epochs": 2})
    events = []

    def stop(event):
        events.append(event)
        if len(events) == 4:
            raise Stopped

    def study(name, report=lambda _: None):
        run_study(catalogue, [row], ["patient-cv"], 1, tmp_path / name, tmp_path / name / "out", report=report)
        return json.loads((tmp_path / name / "out" / "study.json").read_text())["rows"]

    with pytest.raises(Stopped):
        study("cut", stop)
    assert not (tmp_path / "cut" / "out" / "study.json").exists()
    assert study("cut") == study("whole")
