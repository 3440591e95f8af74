"""Folder names and metadata.csv to labels: which names are known, which counts of several, and what is said of the others."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tumorscope.cli.main import app
from tumorscope.data.catalogue import load_catalogue, save
from tumorscope.data.layout import Layout, plan
from tumorscope.data.sources import open_source
from tumorscope.errors import DataNotFound


def written(top: Path, *names: str) -> Path:
    """A PNG of noise, another one for each name."""
    for seed, name in enumerate(names):
        file, buffer = top / name, io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40), np.uint8)).save(buffer, "PNG")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(buffer.getvalue())
    return top


def labels(top: Path, **layout) -> dict[str, str]:
    return {item.path: item.label for item in plan(open_source(top), Layout.of(None, **layout))[0]}


@pytest.mark.parametrize("free", ["no-tumor", "No Tumor", "NO_TUMOR", "no  tumour", "No-Tumour", "notumor"])
def test_the_nearest_folder_with_a_known_name_counts_however_its_words_are_parted(tmp_path, free):
    written(
        tmp_path,
        f"yes/scan/{free}/a.png",
        "yes/scan/b.png",
        f"tumor/{free}/c.png",
        "tumor/Tumor/d.png",
        "x/Glioma-Tumor/e.png",
    )
    found = labels(tmp_path, kinds=False)
    free_ones = {f"yes/scan/{free}/a.png", f"tumor/{free}/c.png"}
    assert {path for path, label in found.items() if label == "notumor"} == free_ones
    assert {found["yes/scan/b.png"], found["tumor/Tumor/d.png"]} == {"tumour"}
    assert found["x/Glioma-Tumor/e.png"] == "glioma"
    assert Layout.of({"My Set-A": "glioma"}) == Layout.of({"my_set a": "glioma"})


def test_folders_of_no_known_class_are_named_with_the_remedy(tmp_path, monkeypatch):
    """Three files in Tumor/, two in cancer/, one in neither, and one that is no image; the healthy ones are not lost."""
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    data = written(
        tmp_path / "set",
        *("Tumor/a.png", "Tumor/b.png", "Tumor/c.png", "all/cancer/d.png", "all/cancer/e.png", "f.png"),
        *("No Tumor/g.png", "all/No Tumor/h.png"),
    )
    (data / "notes.txt").write_text("no image")
    told = CliRunner().invoke(app, ["data", "info", "--data", str(data)])
    assert told.exit_code == 0
    said = " ".join(told.output.split())
    assert "set: 2 slices, 0 files refused" in said
    assert "1 files hold no slices" in said
    assert "6 files lie in folders of no known class, and were left out: Tumor (3), cancer (2), the top (1)." in said
    assert 'Map each with --classes "Tumor=CLASS"; classes are glioma, meningioma, notumor, pituitary.' in said
    _, (_, scored) = plan(open_source(data), Layout.of(None, kinds=False))
    assert "3 files lie in folders of no known class, and were left out: cancer (2), the top (1)." in scored
    assert scored.endswith("classes are glioma, meningioma, notumor, pituitary, tumour.")


@pytest.mark.parametrize(
    ("names", "counted", "advised"),
    [
        (["metastasis/p1/x.png", "metastasis/p2/y.png", "glioma/z.png"], "metastasis (2)", "metastasis"),
        (["set/Training/metastasis/p1/x.png", "set/Testing/glioma/p2/z.png"], "metastasis (1)", "metastasis"),
        (["set/cancer/p1/x.png", "set/other/y.png", "set/cancer/z.png"], "cancer (2), other (1)", "cancer"),
        (["metastasis/p1/x.png"], "metastasis (1)", "metastasis"),
        (["x.png", "y.png", "set/other/z.png", "set/glioma/z.png"], "the top (2), other (1)", "other"),
        (["x.png"], "the top (1)", "FOLDER"),
    ],
    ids=["patients", "wrapper and split", "nothing known", "alone", "the top", "the top alone"],
)
def test_the_folder_to_map_is_the_topmost_that_wraps_no_class(tmp_path, names, counted, advised):
    """Not a patient's, which would have to be mapped one by one, nor one that holds other classes too."""
    (notice, _) = plan(open_source(written(tmp_path, *names)), Layout.of(None))[1]
    assert f'and were left out: {counted}. Map each with --classes "{advised}=CLASS"' in notice


