"""The study: every row is a recipe that builds; the table is kept, goes on, and is drawn."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tests.evaluation.made_runs import made_run
from tests.training.tiny_set import tiny_catalogue
from typer.main import get_command
from typer.testing import CliRunner

from tumorscope.cli.main import app
from tumorscope.config import Backbone
from tumorscope.errors import RecipeError, RunMismatch
from tumorscope.labels import CLASSES
from tumorscope.models.backbones import make_features
from tumorscope.study.rows import Row, all_rows, chosen_rows
from tumorscope.study.table import _line, likeness_of, run_study, write_study
from tumorscope.training.checkpoint import read_weights, save_weights
from tumorscope.training.runs import read_regions


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
    assert {row.group for row in chosen_rows(["regions"])} == {"regions"}
    with pytest.raises(
        RecipeError,
        match="row nothing: unknown; choose among report, regions, interpolation, region_sizes, transfer, interest, "
        "super_resolution, baseline",
    ):
        chosen_rows(["best", "nothing"])


def test_the_list_is_of_the_rows_that_are_asked_for():
    def listed(*options: str) -> list[str]:
        told = CliRunner().invoke(app, ["study", "run", "--list", *options], catch_exceptions=False)
        return [line.split()[1] for line in told.output.splitlines()]

    assert listed() == [row.name for row in all_rows()]
    assert listed("--rows", "transfer") == [row.name for row in all_rows() if row.group == "transfer"]
    assert listed("--rows", "compact", "--rows", "interest")[:2] == ["compact", "improved_head"]


def test_help_names_the_seeds_that_rows_have():
    (option,) = (one for one in get_command(app).commands["study"].commands["run"].params if one.name == "seeds")
    assert all(str(number) in option.help for number in {row.seeds for row in all_rows()})  # 3, 5 and 10


def test_a_row_whose_weights_are_not_here_is_listed_with_its_command_until_it_is_measured(tmp_path, monkeypatch):
    """ImageNet weights without cache and network; then with them; then without them again."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    frozen = {"name": "resnet10t", "weights": "imagenet", "head": "pooled"}
    small = {"input.size": 30, "training.epochs": 1, "model.backbone": frozen}
    row = Row("transferred", "Weights of ImageNet", "resnet50", small, reported={"accuracy": 0.5})
    weights = tmp_path / "w.safetensors"
    save_weights(weights, make_features(Backbone(**{**frozen, "weights": "none"}), 30, None).state_dict(), {})
    catalogue, said = tiny_catalogue(tmp_path / "data"), []

    def study(*protocols: str) -> tuple[dict, str]:
        runs, out = tmp_path / "runs", tmp_path / "out"
        page = run_study(catalogue, [row], protocols, 1, runs, out, say=said.append)
        return json.loads((out / "study.json").read_text()), page.read_text(encoding="utf-8")

    kept, page = study("official", "patient-cv")
    assert not kept["rows"]
    assert [(line["row"], line["protocol"], line["reported"]) for line in kept["not_measured"]] == [
        ("transferred", "official", {"accuracy": 0.5}),
        ("transferred", "patient-cv", {}),
    ]
    line = kept["not_measured"][0]
    assert line["reason"].startswith("ImageNet weights of resnet10t (timm/resnet10t.c3_in1k) are not in the cache.")
    assert line["command"] == "tumorscope study run --rows transferred --protocol official"
    assert f"<code>{line['command']}</code>" in page
    assert [text.partition(". ")[0] for text in said] == [
        f"transferred under {protocol}: left out" for protocol in ("official", "patient-cv")
    ]
    told = CliRunner().invoke(app, ["study", "show", "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert f"official    not measured here; {line['command']}" in told.output
    assert study("official")[0]["not_measured"] == kept["not_measured"]  # once, however often it is tried

    with monkeypatch.context() as patch:
        patch.setattr("tumorscope.models.weights.imagenet", lambda name: weights)
        measured, page = study("official")
    assert [(line["row"], line["protocol"]) for line in measured["rows"]] == [("transferred", "official")]
    assert [line["protocol"] for line in measured["not_measured"]] == ["patient-cv"]
    assert line["command"] not in page

    again, _ = study("official")
    assert said[-1].startswith("transferred under official: left out.")
    assert (again["rows"], again["not_measured"]) == (measured["rows"], measured["not_measured"])


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


def scored(run: Path, rows: list[str], protocols: list[str], **options) -> list[dict]:
    """The table's lines after rows of one epoch were run."""
    chosen = [Row(name, name, "baseline_cnn", {"training.epochs": 1, "model.dense": 8}) for name in rows]
    catalogue = options.pop("catalogue", None) or tiny_catalogue(run / "data")
    seeds = options.pop("seeds", 1)
    run_study(catalogue, chosen, protocols, seeds, run / "runs", run / "out", **options)
    return json.loads((run / "out" / "study.json").read_text())["rows"]


@pytest.mark.slow
def test_a_row_whose_runs_are_of_another_recipe_hinders_no_other(tmp_path):
    scored(tmp_path, ["one"], ["official"])
    file = tmp_path / "runs" / "one-official-s0" / "environment.json"
    facts = json.loads(file.read_text())
    facts["recipe"]["training"]["epochs"] = 7
    file.write_text(json.dumps(facts))
    said: list[str] = []
    with pytest.raises(RunMismatch, match=r"^one under official: .*one-official-s0 holds a run with another recipe"):
        scored(tmp_path, ["one", "two"], ["official"], say=said.append)
    assert said[0].startswith("one under official: left out. ")
    lines = json.loads((tmp_path / "out" / "study.json").read_text())["rows"]
    assert [line["row"] for line in lines] == ["one", "two"]
    assert (tmp_path / "out" / "study.csv").read_text().count("official") == 2
    shutil.rmtree(tmp_path / "out")  # with nothing to show the reason is the same
    with pytest.raises(RunMismatch, match="another recipe"):
        scored(tmp_path, ["one"], ["official"])
    # Finished seeds of two networks, which nothing is trained beside.
    scored(tmp_path, ["two"], ["official"], seeds=2)
    file = tmp_path / "runs" / "two-official-s1" / "fold-0" / "weights.safetensors"
    tensors, header = read_weights(file)
    save_weights(file, {name: tensor.flatten()[:1] for name, tensor in tensors.items()}, header)
    with pytest.raises(RunMismatch, match=r"two under official: .*one model: networks of"):
        scored(tmp_path, ["two", "three"], ["official"], seeds=2)
    lines = json.loads((tmp_path / "out" / "study.json").read_text())["rows"]
    assert [line["row"] for line in lines] == ["two", "three"]


@pytest.mark.slow
def test_what_a_line_holds_is_not_lost_to_a_smaller_call(tmp_path):
    """Two seeds and a difference stay when one seed is asked for without it, with their runs and without."""
    other = Row("one", "one", "baseline_cnn")
    scored(tmp_path, ["one"], ["official"], seeds=2)
    two = scored(tmp_path, ["two"], ["official"], seeds=2, against=other)[1]
    assert (two["seeds"], two["against"]["seeds"]) == (2, 2)
    assert scored(tmp_path, ["two"], ["official"])[1] == two  # the second seed's run is there, and counts
    shutil.rmtree(tmp_path / "runs")
    said: list[str] = []
    assert scored(tmp_path, ["two"], ["official"], say=said.append)[1] == two
    assert said[-1] == "The table keeps its line of 2 seeds; --overwrite puts these in its place."
    again = scored(tmp_path, ["two"], ["official"], overwrite=True)[1]
    assert again["seeds"] == 1
    assert "against" not in again
    # What it holds of a network that the row no longer has is not kept.
    file = tmp_path / "out" / "study.json"
    kept = json.loads(file.read_text())
    assert kept["rows"][1]["stored_values"] == two["stored_values"] > 1000
    kept["rows"][1] = two | {"stored_values": 1000}
    file.write_text(json.dumps(kept))
    newer = scored(tmp_path, ["two"], ["official"])[1]
    assert (newer["seeds"], "against" in newer, newer["stored_values"]) == (1, False, two["stored_values"])


@pytest.mark.slow
def test_a_table_holds_rows_of_one_set(tmp_path):
    scored(tmp_path, ["one"], ["official"])
    other = tiny_catalogue(tmp_path / "other", (12, 20, 24, 21))
    with pytest.raises(RunMismatch, match=rf"study.json: holds rows of .*this is .*{other.digest}.*another --out"):
        scored(tmp_path, ["two"], ["official"], catalogue=other)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--protocol", "patientcv"], "patientcv: expected official"),
        (["--protocol", "all"], "all: expected official"),
        (["--protocol", "external"], "external needs the other set"),
        (["--test-data", ".", "--protocol", "clean"], "clean: with --test-data it is external"),
        (["--against", "report"], "report: no row of that name"),
    ],
)
def test_wrong_use_is_told_before_the_data_are_read(tmp_path, options, says):
    ask = ["study", "run", "--data", str(tmp_path / "none"), "--out", str(tmp_path), *options]
    told = CliRunner().invoke(app, ask, env={"COLUMNS": "200"})
    assert told.exit_code == 2
    assert says in told.output
    assert not list(tmp_path.iterdir())


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
    again: list = []
    cut = study("cut", again.append)
    every: list = []
    assert cut == study("whole", every.append)
    assert len(again) < len(every)  # epochs that were saved do not come again; how many were depends on the workers


