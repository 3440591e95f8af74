"""Packages: what is in them, that they are what they say, and that a changed one is refused."""

import csv
import gzip
import hashlib
import io
import json
import shutil
import zipfile
from dataclasses import replace
from importlib import resources
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score
from tests.evaluation.made_runs import made_run
from tests.inference.test_reading import dicom
from tests.inference.test_record import matlab
from tests.training.tiny_set import tiny_catalogue
from typer.testing import CliRunner

from tumorscope.cli.main import app
from tumorscope.config import load_recipe
from tumorscope.data import known
from tumorscope.data.cards import CARDS
from tumorscope.data.catalogue import load_catalogue
from tumorscope.data.decode import decode
from tumorscope.data.phantom.archive import write_phantom
from tumorscope.errors import DataNotFound, InputRejected, PackageMismatch, RunMismatch
from tumorscope.evaluation.package_scores import _region, score_package
from tumorscope.inference.classifier import Classifier, Finding, calibrated, prediction_set
from tumorscope.inference.reading.slices import Stored
from tumorscope.labels import CLASSES
from tumorscope.package.calibration import answered, calibration, fit_calibration, fits_of_folds, thresholds
from tumorscope.package.card import PARTS, SUMS, load_package, write_package
from tumorscope.package.export import LIMITS, _checked_graph, add_to_card, export_run
from tumorscope.package.limits import statistics
from tumorscope.package.model_card import model_card
from tumorscope.package.training_data import files_of, sets_of
from tumorscope.training.network import load_network


def test_folder_and_single_file_hold_the_same_verified_parts(made):
    folder, _, _ = made
    whole, single = load_package(folder), load_package(folder.with_name("tiny.tumorscope"))
    assert whole.card == single.card
    assert whole.graph == single.graph
    assert whole.card["labels"] == list(CLASSES)
    assert whole.card["graph_difference"] <= 1e-4
    assert {row["protocol"] for row in whole.card["scores"]} == {"patient-cv", "official"}
    assert "not a medical device" in whole.model_card
    assert "patient-cv | new patients" in whole.model_card
    sets = whole.card["conformal"]["rates"]["0.1"]
    assert f"of glioma (n {sets['slices']['glioma']})" in whole.model_card
    assert f"By source: phantom {100 * sets['by_source']['phantom']['coverage']:.1f}" in whole.model_card


