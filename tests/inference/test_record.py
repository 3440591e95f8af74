"""Findings kept on disk: gone on with after a stop, written whole, and what a volume's slices say together."""

import csv
import io
import json
import os
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Sequence
from tests.inference.test_reading import dicom, items, volume
from typer.testing import CliRunner

from tumorscope.cli.main import app
from tumorscope.data.layout import Layout, plan, plan_pictures
from tumorscope.data.sources import open_source
from tumorscope.errors import DataNotFound, InputRejected, TumorscopeError
from tumorscope.files import write_text
from tumorscope.inference.batch import expand, with_maps
from tumorscope.inference.classifier import Classifier, Finding
from tumorscope.inference.reading import read_slices
from tumorscope.inference.record import Journal, as_csv, as_json, as_line, as_table, summaries
from tumorscope.labels import CLASSES


def record(path: str, label: str = "", chance: float = 0.7, status: str = "") -> dict:
    others = (1 - chance) / 3
    chances = {name: chance if name == label else others for name in CLASSES} if label else {}
    shown = {"path": path, "status": status or ("accepted" if label else "refused"), "label": label or None}
    return {**shown, "probabilities": chances, "prediction_set": [label] if label else [], "reasons": [], "plane": None}


def test_a_volume_is_summed_up_without_a_probability_of_its_own():
    """Slices 2 to 4 and 6 show a tumour, slice 5 was refused: three in a row."""
    labels = ["notumor", "glioma", "glioma", "meningioma", "", "glioma"]
    chances = [0.9, 0.6, 0.95, 0.7, 0.0, 0.7]
    records = [
        record(f"v.nii#{n}", label, chance)
        for n, (label, chance) in enumerate(zip(labels, chances, strict=True), start=1)
    ]
    (one,) = summaries([*records, record("a.png", "glioma"), record("b.nii#1", "glioma")])
    assert (one["slices"], one["answered"], one["tumour"], one["longest_run"]) == (6, 5, 4, 3)
    assert one["kinds"] == {"glioma": 3, "meningioma": 1, "pituitary": 0}
    assert one["strongest"] == "v.nii#3"
    assert "not independent" in one["text"]
    assert as_table(records, 0.1).count("\n") == 7


def test_dicom_files_of_a_folder_are_one_series():
    records = [record("s/1.dcm", "notumor"), record("s/2.dcm", "notumor"), record("t/1.dcm", "glioma")]
    (one,) = summaries(records)
    assert (one["volume"], one["slices"], one["tumour"]) == ("s", 2, 0)


def test_a_folder_of_two_series_is_summed_up_as_two_each_in_order_of_position(tmp_path):
    """Names cross: a and c are one series, b and d the other, stored from the top down; a broken file is counted as neither's."""
    for name, series, z in (("a", "1.9", 5), ("b", "1.2", 4), ("c", "1.9", -3), ("d", "1.2", 9), ("e", "1.2", 6)):
        tilted = {"ImageOrientationPatient": [1, 0, 0, 0, 0.8, 0.6]}  # normal (0, -0.6, 0.8)
        place = {"ImagePositionPatient": [50, 0, z], "InstanceNumber": 100 - z}
        content = dicom(np.arange(10_000).reshape(100, 100) % 4000, SeriesInstanceUID=series, **tilted, **place)
        (tmp_path / f"{name}.dcm").write_bytes(content)
    (tmp_path / "f.dcm").write_bytes(dicom()[:200])
    files = expand([str(tmp_path)])
    assert "".join(Path(path).stem for path in files) == "fbedca"
    found = [one.plain() for one in Classifier.load(threads=1).predict(files)]
    first, second, rest = summaries(found)
    assert rest["text"] == f"{tmp_path}: 1 file of no known series, 0 answered, 0 with a tumour."
    assert (first["volume"], first["slices"]) == (f"{tmp_path} (series {found[1]['series']})", 3)
    assert (second["volume"], second["slices"]) == (f"{tmp_path} (series {found[-1]['series']})", 2)
    assert "1.9" not in json.dumps([one["series"] for one in found])
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [row["series"] for row in rows] == [one["series"] or "" for one in found]