def test_super_resolution_is_told_over_all_test_slices_of_all_folds(tmp_path):
    """Two folds with three slices: PSNR 30, 32 and none (given back exactly), SSIM 0.7, 0.8 and 1."""
    for fold, rows in enumerate(
        ["bicubic,30,0.7\nmfcn,33,0.9", "bicubic,32,0.8\nmfcn,35,0.9\nbicubic,inf,1\nmfcn,37,0.9"]
    ):
        (tmp_path / f"fold-{fold}").mkdir()
        (tmp_path / f"fold-{fold}" / "likeness.csv").write_text(f"filter,psnr,ssim\n{rows}\n")
    found = likeness_of([tmp_path])
    assert found["slices"] == 3
    assert found["by filter"]["bicubic"] == pytest.approx(
        {"psnr": 31, "ssim": 2.5 / 3, "psnr_sd": 2**0.5, "ssim_sd": (0.07 / 3) ** 0.5}
    )
    assert found["by filter"]["mfcn"] == pytest.approx({"psnr": 35, "ssim": 0.9, "psnr_sd": 2, "ssim_sd": 0}, abs=1e-9)
    assert likeness_of([tmp_path, tmp_path])["slices"] == 3
    assert likeness_of([tmp_path, tmp_path / "fold-0"]) == found  # a run without enlarged slices counts none
    assert likeness_of([tmp_path / "fold-0"]) == {}

    kept = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "study.json").read_text())
    alike = {"protocol": "official", "likeness": found}
    more = [{"title": "one"}, {"title": "two"}, {"title": "three", "protocol": "patient-cv"}]
    kept["rows"] = [*({**kept["rows"][0], **alike, **one} for one in more), kept["rows"][1]]
    (tmp_path / "study.json").write_text(json.dumps(kept))
    page = write_study(tmp_path).read_text()
    assert page.count("Likeness to the real slices") == 1
    assert all(page.count(told) == 2 for told in ("31.00", "35.00", "0.833"))  # of one and two once, of three
    assert "one<br>two<br><small>official</small>" in page