def test_the_card_lists_every_protocol_with_scores_or_the_command_that_would_say_them(made):
    package = load_package(made[0])
    (official,) = [row for row in package.card["scores"] if row["protocol"] == "official"]
    predictions = pd.read_csv(made[2]["official"] / "predictions.csv")
    tested = predictions[predictions["part"] == "test"]
    said = tested[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(axis=1)
    right = np.array(CLASSES)[said] == tested["label"]
    assert official["accuracy"] == pytest.approx(right.mean())
    assert official["accuracy_low"] <= official["accuracy"] <= official["accuracy_high"]
    assert official["memoriser_accuracy"] is not None
    assert package.card["not_measured"] == {
        "clean": "tumorscope train compact_cnn --data ARCHIVE --protocol clean",
        "picture-cv": "tumorscope train compact_cnn --data ARCHIVE --protocol picture-cv",
        "external": "tumorscope train compact_cnn --data ARCHIVE --test-data OTHER",
    }
    (line,) = [line for line in package.model_card.splitlines() if line.startswith("| clean ")]
    assert "not measured: `tumorscope train compact_cnn --data ARCHIVE --protocol clean`" in line
    header = next(line for line in package.model_card.splitlines() if line.startswith("| protocol"))
    assert line.count("|") == header.count("|")


def test_the_card_names_the_sets_that_it_was_trained_on_with_their_licences(made):
    package = load_package(made[0])
    nothing = {"name": "phantom", "title": "", "licence": "", "url": "", "use": "slices"}
    assert package.card["data"]["sets"] == [nothing]
    assert "Slices of phantom; its licence is not known here." in package.model_card.splitlines()
    slices, masks = known_sets()
    told = model_card({**package.card, "data": {**package.card["data"], "sets": [slices, masks]}})
    assert f"Masks of {CARDS['figshare'].title}; licence CC BY 4.0: {CARDS['figshare'].url}." in told.splitlines()
    assert load_package().card["data"]["sets"] == [slices, masks]


def known_sets():
    """What a card says of the Kaggle set's slices and of the figshare set's masks."""
    return (
        {name: getattr(CARDS[card], name) for name in ("name", "title", "licence", "url")} | {"use": use}
        for card, use in (("nickparvar", "slices"), ("figshare", "masks"))
    )


def test_sets_are_those_that_the_run_says_its_masks_are_of_though_they_are_gone(tmp_path, monkeypatch):
    """No figshare set is anywhere. Runs of before do not say; of the Kaggle set, which has no masks, they are figshare's."""
    bare = tiny_catalogue(tmp_path)
    own = replace(bare, table=bare.table.assign(mask="mask.png"))
    plain, regions = load_recipe("compact_cnn"), load_recipe("region_lite")
    told = {"name": "tiny", "title": "", "licence": "", "url": "", "use": "slices"}
    slices, masks = known_sets()
    assert sets_of(regions, {"masks_from": "figshare"}, bare) == [told, masks]
    assert sets_of(regions, {"masks_from": "data"}, own) == [told]
    assert sets_of(regions, {}, bare) == [told]
    monkeypatch.setitem(CARDS, "nickparvar", replace(CARDS["nickparvar"], digest=bare.digest))
    assert sets_of(regions, {}, bare) == [slices, masks]
    assert sets_of(regions, {}, own) == [slices]
    assert sets_of(plain, {}, bare) == [slices]


def test_scores_of_later_runs_are_added_to_a_finished_package(made, tmp_path):
    """As if they had been there at its making; a run of another recipe, other data or patient-cv is refused."""
    _, catalogue, runs = made
    package = tmp_path / "early"
    export_run(runs["all"], [runs["patient-cv"]], catalogue, package)
    before = load_package(package)
    for _ in range(2):
        ended = CliRunner().invoke(app, ["export", str(package), "--scores", str(runs["official"])])
        assert ended.exit_code == 0, ended.output
    after, whole = load_package(package), load_package(made[0])
    assert after.card["scores"] == whole.card["scores"]
    assert after.card["not_measured"] == whole.card["not_measured"]
    unchanged = before.card.keys() - {"scores", "not_measured"}
    assert {name: after.card[name] for name in unchanged} == {name: before.card[name] for name in unchanged}
    assert (after.graph, after.model_card.count("| official |")) == (before.graph, 1)
    assert "not measured: `tumorscope train compact_cnn --data ARCHIVE --protocol official`" not in after.model_card
    for change, reason in (
        ({"protocol": "patient-cv"}, "which .* is calibrated with"),
        ({"recipe": {**whole.card["recipe"], "title": "", "training": {"epochs": 3}}}, "another recipe"),
        ({"data": {"name": "other", "digest": "0"}}, "trained on other, other data"),
    ):
        run = shutil.copytree(runs["official"], tmp_path / f"changed-{len(list(tmp_path.iterdir()))}")
        facts = json.loads((run / "environment.json").read_text())
        (run / "environment.json").write_text(json.dumps(facts | change))
        with pytest.raises(RunMismatch, match=reason):
            add_to_card(package, [run])
    missing = CliRunner().invoke(app, ["export", str(package), "--scores", str(tmp_path / "none")])
    assert (missing.exit_code, "no finished run there" in str(missing.exception)) == (1, True)
    assert load_package(package).card == after.card


@pytest.fixture
def carded(tmp_path):
    """A package folder of the shipped parts, whose card has no scores and nothing about other sets; a run of its recipe on
    slices of `source` alone by protocol, with `facts`.
    """
    shipped = resources.files("tumorscope.package") / "shipped"
    card = load_package(shipped).card | {"scores": [], "recipe": load_recipe("region_lite").model_dump(mode="json")}
    card["data"] = {**card["data"], "name": "main", "digest": "1" * 16}
    card["limits"] = ["Trained on 8 pictures of main.", "Said before."]
    card.pop("external", None)
    parts = {name: (shipped / name).read_bytes() for name in PARTS}
    write_package(tmp_path / "package", parts | {"card.json": json.dumps(card).encode()})

    def run_of(protocol, source, count, **facts):
        paths = [f"{source}:{number}.png" for number in range(count)]
        tested = pd.DataFrame({"path": paths, "label": [CLASSES[k % 4] for k in range(count)], "source": source})
        folder = tmp_path / f"runs-{len(list(tmp_path.iterdir()))}"
        return made_run(folder, "region_lite", protocol, tested, **facts)

    return tmp_path / "package", run_of


MAIN = {"data": {"name": "main", "digest": "1" * 16}}
JOINED = {
    "data": {"name": "main with other", "digest": "2" * 16},
    "sets": [{"name": "main", "digest": "1" * 16}, {"name": "other", "digest": "3" * 16}],
}


def test_a_card_is_json_that_every_reader_takes_and_its_limits_are_those_known_now(carded):
    """Of tumours alone presence has no interval, which stood there as NaN."""
    package, run_of = carded
    add_to_card(package, [run_of("official", "", 2, **MAIN)])
    card = json.loads((package / "card.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    (row,) = card["scores"]
    assert (row["presence_auc"], row["presence_auc_low"], row["presence_auc_high"]) == (None, None, None)
    assert card["limits"] == ["Trained on 8 pictures of main.", *LIMITS]


def test_scores_on_another_external_set_stand_beside_those_of_before(carded):
    """Of a 8 slices and then 6, of b 4, and official ones, which come first as in every table."""
    package, run_of = carded
    for protocol, source, count, facts in (
        ("external", "a", 8, JOINED),
        ("external", "b", 4, JOINED),
        ("official", "", 4, MAIN),
        ("external", "a", 6, JOINED),
    ):
        add_to_card(package, [run_of(protocol, source, count, **facts)])
    card = load_package(package).card
    told = [(row["protocol"], row["test_set"], row["slices"]) for row in card["scores"]]
    assert told == [("official", None, 4), ("external", "b", 4), ("external", "a", 6)]
    assert "external" not in card


def test_what_an_external_run_was_trained_on_is_checked_as_far_as_it_says(carded):
    """By the digest of its first set; runs of before by its name, which is all that they tell."""
    package, run_of = carded
    others = [{"name": "main", "digest": "4" * 16}, JOINED["sets"][1]]
    add_to_card(package, [run_of("external", "other", 4, data=JOINED["data"])])
    for facts in (
        {**JOINED, "sets": others},
        {"data": {"name": "mainly with other", "digest": "2" * 16}},
        {"data": {"name": "other with main", "digest": "2" * 16}},
    ):
        with pytest.raises(RunMismatch, match=r"trained on .* with .*which is of main\. Train it on the same --data"):
            add_to_card(package, [run_of("external", "other", 4, **facts)])


def test_the_card_holds_what_the_finished_package_says_of_another_collection(made, tmp_path):
    """The same scores as asking it afterwards gives, and then the command for it is not listed."""
    runs = made[2]
    other = write_phantom(tmp_path / "other.zip", patients_per_class=2, slices_per_patient=3, size=96, seed=7)
    scored = [runs["patient-cv"], runs["official"]]
    export_run(runs["all"], scored, made[1], tmp_path / "asked", external=[other])
    package = load_package(tmp_path / "asked")
    findings, found = score_package(tmp_path / "asked", other)
    (told,) = package.card["external"]
    assert told["data"] == {name: found["data"][name] for name in ("name", "digest", "slices")}
    assert told["data"]["slices"] == len(findings)
    assert told["presence"] == json.loads(json.dumps(found["presence"]))
    assert told["sets"] == found["set coverage"]
    assert "external" not in package.card["not_measured"]
    (line,) = [line for line in package.model_card.splitlines() if line.startswith("| other |")]
    glioma = findings[(findings["label"] == "glioma") & findings["p_glioma"].notna()]
    held = 100 * np.mean(["glioma" in one.split() for one in glioma["set"]])
    assert f"{held:.1f}\N{NO-BREAK SPACE}% of glioma" in line
    assert f"{found['presence']['auc']:.2f} (" in line
    header = package.model_card.splitlines()[package.model_card.splitlines().index(line) - 2]
    assert line.count("|") == header.count("|")
    # The same is added to a finished package, once however often it is asked.
    finished = shutil.copytree(made[0], tmp_path / "finished")
    for _ in range(2):
        answer = CliRunner().invoke(app, ["export", str(finished), "--external", str(other)], catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
    added = load_package(finished)
    assert added.card == load_package(made[0]).card | {
        "external": [told],
        "not_measured": package.card["not_measured"],
    }
    assert line in added.model_card.splitlines()
    assert added.graph == load_package(made[0]).graph
    assert load_package(finished.with_name("finished.tumorscope")).card == added.card
    assert CliRunner().invoke(app, ["export", str(finished)]).exit_code == 2


@pytest.mark.parametrize("name", PARTS)
def test_one_changed_byte_in_any_part_is_refused(made, tmp_path, name):
    folder = shutil.copytree(made[0], tmp_path / "changed")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(PackageMismatch, match=rf"{name} is not as it was made"):
        load_package(folder)


def resealed(folder, card, name="card.json"):
    """The package with another card, or another part as bytes, and sums that fit it: what hashes alone would let through."""
    (folder / name).write_bytes(card if isinstance(card, bytes) else json.dumps(card).encode())
    sums = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in PARTS)
    (folder / SUMS).write_text(sums)
    return folder


def test_other_labels_and_another_input_size_are_refused_even_with_fitting_sums(made, tmp_path):
    card = json.loads((made[0] / "card.json").read_text())
    folder = resealed(shutil.copytree(made[0], tmp_path / "labels"), {**card, "labels": card["labels"][::-1]})
    with pytest.raises(PackageMismatch, match="labels"):
        Classifier.load(folder)
    other = {**card, "input": {**card["input"], "size": 64}}
    folder = resealed(shutil.copytree(made[0], tmp_path / "size"), other)
    with pytest.raises(PackageMismatch, match="slices of nx1x64x64 by the card, nx1x32x32 in the graph"):
        Classifier.load(folder)


@pytest.fixture
def shipped(tmp_path):
    """A copy of the shipped package."""
    with resources.as_file(resources.files("tumorscope") / "package" / "shipped") as folder:
        return shutil.copytree(folder, tmp_path / "copy")


def without(card, key):
    """The card without one key, which may lie inside others: "gate.layout"."""
    *above, last = key.split(".")
    inner = card
    for name in above:
        inner = inner[name]
    del inner[last]
    return card


@pytest.mark.parametrize(
    "key",
    [
        *("name", "input", "input.size", "input.crop", "map", "temperature", "offsets.glioma", "conformal.rates"),
        *("gate.measures.filled.warn", "gate.layout", "gate.distance.refuse", "gate.turned", "data.digest"),
    ],
)
def test_a_card_that_lacks_what_answers_are_made_with_is_refused(shipped, key):
    card = without(json.loads((shipped / "card.json").read_text()), key)
    with pytest.raises(PackageMismatch, match=rf"card\.json: {key} is missing"):
        load_package(resealed(shipped, card))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"temperature": 0}, "temperature cannot be 0"),
        ({"temperature": float("nan")}, "temperature cannot be nan"),
        ({"temperature": 10**400}, "temperature cannot be 1000"),
        ({"offsets": [0, 0, 0, 0]}, r"offsets cannot be \[0"),
        ({"input": {"size": "128", "crop": "head"}}, "input.size cannot be '128'"),
        ({"map": "saliency"}, "map cannot be 'saliency'"),
        (
            {"conformal": {"error_rate": 0.1, "rates": {"0.2": {"thresholds": {}}}}},
            r"conformal\.rates\.0\.1 is missing",
        ),
        ({"conformal": {"error_rate": 0.1, "rates": {"0.1": {"thresholds": {}}}}}, "thresholds.glioma is missing"),
        ({"labels": None}, "with labels None"),
    ],
)
def test_a_card_with_values_that_no_answer_can_be_made_with_is_refused(shipped, changes, says):
    card = json.loads((shipped / "card.json").read_text()) | changes
    with pytest.raises(PackageMismatch, match=says):
        load_package(resealed(shipped, card))


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b"[" * 100_000, b"[]", b'"text"', b"null"])
def test_a_card_that_is_no_object_of_json_is_refused(shipped, content):
    with pytest.raises(PackageMismatch, match=r"card\.json"):
        load_package(resealed(shipped, content))


