"""The audit as a whole on a phantom set with planted copies, through Python and the command line."""

import io
import json
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from tumorscope.audit.audit import adopt, compare_known, run_audit
from tumorscope.audit.identify import with_pictures
from tumorscope.audit.summary import summary
from tumorscope.cli.main import app
from tumorscope.data.catalogue import join, load_catalogue
from tumorscope.data.phantom.archive import write_phantom
from tumorscope.protocols import folds


def planted(source: Path, target: Path, *, relabel: bool = False) -> list[str]:
    """A copy of a phantom archive whose first three test gliomas are mirrored into training; gives their names."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as write:
        for name in set(read.namelist()) - {"metadata.csv"}:
            write.writestr(name, read.read(name))
        chosen = sorted(name for name in read.namelist() if name.startswith("Testing/glioma/"))[:3]
        for number, name in enumerate(chosen):
            image = Image.open(io.BytesIO(read.read(name))).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            write.writestr(f"Training/{'meningioma' if relabel else 'glioma'}/copy-{number}.png", buffer.getvalue())
        table = pd.read_csv(io.BytesIO(read.read("metadata.csv")), dtype=str, keep_default_na=False)
        extra = [f"Training/{'meningioma' if relabel else 'glioma'}/copy-{number}.png" for number in range(3)]
        more = pd.DataFrame({"path": extra, "patient": "", "plane": "", "mask": ""})
        write.writestr("metadata.csv", pd.concat([table, more]).to_csv(index=False))
    return chosen


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    plain = write_phantom(folder / "plain.zip", patients_per_class=7, slices_per_patient=3, size=128)
    chosen = planted(plain, folder / "copied.zip")
    planted(plain, folder / "relabelled.zip", relabel=True)
    return folder, chosen


@pytest.fixture(scope="module")
def audited(archives, tmp_path_factory):
    folder, _ = archives
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUMORSCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        catalogue = load_catalogue(folder / "copied.zip")
        yield catalogue, run_audit(catalogue)


def test_mirrored_copies_across_the_split_are_counted_and_joined_with_nothing_else(archives, audited):
    _, chosen = archives
    _, audit = audited
    total = audit.leakage.iloc[-1]
    assert (total["picture"], total["only_picture"], total["bytes"], total["pixels"]) == (3, 3, 0, 0)
    table = audit.table.set_index("path")
    for number, name in enumerate(chosen):
        copy = f"Training/glioma/copy-{number}.png"
        assert table.loc[copy, "picture"] == table.loc[name, "picture"]
        assert table.loc[copy, "patient"] == table.loc[name, "patient"] != ""
    assert table["picture"].nunique() == len(table) - 3
    assert "3 of " in summary(audit)


def test_what_the_audit_adopts_is_there_for_protocols_when_the_set_is_opened_again(archives, audited, monkeypatch):
    catalogue, audit = audited
    monkeypatch.setenv("TUMORSCOPE_HOME", str(catalogue.folder.parents[1]))
    adopt(catalogue, audit)
    again = load_catalogue(archives[0] / "copied.zip")
    assert again.table["picture"].tolist() == audit.table["picture"].tolist()
    assert again.digest == catalogue.digest
    fold = folds("clean", again.table, 0)[0]
    copied = again.table.index[again.table["path"].isin(archives[1])]
    assert not set(copied) & set(fold.test)
    assert len(fold.test) == (again.table["split"] == "test").sum() - 3


def test_pictures_are_found_where_a_protocol_needs_them_and_the_same_as_by_the_audit(archives, audited, monkeypatch):
    catalogue, audit = audited
    monkeypatch.setenv("TUMORSCOPE_HOME", str(catalogue.folder.parents[1]))
    blank = catalogue.table.assign(picture="")
    found = with_pictures(type(catalogue)("other", blank, catalogue.rejected, catalogue.folder, catalogue.origin))
    assert found.table["picture"].tolist() == audit.table["picture"].tolist()


class Addresses(HTMLParser):
    """Every address that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href") and value]


def test_the_verb_writes_a_page_that_needs_no_other_file_and_the_same_numbers_as_json(archives, tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    data, out = archives[0] / "relabelled.zip", tmp_path / "audit"
    done = CliRunner().invoke(app, ["audit", str(data), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "3 pictures carry more than one class (6 slices)" in " ".join(done.stdout.split())
    parser = Addresses()
    parser.feed((out / "audit.html").read_text(encoding="utf-8"))
    assert parser.found
    assert all(address.startswith(("data:", "#")) for address in parser.found)
    numbers = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    assert len(numbers["conflicts"]) == 6
    assert numbers["leakage"][-1]["only_picture"] == 3
    assert {row["protocol"] for row in numbers["memoriser"]} >= {"official", "clean", "picture-cv", "patient-cv"}
    table = pd.read_csv(out / "catalogue.csv", dtype=str, keep_default_na=False)
    assert {"path", "label", "split", "source", "patient", "picture", "sha256"} <= set(table.columns)
    assert (table["picture"] != "").all()
    assert (out / "figures" / "conflicts.png").exists()


def test_a_set_against_a_part_of_itself_is_known_to_be_the_same_slices(archives, tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    one = load_catalogue(archives[0] / "plain.zip")
    other = load_catalogue(archives[0] / "copied.zip")
    both = join(one, other)
    assert len(both.table) == len(one.table) + len(other.table)
    assert set(both.table["split"]) == {"train", "test"}
    found = with_pictures(both)
    count = run_audit(found).leakage.iloc[-1]
    assert (count["picture"], count["test"]) == (len(other.table), len(other.table))
    assert join(one, other).table["picture"].tolist() == found.table["picture"].tolist()
    # Once other labels or patients of the same slices came back as they had been when the sets were first joined.
    for column, value in (("label", "pituitary"), ("patient_group", "p1"), ("mask", "m.png")):
        changed = replace(other, table=other.table.assign(**{column: value}))
        rows = join(one, changed).table
        assert set(rows.loc[rows["split"] == "test", column]) == {value}


def test_known_ids_are_compared_by_grouping_and_not_by_name():
    before = pd.DataFrame({"picture": ["a", "a", "b", "c"], "patient": ["", "", "", ""]})
    same = pd.DataFrame({"picture": ["x", "x", "y", "z"], "patient": ["", "", "", ""]})
    other = pd.DataFrame({"picture": ["x", "x", "x", "z"], "patient": ["", "", "", ""]})
    assert compare_known(before, same) == "Picture ids were known for 4 slices; now all are grouped the same way."
    assert "3 of them are grouped otherwise" in compare_known(before, other)