def test_echoes_and_planes_of_one_series_are_no_neighbours(tmp_path):
    """Two echoes at each of three places, and a slice of another plane: stacks of three, three and one, of one series."""
    flat, upright = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]
    for number, (echo, lies, z) in enumerate([(t, flat, z) for z in range(3) for t in (20, 90)] + [(20, upright, 7)]):
        tags = {"EchoTime": echo, "ImageOrientationPatient": lies, "ImagePositionPatient": [z, 0, z]}
        (tmp_path / f"{number}.dcm").write_bytes(dicom(SeriesInstanceUID="1.2", **tags))
    series = {path: next(read_slices(path, Path(path).read_bytes())).series for path in expand([str(tmp_path)])}
    assert sorted(Counter(series.values()).values()) == [1, 3, 3]
    assert len({one.partition("-")[0] for one in series.values()}) == 1
    told = summaries([{**record(path, "glioma"), "series": one} for path, one in series.items()])
    assert [(one["slices"], one["longest_run"]) for one in told] == [(3, 3), (3, 3)]


def test_echoes_and_planes_of_one_enhanced_file_are_no_neighbours():
    """Two echoes at each of three places, from above, and a frame of another plane: frames 5, 3, 1, then 6, 4, 2, then 7."""
    flat, upright = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]
    groups = [
        items(
            MREchoSequence=items(EffectiveEchoTime=echo),
            PlaneOrientationSequence=items(ImageOrientationPatient=lies),
            PlanePositionSequence=items(ImagePositionPatient=[0, 0, z]),
        )[0]
        for echo, lies, z in [(t, flat, z) for z in (2, 1, 0) for t in (20, 90)] + [(20, upright, 7)]
    ]
    frames = np.zeros((7, 10, 10), np.uint16)
    content = dicom(frames, SeriesInstanceUID="1.2", PerFrameFunctionalGroupsSequence=Sequence(groups))
    found = list(read_slices("e.dcm", content))
    assert "".join(one.name[-1] for one in found) == "5316427"
    assert [len(list(same)) for _, same in groupby(one.series for one in found)] == [3, 3, 1]
    told = summaries([{**record(one.name, "glioma"), "series": one.series} for one in found])
    assert [(one["slices"], one["longest_run"]) for one in told] == [(3, 3), (3, 3)]


def test_dicom_files_follow_each_other_by_position_however_they_are_named(tmp_path, monkeypatch):
    """IM1, IM10, IM2 as names stand, positions 0, 9 and 1; a picture between them and the other folder keep their places."""
    monkeypatch.chdir(tmp_path)
    flat = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SeriesInstanceUID": "1.2"}
    for folder in ("s1", "s2"):
        Path(folder).mkdir()
        for number, z in ((1, 0), (2, 1), (10, 9)):
            Path(folder, f"IM{number}.dcm").write_bytes(dicom(**flat, ImagePositionPatient=[0, 0, z]))
    one, two = ([f"{folder}/IM{number}.dcm" for number in (1, 2, 10)] for folder in ("s1", "s2"))
    assert expand(["s1/*.dcm"]) == one
    assert expand(["s1"]) == one
    Path("s1/IM100.png").write_text("")
    assert expand([*sorted(one), "s2/IM1.dcm"]) == [*one, "s2/IM1.dcm"]
    assert expand(["s1/IM1.dcm", "s1/IM10.dcm", "s1/IM100.png", "s1/IM2.dcm"]) == [*one[:2], "s1/IM100.png", one[2]]
    Path("s1/IM100.png").unlink()
    Path("s3").mkdir()
    assert expand(["s*"]) == expand(["s[12]/*"]) == [*one, *two]
    with pytest.raises(DataNotFound, match=r"s\[3\]: what matches holds no file"):
        expand(["s[3]"])