def test_arrays_of_the_gate_that_are_not_there_or_of_another_size_are_refused(shipped):
    def stored(**arrays):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    with np.load(shipped / "gate.npz") as file:
        known = dict(file)
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    several = {
        "not the gate's arrays": [b"no arrays", array.getvalue(), stored(other=np.zeros(3))],
        r"\(classes, d\) and \(d, d\) are needed": [
            stored(**{**known, "layouts_centres": known["layouts_centres"][:, :100]}),
            stored(**{**known, "embeddings_precision": known["embeddings_precision"][:10]}),
            stored(**{**known, "embeddings_centres": known["embeddings_centres"] * np.nan}),
        ],
    }
    for says, contents in several.items():
        for content in contents:
            with pytest.raises(PackageMismatch, match=says):
                load_package(resealed(shipped, content, "gate.npz"))
    few = {"embeddings_centres": np.zeros((4, 7), np.float32), "embeddings_precision": np.eye(7, dtype=np.float32)}
    resealed(shipped, stored(**{**known, **few}), "gate.npz")
    with pytest.raises(PackageMismatch, match="embeddings of nx7 by the card, nx160 in the graph"):
        Classifier.load(shipped)


def graph_of(answers, size=128, batch="n"):
    """A graph that takes slices and gives their mean times a value, in these shapes, batch left out."""
    from onnx import TensorProto, helper, numpy_helper

    slices = helper.make_tensor_value_info("slices", TensorProto.FLOAT, [batch, 1, size, size])
    nodes = [helper.make_node("ReduceMean", ["slices"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    constants, gives = [], []
    for name, (shape, value) in answers.items():
        filled = np.full(shape, value, np.float32)
        constants += [
            numpy_helper.from_array(filled.reshape(1, *shape), f"{name}-values"),
            numpy_helper.from_array(np.array([-1] + [1] * len(shape)), f"{name}-sides"),
        ]
        nodes += [
            helper.make_node("Reshape", ["mean", f"{name}-sides"], [f"{name}-mean"]),
            helper.make_node("Mul", [f"{name}-mean", f"{name}-values"], [name]),
        ]
        gives.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]))
    graph = helper.make_graph(nodes, "tampered", [slices], gives, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


#: Of the shipped package: shape of each answer, and a value that the slice's mean is multiplied with.
ANSWERS = {"logits": ((4,), 0.0), "maps": ((4, 16, 16), 0.0), "embeddings": ((160,), 0.0)}


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (b"no graph", "model.onnx of region_lite: "),
        (b"", "model.onnx of region_lite: "),
        (graph_of({"scores": ((4,), 0.0)}), "takes slices and gives scores; slices, and logits, maps and embeddings"),
        (graph_of({**ANSWERS, "logits": ((3,), 0.0)}), "logits of nx4 by the card, nx3 in the graph"),
        (graph_of({**ANSWERS, "maps": ((4, 256), 0.0)}), "maps of nx4xhxw by the card, nx4x256 in the graph"),
        (graph_of(ANSWERS, size=64), "slices of nx1x128x128 by the card, nx1x64x64 in the graph"),
        (graph_of(ANSWERS, batch=1), "slices of nx1x128x128 by the card, 1x1x128x128 in the graph"),
    ],
)
def test_a_graph_that_is_none_or_of_another_contract_is_refused(shipped, graph, says):
    resealed(shipped, graph, "model.onnx")
    with pytest.raises(PackageMismatch, match=says):
        Classifier.load(shipped)


def test_a_graph_whose_answers_are_no_numbers_is_refused_before_the_gate_takes_them_for_small(shipped):
    resealed(shipped, graph_of({**ANSWERS, "embeddings": ((160,), np.nan)}), "model.onnx")
    classifier = Classifier.load(shipped)
    with pytest.raises(PackageMismatch, match="answers that are no numbers"):
        classifier._run(np.ones((2, 1, 128, 128), np.float32))
    resealed(shipped, graph_of(ANSWERS), "model.onnx")
    logits, maps, embeddings = Classifier.load(shipped)._run(np.ones((2, 1, 128, 128), np.float32))
    assert (logits.shape, maps.shape, embeddings.shape) == ((2, 4), (2, 4, 16, 16), (2, 160))