def test_a_run_from_before_regions_were_written_does_not_halve_the_slices_of_the_other(tmp_path):
    tested = pd.DataFrame({"path": ["a", "b", "c", "d"], "label": CLASSES, "source": ""})
    here = {"machine": {"processor": "", "cores": 1}, "versions": {}}
    runs = [made_run(tmp_path, "region_unet", "official", tested, seed=seed, **here) for seed in (0, 1)]
    regions = tested.assign(part="test", plane="", mask_pixels=64, region_pixels=64, dice=1.0, pointed=0.0)
    regions.loc[regions["label"] == "notumor", ["dice", "pointed"]] = None
    regions.to_csv(runs[0] / "regions.csv", index=False)
    found = _line(Row("region_unet", "U-Net", "region_unet", {}), runs)
    # Text as in predictions.csv: "NA" is a patient, and no missing one.
    named = read_regions(runs[0]).assign(patient="NA")
    named.to_csv(runs[0] / "regions.csv", index=False)
    assert set(read_regions(runs[0])["patient"]) == {"NA"}
    assert read_regions(runs[0])["dice"].tolist() == pytest.approx([1, 1, math.nan, 1], nan_ok=True)
    assert (found["seeds"], found["regions"]["all"]["slices"]) == (2, 3)
    # 64 pixels of 64x64, 1.6 %; the run calls all four what they are.
    assert {size: one["tumours"] for size, one in found["presence_by_size"].items()} == {
        **{"above 0.0%": 3, "above 0.5%": 3, "above 1.5%": 3, "above 4.0%": 0}
    }
    assert found["presence_by_size"]["above 1.5%"]["auc"] == 1
    assert found["presence_by_size"]["above 4.0%"]["auc"] is None

    kept = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "study.json").read_text())
    # As lines had it before there were intervals.
    before = {"all": {"slices": 3, "dice_median": 0.7, "hit": 0.8, "pointing": 0.6}}
    large = {"above 0.5%": {"tumours": 3, "auc": 0.8125, "auc_sd": None, "auc_low": 0.75, "auc_high": 0.9375}}
    kept["rows"] = [{**kept["rows"][0], "regions": one} for one in (found["regions"], before)]
    kept["rows"][0]["presence_by_size"] = large
    (tmp_path / "study.json").write_text(json.dumps(kept))
    page = write_study(tmp_path).read_text()
    assert "<td>1.00, 0.00<small>1.00 to 1.00</small><small>0.00 to 0.00</small></td>" in page
    assert "<td>0.80, 0.60</td>" in page
    assert "<small>§ 0.812</small><small>0.75 to 0.94</small></td>" in page