@pytest.mark.parametrize(
    ("acquired", "in_order"),
    [
        ([(2, 0), (1, 1), (2, 1), (1, 0), (1, 2), (2, 2)], "dbeacf"),  # two time points of three places
        ([(1, 0), (2, 1), (1, 2), (2, 3), (1, 4), (2, 5)], "abcdef"),  # two packs of slices
        ([(6, 0), (5, 1), (4, 2), (3, 3), (2, 4), (1, 5)], "abcdef"),  # a number a slice
        ([(6, 0), (5, 1), (4, 2), (3, 0), (2, 1), (1, 2)], "adbecf"),  # the same for two echoes
        ([(2, 0), (1, 1), (2, 1), (1, 0), (1, 2)], "adbce"),  # a slice is missing: it may as well be packs that overlap
        ([(2, None), (1, None), (1, None), (2, None)], "abcd"),  # places wiped: by InstanceNumber
    ],
)
def test_time_points_that_acquisitions_alone_tell_apart_follow_each_other(tmp_path, acquired, in_order):
    """Files a, b and on, by their acquisition's number and their place, in the order that they are asked about in."""
    flat = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SeriesInstanceUID": "1.2"}
    for number, (acquisition, z) in enumerate(acquired):
        place = {} if z is None else {"ImagePositionPatient": [0, 0, z]}
        content = dicom(**flat, **place, AcquisitionNumber=acquisition, InstanceNumber=number + 1)
        (tmp_path / "abcdef"[number]).write_bytes(content)
    assert "".join(Path(path).name for path in expand([str(tmp_path)])) == in_order


def test_an_instance_that_lies_twice_in_a_folder_counts_once(tmp_path, monkeypatch):
    """Two of three slices again under other names, stored otherwise; one of them in a folder of its own, where it is no copy."""
    monkeypatch.chdir(tmp_path)
    flat = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SeriesInstanceUID": "1.2"}
    for folder, name, number in [("s", f"IM{n}", n) for n in (1, 2, 3)] + [("s", "8", 3), ("s", "9", 1), ("t", "8", 3)]:
        Path(folder).mkdir(exist_ok=True)
        tags = {"SOPInstanceUID": f"1.2.{number}", "InstanceNumber": number, "ImagePositionPatient": [0, 0, number]}
        Path(folder, name).write_bytes(dicom(**flat, **tags, StationName=name))
    said = []
    assert expand(["s", "t"], said.append) == ["s/9", "s/IM2", "s/8", "t/8"]
    assert said == ["Left out, as copies of DICOM files beside them (SOPInstanceUID and pixels): 2."]
    assert expand(["s/IM*", "s/9"]) == ["s/IM1", "s/IM2", "s/IM3"]


@pytest.mark.parametrize("told_apart_by", ["ImagePositionPatient", "InstanceNumber", "SeriesInstanceUID", "no UID"])
def test_files_that_were_given_one_uid_and_differ_are_no_copies(tmp_path, told_apart_by):
    same = {
        "SOPInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2",
        "InstanceNumber": 1,
        "ImagePositionPatient": [0, 0, 0],
    }
    other = {"InstanceNumber": 2, "ImagePositionPatient": [0, 0, 1], "SeriesInstanceUID": "1.4"}
    for name in ("a", "b"):
        tags = same | ({told_apart_by: other[told_apart_by]} if name == "b" and told_apart_by in other else {})
        if told_apart_by == "no UID":
            del tags["SOPInstanceUID"]
        (tmp_path / name).write_bytes(dicom(ImageOrientationPatient=[1, 0, 0, 0, 1, 0], **tags))
    assert [Path(path).name for path in expand([str(tmp_path)])] == ["a", "b"]


def test_files_of_one_uid_with_other_pixels_are_no_copies(tmp_path):
    """A script wrote other pixels into one file again and again; a download stopped after half of them; the last is a copy."""
    same = {
        "SOPInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2",
        "InstanceNumber": 1,
        "ImagePositionPatient": [0, 0, 0],
    }
    files = [dicom(np.full((10, 10), grey, np.uint16), **same) for grey in (1, 2)]
    for name, content in zip("abcd", [files[0][:-100], *files, files[1]], strict=True):
        (tmp_path / name).write_bytes(content)
    said = []
    assert [Path(path).name for path in expand([str(tmp_path)], said.append)] == ["a", "b", "c"]
    assert said == ["Left out, as copies of DICOM files beside them (SOPInstanceUID and pixels): 1."]


def test_a_folders_files_are_opened_once_to_be_ordered(tmp_path, monkeypatch):
    flat = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SeriesInstanceUID": "1.2"}
    for name, z in (("a", 2), ("b.dcm", 1)):
        (tmp_path / name).write_bytes(dicom(**flat, ImagePositionPatient=[0, 0, z]))
    (tmp_path / "c.jpg").write_bytes(b"\xff\xd8\xff")
    opened, plain = Counter[str](), Path.open
    monkeypatch.setattr(Path, "open", lambda path, *how: opened.update([path.name]) or plain(path, *how))
    assert [Path(path).name for path in expand([str(tmp_path)])] == ["c.jpg", "b.dcm", "a"]
    assert opened == {"a": 1, "b.dcm": 1, "c.jpg": 1}


