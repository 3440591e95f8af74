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
    reported = {row.name: row.reported["accuracy"] for row in all_rows() if row.reported}
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
        Row("one", "One", "baseline_cnn", {"training.epochs": 1}, reported={"accuracy": 0.5}),
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
    assert [line["reported_accuracy"] for line in lines] == [0.5, None, None, None]
    scores = json.loads((tmp_path / "runs" / "two-patient-cv-s0" / "scores.json").read_text())
    assert lines[3]["accuracy"] == scores["test"]["accuracy"]
    assert lines[3]["memoriser_accuracy"] == scores["memoriser"]["test"]["accuracy"]
    assert len(said) == 6
    assert "against" not in lines[0]
    assert lines[3]["against"]["row"] == "one"
    assert lines[3]["against"]["difference"] == pytest.approx(lines[3]["accuracy"] - lines[1]["accuracy"])
    assert lines[3]["against"]["slices"] == 76
    assert "Two" in page.read_text(encoding="utf-8")
    assert (tmp_path / "out" / "figures" / "study.svg").exists()