def test_the_command_says_a_tampered_package_in_a_line(shipped, tmp_path, capsys, monkeypatch):
    from tumorscope.cli.main import main

    resealed(shipped, b"{", "card.json")
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((64, 64), np.uint8)))
    monkeypatch.setattr("sys.argv", ["tumorscope", "predict", str(tmp_path / "a.png"), "--model", str(shipped)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("tumorscope: ")
    assert said.count("\n") == 1
    assert "card.json" in said


def test_what_is_missing_or_no_package_is_said(made, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "short")
    (folder / "gate.npz").unlink()
    with pytest.raises(PackageMismatch, match=r"gate\.npz missing"):
        load_package(folder)
    with pytest.raises(DataNotFound, match="no model package there"):
        load_package(tmp_path / "nowhere")
    (tmp_path / "text.tumorscope").write_text("no package")
    with pytest.raises(PackageMismatch, match="not a whole model package"):
        load_package(tmp_path / "text.tumorscope")
    with zipfile.ZipFile(tmp_path / "empty.tumorscope", "w"):
        pass
    with pytest.raises(PackageMismatch, match="missing"):
        load_package(tmp_path / "empty.tumorscope")


def test_runs_that_do_not_belong_together_are_refused(made, tmp_path):
    _, catalogue, runs = made
    with pytest.raises(RunMismatch, match="no patient-cv run"):
        export_run(runs["all"], [runs["official"]], catalogue, tmp_path / "p")
    with pytest.raises(RunMismatch, match="5 models; train one with --protocol all"):
        export_run(runs["patient-cv"], [runs["patient-cv"]], catalogue, tmp_path / "p")
    other = shutil.copytree(runs["patient-cv"], tmp_path / "other")
    facts = json.loads((other / "environment.json").read_text())
    facts["recipe"]["training"]["epochs"] = 3
    (other / "environment.json").write_text(json.dumps(facts))
    with pytest.raises(RunMismatch, match="another recipe"):
        export_run(runs["all"], [other], catalogue, tmp_path / "p")
    older = shutil.copytree(runs["patient-cv"], tmp_path / "older")
    save_file({"stem": np.zeros(3, np.float32)}, older / "fold-0" / "weights.safetensors")
    with pytest.raises(RunMismatch, match="another network than"):
        export_run(runs["all"], [older], catalogue, tmp_path / "p")
    renamed = replace(
        catalogue, table=catalogue.table.assign(patient=[f"p{n // 9}" for n in range(len(catalogue.table))])
    )
    for scored in ([runs["patient-cv"]], [other_folds(runs["official"], tmp_path), runs["patient-cv"]]):
        with pytest.raises(RunMismatch, match="pictures or patients were found or named"):
            export_run(runs["all"], scored, renamed if len(scored) == 1 else catalogue, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def other_folds(run, folder):
    """The run as if it had been made on other folds of the same slices."""
    copy = shutil.copytree(run, folder / "folds")
    facts = json.loads((copy / "environment.json").read_text())
    (copy / "environment.json").write_text(json.dumps({**facts, "split": "0" * 16}))
    return copy


@pytest.mark.parametrize("difference", [1.1e-4, float("nan")])
def test_a_graph_that_answers_otherwise_than_the_network_makes_no_package(monkeypatch, difference):
    monkeypatch.setattr(f"{_checked_graph.__module__}.to_onnx", lambda *_: b"graph")
    monkeypatch.setattr(f"{_checked_graph.__module__}.largest_difference", lambda *_: difference)
    with pytest.raises(InputRejected, match=f"{difference:g}; at most 0.0001 from torch"):
        _checked_graph(None, None, None)


def test_the_package_answers_as_the_network_does(made):
    import torch

    from tumorscope.data.cache import pixels
    from tumorscope.training.loop import predict

    folder, catalogue, runs = made
    recipe = load_recipe(runs["all"] / "recipe.toml")
    module = load_network(runs["all"] / "fold-0", recipe)
    images = torch.from_numpy(np.array(pixels(catalogue, 32, crop="head")[:20])[:, None])
    card = load_package(folder).card
    offsets = np.array(list(card["offsets"].values()))
    ours = calibrated(predict(module, images, True).log().numpy(), card["temperature"], offsets)
    source = catalogue.source()
    found = list(Classifier.load(folder).predict([source.read(path) for path in catalogue.table["path"][:20]]))
    answered = [k for k, one in enumerate(found) if one.probabilities]
    assert len(answered) >= 15
    theirs = np.array([list(found[k].probabilities.values()) for k in answered])
    np.testing.assert_allclose(theirs, ours[answered], atol=2e-4)


def test_conformal_thresholds_by_hand():
    """Nine slices of a class with scores 0.1 to 0.9 at rate 0.2: the ceil(10 * 0.8) = 8th smallest."""
    chances = np.zeros((9, 4))
    chances[:, 0] = 1 - np.arange(1, 10) / 10
    found = thresholds(chances, np.zeros(9, int), 0.2)
    assert found["glioma"] == pytest.approx(0.8)
    assert found["pituitary"] == 1.0  # nothing is known, so it is never ruled out
    limits = dict(zip(CLASSES, (0.8, 0.5, 0.5, 0.5), strict=True))
    assert prediction_set(np.array([0.25, 0.6, 0.1, 0.05]), limits, list(CLASSES)) == ("glioma", "meningioma")


def test_sets_at_a_lower_error_rate_hold_at_least_as_much(made, monkeypatch):
    """Of answers all but sure of one class each, whatever the network learnt: any threshold below 1 leaves the others out.

    Of 24 slices a class none is left out at 0.01: ceil(25 * 0.99) is 25.
    """
    classifier = Classifier.load(made[0])
    run = classifier._run
    sure = 10 * classifier.package.card["temperature"] * np.eye(4, dtype=np.float32)
    monkeypatch.setattr(classifier, "_run", lambda pixels: [sure[np.arange(len(pixels)) % 4], *run(pixels)[1:]])
    content = [made[1].source().read(path) for path in made[1].table["path"][:6]]
    sets = {}
    for rate in (0.01, 0.2):
        sets[rate] = [set(one.prediction_set) for one in classifier.predict(content, error_rate=rate)]
    assert all(strict >= loose for strict, loose in zip(sets[0.01], sets[0.2], strict=True))
    assert sets[0.01] == [set(CLASSES)] * 6
    assert [len(one) for one in sets[0.2]] == [1] * 6
    usual = [set(one.prediction_set) for one in classifier.predict(content)]
    assert usual == [set(one.prediction_set) for one in classifier.predict(content, error_rate=0.1)]
    with pytest.raises(InputRejected, match=r"0\.3 — the package knows 0\.01, 0\.05, 0\.1, 0\.2|0\.3"):
        list(classifier.predict(content, error_rate=0.3))


def test_the_card_says_what_the_model_is_made_of_and_for(made):
    card = load_package(made[0]).card
    assert card["codes"] == {
        **{"system": "SNOMED CT", "glioma": "393564001", "meningioma": "302820008"},
        "pituitary": "127024001",
    }
    assert "research" in card["use"]
    assert len(card["limits"]) == 4


def test_temperature_and_offsets_of_answers_twice_too_sure_and_shifted_come_back():
    """Logits l become 2 l + s; so the truth is at temperature 2 with offsets -s / 2."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 4)) * 2
    truth = np.array([random.choice(4, p=row) for row in calibrated(logits)])
    shift = np.array([1.0, -1.0, 2.0, -2.0])
    temperature, offsets = fit_calibration(2 * logits + shift, truth)
    assert temperature == pytest.approx(2, rel=0.05)
    assert offsets == pytest.approx(-shift / 2, abs=0.1)


def out_of_fold(folds: int = 3, count: int = 300) -> pd.DataFrame:
    """Predictions of some folds, each fold twice as sure of itself as the one before."""
    random = np.random.default_rng(1)
    fold = np.arange(count) % folds
    logits = random.normal(size=(count, 4)) * 2
    truth = [random.choice(4, p=row) for row in calibrated(logits)]
    table = pd.DataFrame(calibrated(logits * 2.0 ** fold[:, None]), columns=[f"p_{name}" for name in CLASSES])
    return table.assign(label=np.array(CLASSES)[truth], fold=fold)


def test_a_folds_answers_are_calibrated_by_the_other_folds_alone():
    held = out_of_fold()
    fits = fits_of_folds(held)
    mine = held["fold"] == 2
    others = held[~mine]
    by_hand = fit_calibration(
        np.log(others[[f"p_{name}" for name in CLASSES]].to_numpy()), others["label"].map(CLASSES.index).to_numpy()
    )
    assert fits[2][0] == by_hand[0]
    assert fits[2][1].tolist() == by_hand[1].tolist()
    logits = np.log(held.loc[mine, [f"p_{name}" for name in CLASSES]].to_numpy())
    found = answered(held, fits)
    expected = calibrated(logits, *by_hand)
    np.testing.assert_allclose(found.loc[mine, [f"p_{name}" for name in CLASSES]], expected, atol=1e-8)
    assert found["label"].equals(held["label"])


def test_the_cards_bins_are_what_its_calibration_error_is_made_of():
    """Guo et al. 2017: the gaps of share right and probability said, weighed by slices."""
    held = out_of_fold()
    found = calibration(held)["calibration"]
    counts, right, said = (np.array([one[name] for one in found["bins"]]) for name in ("slices", "right", "said"))
    assert counts.sum() == len(held)
    error = (counts * abs(right - said)).sum() / len(held)
    assert error == pytest.approx(found["expected_calibration_error"])
    assert (counts * right).sum() / len(held) == pytest.approx(found["accuracy"])
    assert all(one["above"] < one["said"] <= one["above"] + 1 / 15 + 1e-12 for one in found["bins"])


def test_the_reliability_diagram_lies_beside_the_package_with_the_slices_of_each_bin(made):
    text = made[0].with_name("tiny-reliability.svg").read_text()
    counts = [one["slices"] for one in load_package(made[0]).card["calibration"]["bins"]]
    assert sum(counts) == len(made[1].table)
    assert all(f"<!-- {count} -->" in text for count in counts)


def test_a_class_that_is_not_there_switches_no_distance_off():
    values = np.random.default_rng(0).normal(size=(60, 3))
    known = statistics(values, np.repeat([0, 1, 3], 20))
    assert known.centres.shape == (3, 3)
    far = known.distances(np.array([[0.0, 0, 0], [50.0, 0, 0]]))
    assert np.isfinite(far).all()
    assert far[1] > 10 * far[0]


def test_offsets_do_not_depend_on_how_often_a_class_comes():
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 4)) * 2
    truth = np.array([random.choice(4, p=row) for row in calibrated(logits)])
    kept = np.flatnonzero((truth != 2) | (np.arange(len(truth)) % 10 == 0))  # of one class a tenth
    whole, rare = fit_calibration(logits, truth), fit_calibration(logits[kept], truth[kept])
    assert rare[0] == pytest.approx(whole[0], rel=0.05)
    assert rare[1] == pytest.approx(whole[1], abs=0.12)


def test_a_class_that_never_comes_is_left_as_it_is():
    logits = np.random.default_rng(0).normal(size=(300, 4))
    _, offsets = fit_calibration(logits, np.repeat([0, 1, 3], 100))
    assert offsets[2] == 0
    assert offsets.sum() == pytest.approx(0)


def test_a_package_is_scored_on_labelled_data_with_what_it_refused_counted(made, tmp_path, monkeypatch):
    folder, catalogue, _ = made
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    ask = ["evaluate", "--package", str(folder), "--data", str(catalogue.origin), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, ask)
    assert answer.exit_code == 0, answer.output
    result = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert sum(result["status"].values()) == len(catalogue.table)
    findings = pd.read_csv(tmp_path / "out" / "findings.csv")
    assert len(findings) == len(catalogue.table)
    answered = result["status"].get("accepted", 0) + result["status"].get("warned", 0)
    told = findings[findings["p_notumor"].notna()]
    auc = roc_auc_score(told["label"] != "notumor", 1 - told["p_notumor"])
    assert result["presence"]["auc"] == pytest.approx(auc)
    assert result["scores"]["n"] == answered
    assert f"phantom {result['set coverage']['by source']['phantom']['coverage']:.3f} (n {answered})" in answer.stdout
    assert CliRunner().invoke(app, ["evaluate"]).exit_code == 2


def test_the_files_of_a_training_set_are_those_of_its_pictures_copies_and_mirrors_too():
    """Rows 0 and 3 were trained on: row 1 shows the picture of row 0; row 4 has no known picture, as row 3 has none."""
    table = pd.DataFrame({"sha256": [letter * 64 for letter in "edcba"], "picture": ["p", "p", "q", "", ""]})
    assert files_of(table, np.array([0, 3])) == ["b" * 16, "d" * 16, "e" * 16]


def test_slices_of_the_training_set_are_counted_and_the_others_scored_apart(made, tmp_path, monkeypatch):
    """Four training slices and two of them stored anew, whose bytes are new: four of six, and with them gone four of four."""
    folder, catalogue, _ = made
    source, data, chances = catalogue.source(), tmp_path / "data", dict.fromkeys(CLASSES, 0.1)

    def answering(self, items, names, **_):
        for place, _ in enumerate(items):
            path = names[place]
            label = "notumor" if path.startswith("notumor") else "glioma"
            yield Finding(path, "accepted", label, chances | {label: 0.7}, (label,))

    monkeypatch.setattr(Classifier, "predict", answering)
    ask = ["evaluate", "--package", "", "--data", str(data), "--out", str(tmp_path / "out")]

    def scored(package):
        ask[2] = str(package)
        answer = CliRunner().invoke(app, ask)
        assert answer.exit_code == 0, answer.output
        return answer, json.loads((tmp_path / "out" / "scores.json").read_text())

    for name in ("glioma", "notumor"):
        (data / name).mkdir(parents=True)
        for number, path in enumerate(catalogue.table["path"][catalogue.table["label"] == name][:2]):
            (data / name / f"{number}.png").write_bytes(source.read(path))
        (data / name / "new.png").write_bytes(encoded(decode(source.read(path)).grey) + b"stored anew")

    answer, result = scored(folder)
    assert "Careful: 4 of 6 slices are in its training set" in answer.stderr
    assert not result["trained on this"]
    assert result["in training"] == {"n": 4, "of": 6}
    assert (result["presence"]["n"], result["not in training"]["presence"]["n"]) == (6, 2)
    assert result["not in training"]["scores"]["n"] == 2
    told = pd.read_csv(tmp_path / "out" / "findings.csv").set_index("path")["in_training"]
    assert told[~told].index.tolist() == ["glioma/new.png", "notumor/new.png"]

    shutil.copytree(folder, tmp_path / "older")
    card = json.loads((folder / "card.json").read_text())
    del card["data"]["sha256"]
    resealed(tmp_path / "older", json.dumps(card).encode())
    answer, result = scored(tmp_path / "older")
    assert result["in training"] is None
    assert "is not known" in answer.stderr
    card["data"]["digest"] = CARDS["nickparvar"].digest
    resealed(tmp_path / "older", json.dumps(card).encode())
    first = hashlib.sha256((data / "glioma" / "0.png").read_bytes()).hexdigest()[:16]
    one = pd.DataFrame(dict.fromkeys(known.FILLED, ""), index=[first])
    monkeypatch.setattr(known, "known", lambda: one)
    assert scored(tmp_path / "older")[1]["in training"] == {"n": 1, "of": 6}

    for file in data.rglob("new.png"):
        file.unlink()
    answer, result = scored(folder)
    assert result["trained on this"]
    assert "not in training" not in result
    assert "trained on these very slices" in answer.stderr


def test_slices_of_known_kinds_are_scored_beside_others_and_an_unread_file_ends_in_1(tmp_path, monkeypatch):
    """One of yes/ beside a glioma, a meningioma taken for one, and a free slice: two of three right, presence of four."""
    names = ("glioma/a.png", "meningioma/b.png", "notumor/c.png", "yes/d.png")
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")

    def answering(self, items, names, **_):
        for place, _ in enumerate(items):
            label = "notumor" if names[place].startswith("notumor") else "glioma"
            yield Finding(names[place], "accepted", label, dict.fromkeys(CLASSES, 0.1) | {label: 0.7}, (label,))

    monkeypatch.setattr(Classifier, "predict", answering)
    ask = ["evaluate", "--package", "shipped", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, ask)
    assert answer.exit_code == 0, answer.output
    assert "n 3; without 1 of an unknown kind" in answer.stdout
    result = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (result["scores"]["n"], result["of unknown kind"]) == (3, 1)
    assert result["scores"]["accuracy"] == pytest.approx(2 / 3)
    assert result["presence"]["n"] == 4
    assert {name: one["n"] for name, one in result["set coverage"]["by class"].items()} == {
        **{"glioma": 1, "meningioma": 1, "notumor": 1}
    }
    for more in ([], ["--json"]):
        with (tmp_path / "yes" / "e.png").open("wb") as stream:
            stream.truncate(65 * 2**20)
        answer = CliRunner().invoke(app, [*ask, *more])
        assert answer.exit_code == 1
        assert "Not read: 1" in answer.stderr


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_set_has_the_digest_of_its_catalogue(tmp_path, monkeypatch, depth):
    """Which says whether slices have more than 8 bits; a package knows its training set by it."""
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    for name in ("glioma", "notumor"):
        (tmp_path / "set" / name).mkdir(parents=True)
        noise = np.random.default_rng(len(name)).integers(0, 256, (64, 64))
        (tmp_path / "set" / name / "a.png").write_bytes(encoded(noise.astype(depth)))
    _, result = score_package(None, tmp_path / "set")
    assert result["data"]["digest"] == load_catalogue(tmp_path / "set").digest


def test_the_known_set_is_what_the_shipped_package_was_trained_on():
    assert load_package().card["data"]["digest"] == CARDS["nickparvar"].digest


def test_a_package_is_scored_on_dicom_nifti_and_matlab_files_beside_images(made, tmp_path):
    """Each in a folder of its class; a volume's slices and a series' files are one patient each, a bad file is counted."""
    folder, catalogue, _ = made
    source = catalogue.source()
    greys = {
        name: [decode(source.read(path)).grey for path in part["path"][:3]]
        for name, part in catalogue.table.groupby("label")
    }
    data = tmp_path / "data"
    for name in CLASSES:
        (data / name).mkdir(parents=True)
    for number, grey in enumerate(greys["glioma"]):
        content = dicom(grey.astype(np.uint16), SeriesInstanceUID="1.2.3", WindowCenter=128, WindowWidth=256)
        (data / "glioma" / f"MR.1.2.840.{number}").write_bytes(content)
    volume = np.dstack([grey[::-1, ::-1].T for grey in greys["meningioma"]]).astype(np.int16)
    (data / "meningioma" / "v.nii.gz").write_bytes(gzip.compress(nibabel.Nifti1Image(volume, np.eye(4)).to_bytes()))
    (data / "pituitary" / "1.mat").write_bytes(matlab(greys["pituitary"][0].astype(np.int16)))
    (data / "pituitary" / "2.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    (data / "pituitary" / "notes.txt").write_text("no slice")
    for name in ("glioma", "pituitary"):
        (data / name / "report").write_bytes(Path(get_testdata_file("reportsi.dcm")).read_bytes())
    (data / "notumor" / "a.png").write_bytes(encoded(greys["notumor"][0]))
    (data / "metadata.csv").write_text("path,patient,source\nnotumor/a.png,P7,ward\nmeningioma/v.nii.gz,,ward\n")
    seen = []
    found, result = score_package(folder, data, progress=lambda *done: seen.append(done))
    assert seen[-1] == (9, 9)
    assert result["data"]["notices"][-1] == "Left out, of kinds that are not read: 2 Basic Text SR."
    assert found["path"].tolist() == [
        *(f"glioma/MR.1.2.840.{number}" for number in range(3)),
        *(f"meningioma/v.nii.gz#{number}" for number in (1, 2, 3)),
        *("notumor/a.png", "pituitary/1.mat", "pituitary/2.mat"),
    ]
    assert found["label"].tolist() == ["glioma"] * 3 + ["meningioma"] * 3 + ["notumor"] + ["pituitary"] * 2
    assert result["status"]["error"] == 1
    assert "7.3" in found["reasons"].iloc[-1]
    assert found["patient"].iloc[:3].nunique() == 1
    assert found["patient"].tolist()[3:] == ["meningioma/v.nii.gz"] * 3 + ["P7", "", ""]
    assert "1.2.3" not in found.to_csv()
    # A window that changes nothing: pixels are answered alike, whatever they come in.
    alike = zip(Classifier.load(folder).predict([*greys["glioma"], greys["notumor"][0]]), (0, 1, 2, 6), strict=True)
    assert all((one.status, one.label) == tuple(found.loc[row, ["status", "answer"]]) for one, row in alike)
    answered = found["p_glioma"].notna()
    assert answered.sum() >= 5
    assert result["scores"]["n"] == answered.sum()
    in_ward = found[answered & found["label"].isin(["notumor", "meningioma"])]
    inside = [row["label"] in row["set"].split() for row in in_ward.to_dict("records")]
    ward = result["set coverage"]["by source"]["ward"]
    assert (ward["n"], ward["coverage"]) == (len(in_ward), pytest.approx(np.mean(inside)))
    others = result["set coverage"]["by source"]["data"]["by class"]
    assert sum(one["n"] for one in others.values()) == answered.sum() - len(in_ward)


def test_a_folder_of_reports_alone_holds_no_slice(made, tmp_path):
    (tmp_path / "glioma").mkdir()
    (tmp_path / "glioma" / "report").write_bytes(Path(get_testdata_file("reportsi.dcm")).read_bytes())
    with pytest.raises(DataNotFound, match=r"among 1 files.* 1 Basic Text SR"):
        score_package(made[0], tmp_path)


def test_volumes_and_dicom_files_have_the_limits_of_their_reader_not_those_of_a_slice(made, tmp_path):
    """A black volume in a zip shrinks a thousandfold; 65 MiB are too many for an image alone, 513 MiB for every file."""
    volume = np.zeros((128, 128, 40), np.int16)
    volume[40:90, 40:90] = 700
    black = nibabel.Nifti1Image(volume, np.eye(4)).to_bytes()
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("glioma/v.nii", black)
        assert archive.getinfo("glioma/v.nii").compress_size * 200 < len(black)
        archive.writestr("glioma/IM0001", dicom(), zipfile.ZIP_BZIP2)
        archive.writestr("glioma/README", "no slice")
    found, _ = score_package(made[0], tmp_path / "data.zip")
    assert found["path"].tolist() == [*(f"glioma/v.nii#{number}" for number in range(1, 41)), "glioma/IM0001"]
    assert (found["status"].iloc[:40] != "error").all()
    assert "compression method 12" in found["reasons"].iloc[40]

    (tmp_path / "data" / "glioma").mkdir(parents=True)
    few = nibabel.Nifti1Image(volume[..., :2], np.eye(4)).to_bytes()
    files = {"v.nii": (few, 65), "IM0002": (dicom(), 513), "a.png": (encoded(np.eye(20, dtype=np.uint8)), 65)}
    for name, (content, size) in files.items():
        with (tmp_path / "data" / "glioma" / name).open("wb") as stream:
            stream.write(content)
            stream.truncate(size * 2**20)
    found, _ = score_package(made[0], tmp_path / "data")
    said = found.set_index("path")
    assert (said.loc[["glioma/v.nii#1", "glioma/v.nii#2"], "status"] != "error").all()
    assert "at most 536,870,912 bytes" in said.loc["glioma/IM0002", "reasons"]
    assert "at most 67,108,864 bytes" in said.loc["glioma/a.png", "reasons"]
    assert len(said) == 4


def test_the_card_says_coverage_of_each_class_and_source_with_its_n():
    """Two sources with answers of their own, a third of each class in each of three folds."""
    random = np.random.default_rng(0)
    chances = random.dirichlet(np.ones(4), 600)
    held = pd.DataFrame(chances, columns=[f"p_{name}" for name in CLASSES]).assign(
        label=[CLASSES[random.choice(4, p=row)] for row in chances],
        fold=np.arange(600) % 3,
        source=np.where(np.arange(600) < 200, "one", "two"),
    )
    rates = calibration(held)["conformal"]["rates"]["0.1"]
    assert {name: one["n"] for name, one in rates["by_source"].items()} == {"one": 200, "two": 400}
    assert rates["slices"] == held["label"].value_counts().sort_index().to_dict()
    hits = sum(one["n"] * one["coverage"] for one in rates["by_source"].values())
    assert hits == pytest.approx(sum(rates["slices"][name] * share for name, share in rates["coverage"].items()))
    assert min(rates["coverage"].values()) > 0.8
    assert calibration(held.drop(columns="source"))["conformal"]["rates"]["0.1"]["by_source"] == {}


def test_a_folder_without_slices_of_a_class_is_said(made, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.dcm").write_bytes(dicom())
    with pytest.raises(DataNotFound, match="no readable slice of a known class"):
        score_package(made[0], tmp_path)


def test_tumours_of_an_unknown_kind_are_scored_as_present_or_not(made, tmp_path, monkeypatch):
    """Folders yes/ and no/, as two well-known sets have them: presence is scored, kinds are not; training does not see yes/."""
    import zipfile

    from tumorscope.data.catalogue import load_catalogue

    folder, catalogue, _ = made
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    source = catalogue.source()
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for number, row in enumerate(catalogue.table.itertuples()):
            place = "no" if row.label == "notumor" else "yes"
            archive.writestr(f"{place}/{number}.png", source.read(row.path))
    ask = ["evaluate", "--package", str(folder), "--data", str(tmp_path / "two.zip"), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, ask)
    assert answer.exit_code == 0, answer.output
    assert "tumour or none" in answer.stdout
    result = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert "scores" not in result
    assert result["data"]["slices"] == len(catalogue.table)
    told = list(csv.DictReader((tmp_path / "out" / "findings.csv").open()))
    said = [(row["label"] == "tumour", row["answer"] != "notumor") for row in told if row["p_glioma"]]
    tumours = [called for is_tumour, called in said if is_tumour]
    assert result["presence"]["n"] == len(said)
    assert result["presence"]["sensitivity"] == pytest.approx(sum(tumours) / len(tumours))
    assert set(load_catalogue(tmp_path / "two.zip").table["label"]) == {"notumor"}


def test_a_backbone_with_a_pooling_head_makes_a_package(made, tmp_path):
    """Logits, class activation map and embedding of a network of timm, the same as torch's; other heads have no map."""
    from tumorscope.api import train
    from tumorscope.config import parse_recipe
    from tumorscope.package.export import export_run

    def recipe(head):
        backbone = {"name": "resnet10t", "weights": "none", "head": head}
        return parse_recipe(
            {
                **{"name": f"back-{head}", "input": {"size": 32, "crop": "head", "normalise": "backbone"}},
                **{"model": {"name": "backbone", "backbone": backbone}, "augment": {"mirror": 0.5}},
                "training": {"epochs": 1, "mirror_average": True},
            },
            "test",
        )

    catalogue, runs = made[1], tmp_path / "runs"
    done = {one: train(recipe("pooled"), catalogue, one, [0], runs=runs, workers=1)[0] for one in ("all", "patient-cv")}
    export_run(done["all"], [done["patient-cv"]], catalogue, tmp_path / "back")
    package = load_package(tmp_path / "back")
    assert package.card["graph_difference"] < 1e-4
    assert package.card["map"] == "activation"
    source = catalogue.source()
    (one,) = Classifier.load(tmp_path / "back").predict([source.read(catalogue.table["path"][0])], heat=True)
    assert one.heat is None or one.heat.shape == (96, 96)
    assert package.embeddings.centres.shape == (4, 512)
    (other,) = train(recipe("improved"), catalogue, "all", [0], runs=runs, workers=1)
    with pytest.raises(RunMismatch, match="has no map"):
        export_run(other, [], catalogue, tmp_path / "other")


def test_a_region_model_on_a_backbone_goes_all_the_way(tmp_path, monkeypatch):
    """Trained, made a package of, asked, compared with heat maps, and its regions scored against masks."""

    from tumorscope.api import train
    from tumorscope.audit.identify import with_pictures
    from tumorscope.data.catalogue import load_catalogue
    from tumorscope.data.phantom.archive import write_phantom
    from tumorscope.evaluation.explain import explain_run

    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    archive = write_phantom(tmp_path / "phantom.zip", patients_per_class=6, slices_per_patient=3, size=96)
    catalogue = with_pictures(load_catalogue(archive))
    small = {
        **{"model.backbone.name": "resnet10t", "model.backbone.weights": "none", "model.filters": [4, 6, 8]},
        **{"input.size": 64, "training.epochs": 1},
    }
    recipe = load_recipe("region_lite", small)
    runs = {
        one: train(recipe, catalogue, one, [0], runs=tmp_path / "runs", workers=1)[0] for one in ("all", "patient-cv")
    }
    export_run(runs["all"], [runs["patient-cv"]], catalogue, tmp_path / "back")
    package = load_package(tmp_path / "back")
    assert package.card["map"] == "regions"
    assert package.card["graph_difference"] < 1e-4
    table, _ = explain_run(runs["patient-cv"], catalogue, slices=4)
    assert {"own map", "Grad-CAM", "chance"} <= set(table["method"])
    ask = ["evaluate", "--package", str(tmp_path / "back"), "--data", str(archive), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, ask)
    assert answer.exit_code == 0, answer.output
    assert "trained on these very slices" in answer.output
    result = json.loads((tmp_path / "out" / "scores.json").read_text())
    found = pd.read_csv(tmp_path / "out" / "findings.csv")
    assert result["trained on this"]
    scored = found[found["dice"].notna()]
    assert result["regions"]["all"]["slices"] == len(scored) > 0
    assert f"median Dice {scored['dice'].median():.2f}, n {len(scored)} tumours with a mask" in answer.stdout
    regions = result["regions"]["all"]
    assert (
        f"regions: hit {regions['hit']:.2f} ({regions['hit_low']:.2f} to {regions['hit_high']:.2f}), " in answer.stdout
    )
    assert regions["dice_mean"] == pytest.approx(scored["dice"].mean())
    assert set(scored["label"]) <= {"glioma", "meningioma", "pituitary"}
    large = scored["mask_pixels"] / 96**2 > 0.04
    sizes = result["presence by tumour size"]
    assert sizes["above 4.0%"]["tumours"] == large.sum()
    assert sizes["above 0.0%"]["intervals"]["auc"] == result["presence"]["intervals"]["auc"]  # every tumour has a mask


def test_a_region_is_scored_at_the_slices_own_size():
    """A mask of half the rows and columns: 2 of 4 mask pixels found, 1 beside: Dice 2 * 2 / (3 + 4).

    Of its highest pixels the share inside counts.
    """
    mask = np.zeros((16, 24), np.uint8)
    mask[0, 0] = 255
    heat = np.zeros((32, 48), np.uint8)
    heat[0, :3] = 255
    unknown = dict.fromkeys(("pixels", "region_pixels", "mask_pixels", "dice", "pointed"), np.nan)
    for columns, pointed in (([1], 1), ([2], 0), ([1, 2, 3], 1 / 3)):
        highest = np.zeros(heat.shape, bool)
        highest[0, columns] = True
        one = Finding("a.png", "accepted", heat=heat, highest=highest)
        assert _region(one, OneFile(encoded(mask)), "mask.png", []) == {
            **{"pixels": 1536, "region_pixels": 3, "mask_pixels": 4, "pointed": pointed},
            "dice": pytest.approx(4 / 7),
        }
    no_mask = pytest.approx({**unknown, "pixels": 1536, "region_pixels": 3}, nan_ok=True)
    assert _region(one, OneFile(b""), "", []) == no_mask
    assert _region(Finding("a.png", "refused"), OneFile(b""), "", []) == pytest.approx(unknown, nan_ok=True)
    damaged: list[str] = []
    assert _region(one, OneFile(encoded(mask.T)), "mask.png", damaged) == no_mask  # it lies across the slice
    assert damaged == [
        "mask.png: this mask was not used. mask.png: 16 x 24 pixels; its slice's proportions, of 48 x 32. "
        "Turn or resize it to lie as the slice does."
    ]


def test_a_mask_is_turned_as_its_dicom_slice_was():
    """Stored upside down and with rows for columns: the mask's first row is the turned slice's last column."""
    mask, heat = np.zeros((16, 24), np.uint8), np.zeros((24, 16), np.uint8)
    mask[0, :6], heat[:6, 15] = 255, 255
    one = Finding("a.dcm", "accepted", heat=heat, highest=heat == 255, stored=Stored((16, 24), True, 1, -1))
    found = _region(one, OneFile(encoded(mask)), "mask.png", [])
    assert (found["dice"], found["pointed"]) == (1, 1)


def test_a_mask_of_a_dicom_slice_whose_pixels_are_no_squares_fits_as_it_is_stored():
    """32 rows of 16 pixels twice as wide as high, shown as a square; its mask covers the upper half, as the region does."""
    mask, heat = np.zeros((32, 16), np.uint8), np.zeros((32, 32), np.uint8)
    mask[:16], heat[:16] = 255, 255
    one = Finding("a.dcm", "accepted", heat=heat, highest=heat == 255, stored=Stored((32, 16)))
    damaged: list[str] = []
    assert _region(one, OneFile(encoded(mask)), "mask.png", damaged)["dice"] == 1
    assert not damaged
    assert np.isnan(_region(one, OneFile(encoded(mask.T)), "mask.png", damaged)["dice"])
    assert len(damaged) == 1


@pytest.mark.parametrize("usable", [True, False])
def test_masks_of_any_kind_are_scored_or_left_out_and_end_no_run(tmp_path, monkeypatch, usable):
    """Half of each slice is answered as tumour, and a mask of 0 and 1 covers a quarter: Dice 2 * 64 / (128 + 64)."""
    slice_, quarter, half = (np.zeros((16, 16), np.uint8) for _ in range(3))
    quarter[:4], half[:8] = 1, 255
    masks = {"black": encoded(slice_), "damaged": encoded(quarter)[:40], "of_a_volume": encoded(quarter)}
    masks |= {"ones": encoded(quarter)} if usable else {}
    for name in ("glioma", "notumor", "masks"):
        (tmp_path / name).mkdir()
    for name, content in masks.items():
        (tmp_path / "masks" / f"{name}.png").write_bytes(content)
        (tmp_path / "glioma" / name).with_suffix(".nii" if name == "of_a_volume" else ".png").write_bytes(b"")
    (tmp_path / "notumor" / "free.png").write_bytes(b"")
    rows = [f"glioma/{name}.{'nii' if name == 'of_a_volume' else 'png'},masks/{name}.png\n" for name in masks]
    (tmp_path / "metadata.csv").write_text("path,mask\n" + "".join(rows))

    def answering(self, items, names, **_):
        for place, _ in enumerate(items):
            path, chances = names[place], dict.fromkeys(CLASSES, 0.1) | {"glioma": 0.7}
            path += "#1" if path.endswith(".nii") else ""
            yield Finding(path, "accepted", "glioma", chances, ("glioma",), heat=half, highest=half == 255)

    monkeypatch.setattr(Classifier, "predict", answering)
    found, result = score_package(None, tmp_path)
    damaged, of_a_volume = [notice for notice in result["data"]["notices"] if "mask" in notice]
    assert damaged.startswith("masks/damaged.png: this mask was not used. ")
    assert "not a whole image" in damaged
    assert of_a_volume.startswith("masks/of_a_volume.png: this mask was not used. Masks are read for images")
    assert (found["region_pixels"] == 128).all()
    known = found.set_index("path")[["mask_pixels", "dice", "pointed"]].dropna(how="all")
    if usable:
        assert known.to_dict("index") == {
            "glioma/ones.png": {"mask_pixels": 64, "dice": pytest.approx(2 / 3), "pointed": 0.5}
        }
        assert result["regions"]["all"]["slices"] == 1
        free = result["regions"]["tumour-free"]
        assert (free["slices"], free["with a region"]) == (1, 1)
        assert result["presence by tumour size"]["above 4.0%"]["tumours"] == 1
    else:
        assert known.empty
        assert result["presence"]["tumours"] == 3
        assert "regions" not in result


class OneFile:
    def __init__(self, content):
        self.content = content

    def read(self, name):
        return self.content


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_shipped_package_is_whole_and_sees_a_slice():
    """Small enough for a wheel, and verified; what it says of slices is measured by benchmarks, not here."""
    package = load_package()
    assert package.card["name"] == "region_lite"
    assert sum(item.stat().st_size for item in (resources.files("tumorscope") / "package" / "shipped").iterdir()) < 10e6
    random = np.random.default_rng(0)
    (one,) = Classifier.load().predict([random.integers(0, 256, (200, 200)).astype(np.uint8)])
    assert one.status == "refused"


@pytest.mark.parametrize("which", ["made", "shipped"])
def test_a_graph_names_no_file_of_the_machine_that_made_it(made, which):
    graph = load_package(made[0] if which == "made" else None).graph
    assert b".py" not in graph
    assert b"/src/" not in graph