def test_a_file_that_cannot_say_its_series_belongs_to_the_only_one_of_its_folder():
    known = {"series": "0a1b2c3d"}
    records = [{**record("s/1.dcm", "glioma"), **known}, record("s/2.dcm"), {**record("s/3.dcm", "glioma"), **known}]
    (one,) = summaries(records)
    assert (one["slices"], one["answered"], one["longest_run"]) == (3, 2, 1)


@pytest.fixture
def files(tmp_path, monkeypatch) -> list[str]:
    """a.png, v.nii and z.png in the working folder; what they hold does not matter to a journal."""
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    for name in ("a.png", "v.nii", "z.png"):
        Path(name).write_text(name)
    return ["a.png", "v.nii", "z.png"]


RECORDS = [record("a.png", "glioma"), record("v.nii#1", "glioma"), record("v.nii#2"), record("z.png", "pituitary")]


def stopped(out: Path, files: list[str], after: int = 4, **more) -> Journal:
    """A journal with this many of `RECORDS`, the last file's not all there."""
    journal = Journal(out, ["package"], files, **more)
    answers = journal.follow(iter(RECORDS))
    for _ in range(after):
        next(answers)
    answers.close()
    return journal


def test_a_journal_goes_on_with_the_file_that_was_not_finished(files, tmp_path):
    """Stopped within the second file, in the middle of a line: its slices are asked for again, the first file's are kept."""
    out = tmp_path / "found.json"
    first = stopped(out, files, after=3)
    with first.file.open("a") as stream:
        stream.write('[["v.nii", "/v.nii", 5, 7], {"path": "v.nii#3", "sta')
    second = Journal(out, ["package"], files)
    assert (second.done, second.left) == (1, [1, 2])
    assert Journal(out, ["another package"], files).done == 0
    assert len(list(second.follow(iter(RECORDS[1:])))) == 3
    assert not out.exists()
    second.finish(as_json)
    assert json.loads(out.read_text()) == RECORDS
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "one"]


def test_a_journal_keeps_no_answer_for_the_same_names_in_another_folder(files, tmp_path, monkeypatch):
    stopped(tmp_path / "found.json", files)
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "two")
    for name in files:
        Path(name).write_text(name)
    assert Journal(tmp_path / "found.json", ["package"], files).left == [0, 1, 2]
    monkeypatch.chdir(tmp_path / "one")
    assert Journal(tmp_path / "found.json", ["package"], files).left == [2]


def test_a_journal_asks_again_about_replaced_files_and_keeps_the_rest_where_a_new_one_comes(files, tmp_path):
    """a.png is another file now and b.png is new: both are asked about, the volume's answers stay, in order of the files."""
    stopped(tmp_path / "found.json", files)
    Path("a.png").write_text("of another size")
    Path("b.png").write_text("new")
    longer = ["a.png", "b.png", "v.nii", "z.png"]
    again = Journal(tmp_path / "found.json", ["package"], longer)
    assert (again.done, again.left) == (1, [0, 1, 3])
    new = [record("a.png", "pituitary"), record("b.png"), record("z.png", "notumor")]
    done = [again.done for _ in again.follow(iter(new))]
    assert done == [1, 2, 3]
    assert again.records() == [new[0], new[1], *RECORDS[1:3], new[2]]

    whole = Journal(tmp_path / "found.json", ["package"], longer)
    assert whole.left == [3]
    earlier = Path("v.nii").stat()
    os.utime("v.nii", ns=(earlier.st_atime_ns, earlier.st_mtime_ns + 1000))
    assert Journal(tmp_path / "found.json", ["package"], longer).left == [2, 3]


def test_where_slices_are_numbered_nothing_is_kept_behind_a_file_that_is_asked_about(files, tmp_path):
    stopped(tmp_path / "found.json", files, numbered=True)
    assert Journal(tmp_path / "found.json", ["package"], files, numbered=True).left == [2]
    Path("b.png").write_text("new")
    again = Journal(tmp_path / "found.json", ["package"], ["a.png", "b.png", "v.nii", "z.png"], numbered=True)
    assert (again.left, again.records()) == ([1, 2, 3], RECORDS[:1])


