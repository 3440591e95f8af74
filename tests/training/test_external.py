"""Further sets in a recipe: added by class, degraded if asked, and never across from a picture that is scored."""

import io
import json
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tumorscope.api import read_run, train
from tumorscope.audit.conflicts import label_issues
from tumorscope.audit.identify import with_pictures
from tumorscope.config import load_recipe
from tumorscope.data.cache import pixels
from tumorscope.data.catalogue import load_catalogue
from tumorscope.data.masks import INSIDE, UNKNOWN
from tumorscope.data.phantom.archive import write_phantom
from tumorscope.errors import DataNotFound, RunMismatch
from tumorscope.evaluation.assemble import report_of
from tumorscope.evaluation.evaluate import by_model
from tumorscope.evaluation.explain import explain_run
from tumorscope.evaluation.package_scores import score_package
from tumorscope.evaluation.report import write_report
from tumorscope.package.card import load_package
from tumorscope.package.export import add_to_card, export_run
from tumorscope.protocols import folds
from tumorscope.training.external import Further, widened, with_external
from tumorscope.training.runs import masks_of

QUICK = {"training.epochs": 1, "training.batch_size": 32}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The main set, and beside it one of other patients that holds three mirrored slices of the main one's test part."""
    folder = tmp_path_factory.mktemp("sets")
    main = write_phantom(folder / "main.zip", patients_per_class=7, slices_per_patient=3, size=96)
    other = write_phantom(folder / "other.zip", patients_per_class=5, slices_per_patient=3, size=96, seed=5)
    with (
        zipfile.ZipFile(main) as read,
        zipfile.ZipFile(folder / "mixed.zip", "w") as write,
        zipfile.ZipFile(other) as more,
    ):
        for name in set(more.namelist()) - {"metadata.csv"}:
            if "mask" not in name:
                write.writestr(name.replace("Testing", "Training"), more.read(name))
        chosen = sorted(name for name in read.namelist() if name.startswith("Testing/glioma/"))[:3]
        for number, name in enumerate(chosen):
            image = Image.open(io.BytesIO(read.read(name))).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            write.writestr(f"Training/glioma/copy-{number}.png", buffer.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUMORSCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        yield load_catalogue(main)


def recipe(**entry):
    return load_recipe("baseline_cnn", {**QUICK, "external": [{"data": "mixed.zip", **entry}]})


def added(catalogue, chosen, protocol="official"):
    wide, _, further = with_external(chosen, catalogue)
    before = folds(protocol, catalogue.table, 0)[0]
    after, _ = widened(before, wide.table, further)
    return wide.table, before, after


def test_slices_of_the_classes_asked_for_join_the_training_part_and_nothing_else_changes(sets):
    table, before, after = added(sets, recipe(classes=["glioma", "notumor"]))
    new = np.setdiff1d(after.train, before.train)
    assert (new >= len(sets.table)).all()
    assert set(table["label"].iloc[new]) == {"glioma", "notumor"}
    assert set(before.train) <= set(after.train)
    np.testing.assert_array_equal(after.test, before.test)
    np.testing.assert_array_equal(after.validation, before.validation)
    pd.testing.assert_frame_equal(
        table.iloc[: len(sets.table)].drop(columns="picture"), sets.table.drop(columns="picture")
    )


def test_mirrored_copies_of_test_slices_are_left_out(sets):
    table, before, after = added(sets, recipe())
    names = table["path"].iloc[np.setdiff1d(after.train, before.train)]
    assert not names.str.contains("copy-").any()
    assert table["path"].str.contains("copy-").sum() == 3
    assert len(names) > 20
    assert set(table["picture"].iloc[after.train]).isdisjoint(table["picture"].iloc[after.test])


def test_what_is_left_out_is_counted_and_nothing_left_is_an_error(sets):
    """Of 15 gliomas and 3 copies of gliomas of the test part, the copies; each has the patient of its picture."""
    wide, _, further = with_external(recipe(classes=["glioma"]), sets)
    fold = folds("official", sets.table, 0)[0]
    after, counts = widened(fold, wide.table, further)
    assert counts == [{"data": "mixed.zip", "role": "train", "slices": 18, "left_out": 3, "picture": 3, "patient": 3}]
    assert len(after.train) == len(fold.train) + 15
    copies = np.flatnonzero(wide.table["path"].str.contains("copy-"))
    with pytest.raises(DataNotFound, match=r"mixed\.zip: all 3 slices for role train .*none is left\. Take"):
        widened(fold, wide.table, [Further(copies, further[0].entry)])
    held_out = further[0].entry.model_copy(update={"role": "validation"})
    with pytest.raises(DataNotFound, match="all 3 slices for role validation"):
        widened(fold, wide.table, [Further(copies, held_out)])


def test_a_further_set_can_stand_in_for_the_validation_part(sets):
    table, before, after = added(sets, recipe(role="validation", classes=["glioma"]))
    assert set(table["label"].iloc[after.validation]) == {"glioma"}
    assert (after.validation >= len(sets.table)).all()
    np.testing.assert_array_equal(after.train, before.train)


def test_degraded_slices_have_no_more_detail_than_asked_for_and_others_are_untouched(sets):
    wide, file, further = with_external(recipe(size=10), sets)
    images, plain = np.load(file), pixels(wide, 30)
    mine = slice(0, len(sets.table))
    np.testing.assert_array_equal(images[mine], plain[mine])
    sharp, soft = (np.abs(np.diff(part[further[0].rows].astype(int), axis=2)).mean() for part in (plain, images))
    assert soft < 0.7 * sharp
    again = (
        Image.fromarray(plain[-1]).resize((10, 10), Image.Resampling.BOX).resize((30, 30), Image.Resampling.BILINEAR)
    )
    np.testing.assert_array_equal(images[-1], np.asarray(again))


def test_a_run_with_a_further_set_scores_the_same_slices_as_one_without(sets, tmp_path):
    said = []
    plain, wide = (
        train(chosen, sets, "official", [0], runs=tmp_path / name, workers=1, report=said.append)[0]
        for name, chosen in (("plain", load_recipe("baseline_cnn", QUICK)), ("wide", recipe()))
    )
    one, other = read_run(plain), read_run(wide)
    assert one["path"].tolist() == other["path"].tolist()
    assert (one["p_glioma"] != other["p_glioma"]).any()
    facts = [json.loads((run / "environment.json").read_text()) for run in (plain, wide)]
    counts = [one["folds"][0] for one in facts]
    assert counts[1]["train"] == counts[0]["train"] + 60
    assert counts[1]["test"] == counts[0]["test"]
    assert facts[1]["external"][0][0] | {"slices": 63, "left_out": 3} == facts[1]["external"][0][0]
    mixed = load_catalogue(sets.origin.parent / "mixed.zip")
    assert facts[1]["sets"] == [{"name": one.name, "digest": one.digest} for one in (sets, mixed)]
    assert "sets" not in facts[0]
    told = [(event.work, event.done, event.unit) for event in said if "mixed.zip" in event.work]
    why = "3 of 63 left out: 3 by picture, 3 by patient"
    assert told == [(f"baseline_cnn-official-s0 fold 0, mixed.zip for train ({why})", 60, "slices")]


def found_digest(run):
    return json.loads((run / "environment.json").read_text())["data"]["digest"]


def test_runs_with_further_sets_are_explained_compared_and_made_a_package_of(sets, tmp_path):
    """All of main's 84 pictures, 15 gliomas of the other set and 3 copies are trained on; 30 other slices are for validation."""
    entries = [
        {"data": "mixed.zip", "classes": ["glioma"]},
        {"data": "mixed.zip", "classes": ["meningioma", "notumor"], "role": "validation"},
    ]
    small = {"model.filters": [4, 8, 8], "input.size": 32, "training.threads": 1}
    chosen = load_recipe("compact_cnn", {**QUICK, **small, "external": entries})
    main = with_pictures(sets)
    whole, crossed, official = (
        train(chosen, main, protocol, runs=tmp_path, workers=1)[0] for protocol in ("all", "patient-cv", "official")
    )
    scored = read_run(crossed)
    assert scored.loc[scored["part"] == "validation", "path"].str.startswith("mixed:").all()

    found, _ = explain_run(crossed, main, 4)
    assert set(found["path"]) <= set(main.table["path"])
    page = write_report(tmp_path / "report", report_of(by_model([crossed]), main))
    assert page.exists()
    assert label_issues(main, crossed).judged == 84
    package = load_package(export_run(whole, [crossed], main, tmp_path / "package"))
    limit = package.card["limits"][0]
    assert limit == "Trained on 84 pictures of main and 18 slices of mixed.zip, which the gate is not measured on."

    # Later runs with the further set are its recipe's and data's; one without it would be trained on less.
    add_to_card(tmp_path / "package", [official])
    card = load_package(tmp_path / "package").card
    assert [row["protocol"] for row in card["scores"]] == ["official", "patient-cv"]
    assert (card["data"]["digest"], card["data"]["run_digest"]) == (main.digest, found_digest(official))
    short = shutil.copytree(official, tmp_path / "short")
    facts = json.loads((short / "environment.json").read_text())
    (short / "environment.json").write_text(json.dumps({**facts, "data": {"name": "main", "digest": main.digest}}))
    for refused in (
        lambda: add_to_card(tmp_path / "package", [short]),
        lambda: export_run(whole, [crossed, short], main, tmp_path / "no"),
    ):
        with pytest.raises(RunMismatch, match="trained on main, other data"):
            refused()

    # Asked about the further set, it knows its 18 gliomas again, and the other 45 files that took no part in training.
    _, asked = score_package(tmp_path / "package", main.origin.parent / "mixed.zip")
    assert asked["in training"] == {"n": 18, "of": 63}
    _, asked = score_package(tmp_path / "package", main.origin)
    assert asked["trained on this"]

    stranger = load_catalogue(main.origin.parent / "other.zip")
    for refused in (
        lambda: explain_run(crossed, stranger),
        lambda: export_run(whole, [crossed], stranger, tmp_path / "no"),
    ):
        says = r"trained on main and mixed \(.*other bytes than other and mixed.*Give its --data\.$"
        with pytest.raises(RunMismatch, match=says):
            refused()


def test_masks_of_the_main_set_are_used_beside_a_further_set_without_any(sets):
    """No figshare set is there; the further set's tumours are of unknown place, its tumour-free slices have none."""
    further = {"data": "mixed.zip", "classes": ["glioma", "notumor"]}
    chosen = load_recipe("region_unet", {"input.size": 32, "external": [further]})
    wide, _, _ = with_external(chosen, sets)
    found, own = np.load(masks_of(chosen, wide)), np.load(masks_of(chosen, sets))
    assert (own == INSIDE).any()
    np.testing.assert_array_equal(found[: len(own)], own)
    tumour = (wide.table["label"] != "notumor").to_numpy()[len(own) :]
    assert (found[len(own) :][tumour] == UNKNOWN).all()
    assert not found[len(own) :][~tumour].any()
    # A main set without masks needs it.
    bare = load_catalogue(sets.origin.parent / "mixed.zip")
    chosen = load_recipe("region_unet", {"input.size": 32, "external": [{"data": "main.zip"}]})
    with pytest.raises(DataNotFound, match=r"cheng-figshare\.zip: neither a path nor"):
        masks_of(chosen, with_external(chosen, bare)[0])


def test_a_set_that_is_not_there_is_named_with_where_it_was_looked_for(sets):
    chosen = load_recipe("baseline_cnn", {"external": [{"data": "absent.zip"}]})
    with pytest.raises(DataNotFound, match=r"absent\.zip: neither a path nor .* beside .*main\.zip"):
        with_external(chosen, sets)