def test_masks_without_a_row_are_to_be_named_and_not_mapped_to_a_class(tmp_path):
    written(tmp_path, "glioma/a.png", "Masks/p1/a.png", "Masks/b.png", "other/c.png")
    masks, others, _ = plan(open_source(tmp_path), Layout.of(None))[1]
    assert masks.startswith(
        "2 files lie in folders of masks, and were left out. Name each beside its slice, in the column"
    )
    assert "1 files lie in folders of no known class, and were left out: other (1)." in others
    (tmp_path / "other" / "c.png").unlink()
    assert "--classes" not in " ".join(plan(open_source(tmp_path), Layout.of(None))[1])


def test_the_label_of_metadata_comes_before_the_folders(tmp_path):
    """A kind within tumor/ says more, another class than the folder's is said, and no label leaves the folder's."""
    written(tmp_path, *(f"tumor/{name}.png" for name in "ab"), "glioma/c.png", "glioma/d.png")
    rows = ["path,label", "tumor/a.png,Meningioma", "glioma/c.png,no tumor", "glioma/d.png,"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    expected = {
        "tumor/a.png": "meningioma",
        "tumor/b.png": "tumour",
        "glioma/c.png": "notumor",
        "glioma/d.png": "glioma",
    }
    assert labels(tmp_path, kinds=False) == expected
    notices = plan(open_source(tmp_path), Layout.of(None, kinds=False))[1]
    assert notices == ("1 slices lie in a folder of another class than their label in metadata.csv, which counts.",)


def test_an_unknown_label_is_named_with_its_row_and_its_file_left_out(tmp_path, monkeypatch):
    """Rows as a spreadsheet counts them, the header being the first."""
    written(tmp_path, "glioma/a.png", "glioma/b.png", "c.png")
    rows = ["path,label", "glioma/a.png,glioma", "glioma/b.png,Ependymoma", "c.png,Ependymoma"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    planned, notices = plan(open_source(tmp_path), Layout.of(None))
    assert [item.path for item in planned] == ["glioma/a.png"]
    said = (
        "Label 'Ependymoma' is no known class (metadata.csv row 4, metadata.csv row 3): 2 files were left out. Map it"
    )
    assert notices[-1] == f'{said} with --classes "Ependymoma=CLASS".'
    assert len(plan(open_source(tmp_path), Layout.of({"ependymoma": "glioma"}))[0]) == 3
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    (tmp_path / "glioma" / "a.png").unlink()
    with pytest.raises(DataNotFound, match=r"Label 'Ependymoma' is no known class \(metadata.csv row 4"):
        load_catalogue(tmp_path)


def test_a_catalogue_of_other_labels_than_the_folders_have_now_is_made_again(tmp_path, monkeypatch):
    """As an earlier version left it, which did not know one of the folders, or took it for another."""
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    written(tmp_path / "set", "glioma/a.png", "no tumor/b.png")
    now = load_catalogue(tmp_path / "set")
    assert now.table["label"].tolist() == ["glioma", "notumor"]
    for old in (now.table.iloc[:1], now.table.assign(label="glioma")):
        save(replace(now, table=old, planning=0))
        now = load_catalogue(tmp_path / "set")
        assert now.table["label"].tolist() == ["glioma", "notumor"]


def test_a_catalogue_is_planned_again_under_other_rules_alone_and_gets_their_notices(tmp_path, monkeypatch):
    """The rows stay, which are those of the same files; no file is opened where the rules are the same."""
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    now = load_catalogue(written(tmp_path / "set", "glioma/a.png", "other/b.png"))
    table, card = (now.folder / name for name in ("catalogue.csv", "card.json"))
    for planning in (None, 0):
        facts = json.loads(card.read_text()) | {"notices": ["an old one"]}
        del facts["planning"]
        card.write_text(json.dumps(facts | ({} if planning is None else {"planning": planning})))
        before = table.stat().st_mtime_ns, table.stat().st_ino
        assert load_catalogue(tmp_path / "set").notices == now.notices
        assert (table.stat().st_mtime_ns, table.stat().st_ino) == before
    monkeypatch.setattr("tumorscope.data.catalogue.plan", None)
    assert load_catalogue(tmp_path / "set").notices == now.notices
    assert now.notices[0].startswith("1 files lie in folders of no known class")