def test_maps_that_were_written_are_no_slices_wherever_they_are_put(tmp_path, monkeypatch):
    """Overlays and masks, of a picture and of a volume: among slices, alone, named, and in class folders; others are slices."""
    monkeypatch.chdir(tmp_path)
    grid = next(read_slices("v.nii", volume(np.eye(4)))).place
    grey = np.zeros((40, 40), np.uint8)
    found = [
        Finding(one, "accepted", heat=grey, grey=grey, place=grid if one == "v#1" else None) for one in ("a", "v#1")
    ]
    named = list(with_maps(iter(found), Path("glioma"), Path("glioma/more")))
    assert [(one.heatmap, one.mask) for one in named] == [
        ("glioma/00001-a.png", "glioma/more/00001-a-mask.png"),
        ("glioma/00002-v_1.png", "glioma/more/00002-v-mask.nii.gz"),
    ]
    assert all(Path(name).exists() for one in named for name in (one.heatmap, one.mask))
    for name in ("b.png", "c.jfif", "d.nrrd", "e.nrrd", ".f.nrrd"):
        Path("glioma", name).write_text("")
    slices, said = ["glioma/b.png", "glioma/c.jfif"], []
    for asked in (["."], ["glioma"], ["glioma/**/*.[pj]*", "glioma/*.npy"], ["gliom*"], [*slices, named[0].heatmap]):
        assert sorted(expand(asked, said.append)) == slices
    assert said[:2] == [
        "Left out: 5 heat maps and masks that tumorscope wrote.",
        "Left out, of kinds that are not read: 2 .nrrd.",
    ]
    with pytest.raises(DataNotFound, match="nothing but heat maps and masks"):
        expand(["glioma/more"])
    planned, notices = plan(open_source(tmp_path), Layout.of(None), medical=True)
    assert [one.path for one in planned] == slices
    assert notices[0] == "5 files are heat maps or masks that tumorscope wrote; they were left out."
    assert [one.path for one in plan_pictures(open_source(tmp_path))[0]] == slices


@pytest.mark.parametrize(
    ("named", "error_rate", "line"),
    [
        (["pituitary"], 0.1, "a.png: accepted pituitary    45.0%"),
        (["glioma", "pituitary"], 0.1, "a.png: accepted pituitary    45.0%  or glioma"),
        (["glioma", "notumor"], 0.1, "a.png: accepted pituitary    45.0%  set: glioma, notumor"),
        ([], 0.1, "a.png: accepted pituitary    45.0%  no class is sure enough at 10 %"),
        ([], 0.01, "a.png: accepted pituitary    45.0%  no class is sure enough at 1 %"),
    ],
)
def test_a_line_says_the_set_as_it_is(named, error_rate, line):
    assert as_line({**record("a.png", "pituitary", 0.45), "prediction_set": named}, error_rate) == line


@pytest.mark.parametrize("said_of", ["scans/a.dcm", "a.dcm"])
def test_a_line_names_a_file_that_cannot_be_read_once(said_of):
    one = {**record("scans/a.dcm"), "status": "error", "reasons": [f"{said_of}: no pixels in it; slices. Give those."]}
    assert as_line(one, 0.1) == "scans/a.dcm: error    no pixels in it; slices. Give those"


def test_nothing_is_summed_up_of_files_that_cannot_be_read():
    several = [{**record(f"scans/{name}.dcm"), "status": "error"} for name in "ab"]
    assert summaries(several) == []
    assert [one["answered"] for one in summaries([*several, record("scans/c.dcm", "glioma")])] == [1]


def test_csv_has_a_line_a_slice_and_quotes_reasons():
    one = {**record("a,b.png"), "reasons": ["blurred, turned", "unusual"]}
    rows = list(csv.DictReader(io.StringIO(as_csv([one, record("c.png", "glioma")]))))
    assert rows[0]["path"] == "a,b.png"
    assert rows[0]["reasons"] == "blurred, turned; unusual"
    assert rows[0]["p_glioma"] == ""
    assert float(rows[1]["p_glioma"]) == pytest.approx(0.7)


def test_reasons_are_joined_without_a_full_stop_within():
    one = {**record("a.png"), "reasons": ["dark. It is no head in MR.", "laid out unlike it. It lies otherwise."]}
    told = "dark. It is no head in MR; laid out unlike it. It lies otherwise"
    assert as_line(one, 0.1).endswith(told)
    assert next(csv.DictReader(io.StringIO(as_csv([one]))))["reasons"] == told


def test_a_files_name_neither_breaks_the_table_nor_is_changed_in_csv(tmp_path):
    """A name with a newline, an escape sequence and a byte that is not UTF-8: a line in the table, the file's name in CSV."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/a\n\x1b[31mb\xff.png")
    Path(name).write_text("no image")
    table = CliRunner().invoke(app, ["predict", name])
    assert table.stdout.startswith(f"{tmp_path}/a\\n\\x1b[31mb\\udcff.png: error")
    assert table.stdout.count("\n") == 1
    as_text = CliRunner().invoke(app, ["predict", name, "--format", "csv"])
    assert CliRunner().invoke(app, ["predict", name, "--format", "csv", "--out", f"{tmp_path}/f.csv"]).exit_code == 1
    for content in (as_text.stdout_bytes, (tmp_path / "f.csv").read_bytes()):
        (row,) = csv.DictReader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline=""))
        assert row["path"] == name


def test_findings_take_the_place_of_no_slice_folder_or_pipe(tmp_path):
    """Said before anything is answered; a link to a file stays one, and the file is written."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "k").mkdir()
    for name in ("keep.png", "old.csv"):
        (tmp_path / name).write_text("as it was")
    (tmp_path / "link.csv").symlink_to("old.csv")
    (tmp_path / "link.png").symlink_to("keep.png")
    ask = ["predict", str(tmp_path / "keep.png")]
    for more, says in (
        (["--out", "keep.png"], "a file that is read"),
        (["--out", "link.png"], "a file that is read"),
        (["--out", "k"], "a folder, where a file"),
        (["--out", "pipe"], "no regular file"),
        (["--heatmaps", "keep.png"], "a file, where a folder"),
        (["--masks", "old.csv"], "a file, where a folder"),
    ):
        refused = CliRunner().invoke(app, [*ask, more[0], str(tmp_path / more[1])])
        assert isinstance(refused.exception, TumorscopeError)
        assert says in str(refused.exception)
    assert (tmp_path / "keep.png").read_text() == "as it was"
    assert (tmp_path / "pipe").is_fifo()
    CliRunner().invoke(app, [*ask, "--format", "csv", "--out", str(tmp_path / "link.csv")])
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "old.csv").read_text().startswith("path,status")


def test_only_a_place_among_the_caches_is_told_how_to_move_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    for name, told in (("home", True), ("other", False)):
        (tmp_path / name).write_text("")
        with pytest.raises(TumorscopeError) as said:
            write_text(tmp_path / name / "a.csv", "")
        assert ("TUMORSCOPE_HOME" in str(said.value)) is told


@pytest.fixture
def folder(made, tmp_path) -> Path:
    source = made[1].source()
    (tmp_path / "in").mkdir()
    for number, path in enumerate(made[1].table["path"][:6]):
        (tmp_path / "in" / f"{number}.png").write_bytes(source.read(path))
    (tmp_path / "in" / "5a.jpg").write_text("no image")
    return tmp_path / "in"


def test_a_killed_run_over_a_folder_goes_on_and_gives_what_one_run_gives(made, folder, tmp_path, monkeypatch):
    runner, whole, out = CliRunner(), tmp_path / "whole.csv", tmp_path / "out.csv"
    ask = ["predict", str(folder), "--model", str(made[0]), "--format", "csv", "--heatmaps", str(tmp_path / "heat")]
    assert runner.invoke(app, [*ask, "--out", str(whole)]).exit_code == 1
    maps = sorted(item.name for item in (tmp_path / "heat").iterdir())
    named = [row["heatmap"] for row in csv.DictReader(whole.open()) if row["heatmap"]]
    assert sorted(Path(name).name for name in named) == [name for name in maps if name.endswith(".png")]
    predict = Classifier.predict
    asked: list[int] = []

    def stopping(self, items, **more):
        asked.append(len(items))
        for number, one in enumerate(predict(self, items, **more)):
            if len(asked) == 1 and number == 4:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(Classifier, "predict", stopping)
    stopped = runner.invoke(app, [*ask, "--out", str(out)])
    assert stopped.exit_code == 130
    assert "What was answered is kept: the same command goes on." in stopped.stderr
    assert not out.exists()
    other = runner.invoke(app, ["predict", str(folder / "0.png"), "--model", str(made[0]), "--out", str(out)])
    (kept,) = tmp_path.glob(".out.csv.*.part")
    assert f"{kept}: kept from a call with other options." in other.stderr.replace("\n", "")
    out.unlink()
    after = runner.invoke(app, [*ask, "--out", str(out)])
    assert after.exit_code == 1
    assert "Going on after 3 of 7 files." in after.stderr
    assert "1 error" in after.stderr
    assert asked == [7, 1, 4]
    one, other = (list(csv.DictReader(file.open())) for file in (out, whole))
    chances = [[float(row.pop(f"p_{name}") or -1) for row in rows for name in CLASSES] for rows in (one, other)]
    assert one == other
    assert chances[0] == pytest.approx(
        chances[1], abs=2e-6
    )  # its batches are others, which may change the last decimal
    assert sorted(item.name for item in (tmp_path / "heat").iterdir()) == maps


def test_answers_of_slices_that_were_read_otherwise_are_not_gone_on_with(files, tmp_path, monkeypatch):
    asked: list[int] = []

    def stopping(self, items, names, **_):
        asked.append(len(items))
        yield from (Finding(name, "refused") for name in names[:2])
        if len(asked) < 3:
            raise KeyboardInterrupt
        yield from (Finding(name, "refused") for name in names[2:])

    monkeypatch.setattr(Classifier, "predict", stopping)
    ask = ["predict", *files, "--out", str(tmp_path / "out.csv")]
    with monkeypatch.context() as earlier:
        earlier.setattr("tumorscope.inference.reading.READING", 0)
        assert CliRunner().invoke(app, ask).exit_code == 130
    for code in (130, 0):
        assert CliRunner().invoke(app, ask).exit_code == code
    assert asked == [3, 3, 2]


def test_standard_input_goes_to_a_file_too(made, folder, tmp_path):
    content = (folder / "0.png").read_bytes()
    ask = ["predict", "-", "--model", str(made[0]), "--format", "json", "--out", str(tmp_path / "out.json")]
    answer = CliRunner().invoke(app, ask, input=content)
    assert answer.exit_code == 0, answer.output
    (one,) = json.loads((tmp_path / "out.json").read_text())
    assert one["path"] == "-"
    assert one["label"]


def test_a_place_that_cannot_be_written_is_said(made, folder, tmp_path):
    (tmp_path / "file").write_text("")
    answer = CliRunner().invoke(
        app, ["predict", str(folder), "--model", str(made[0]), "--out", str(tmp_path / "file" / "out.csv")]
    )
    assert answer.exit_code == 2 or answer.exit_code == 1
    assert "Traceback" not in answer.output


def matlab(values: np.ndarray, name: str = "cjdata/image") -> bytes:
    """A file of the figshare set: the image, and a patient."""
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        file[name] = values.T  # columns as rows
        file["cjdata/PID"] = np.array([[49], [50]], np.uint16)
    return b"MATLAB 7.3 MAT-file" + buffer.getvalue()[19:]


def test_a_figshare_matlab_file_is_read_as_matlab_shows_it():
    from tumorscope.inference.reading import read_slices

    values = np.arange(40 * 50, dtype=np.int16).reshape(40, 50) + 100
    content = matlab(values)
    (one,) = read_slices("1.mat", content)
    assert one.grey.shape == (40, 50)
    np.testing.assert_allclose(one.grey, (values - 100) * (255 / (40 * 50 - 1)), atol=0.51)
    Image.fromarray(one.grey)
    with pytest.raises(InputRejected, match=r"MATLAB 7\.3 or newer"):
        list(read_slices("1.mat", b"MATLAB 5.0 MAT-file" + bytes(600)))
    with pytest.raises(InputRejected, match="not a readable MATLAB"):
        list(read_slices("1.mat", content[:900]))
    with pytest.raises(InputRejected, match=r"a matrix cjdata\.image"):
        list(read_slices("1.mat", matlab(np.zeros((3, 3, 3)), "volume")))
