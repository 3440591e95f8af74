"""The figshare set in every form it comes in, matching slices to it, and patient ids from names and columns."""

import gc
import io
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

from tumorscope.audit.patients import link, mask_of, patients_from, read_figshare
from tumorscope.data.decode import shrink
from tumorscope.errors import DataNotFound, InputRejected

SIDE = 128
#: id: (label number, patient, author's fold)
SLICES = {1: (1, "MR040240", 1), 2: (2, "MR040240B", 2), 3: (3, "100360", 3), 4: (2, "77", 1)}


def pixels(figshare: int) -> np.ndarray:
    """A blurred pattern of its own for each slice, 0 to 255, high and low both there."""
    rows = np.random.default_rng(figshare).integers(0, 256, (16, 16), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(rows).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64)
    return np.round((grey - grey.min()) * 255 / (grey.max() - grey.min())).astype(np.uint8)


def mask(figshare: int) -> np.ndarray:
    """A block in the upper left corner, further down for a higher id."""
    found = np.zeros((SIDE, SIDE), bool)
    found[8 * figshare : 8 * figshare + 16, 8:40] = True
    return found


def mat(figshare: int) -> bytes:
    """As published: MATLAB v7.3, matrices by columns, text as character codes, 16-bit pixels."""
    label, patient, _ = SLICES[figshare]
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        data = file.create_group("cjdata")
        data["label"] = np.array([[float(label)]])
        data["PID"] = np.array([[ord(letter)] for letter in patient], np.uint16)
        data["image"] = (pixels(figshare).astype(np.int16) * 10 + 100).T
        data["tumorMask"] = mask(figshare).astype(np.uint8).T
    return buffer.getvalue()


def folds() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        file["cvind"] = np.array([[float(fold)] for _, _, fold in SLICES.values()])
    content = bytearray(buffer.getvalue())
    content[:10] = b"MATLAB 7.3"
    return bytes(content)


def png(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, quality=95)
    return buffer.getvalue()


@pytest.fixture(params=["folder", "zip", "zips in a folder", "zip of zips", "repacked"])
def figshare(request, tmp_path) -> Path:
    """The same four slices in every form."""
    files = {f"{n}.mat": mat(n) for n in SLICES} | {"cvind.mat": folds()}
    target = tmp_path / "figshare"
    match request.param:
        case "folder":
            target.mkdir()
            for name, content in files.items():
                (target / name).write_bytes(content)
            return target
        case "zip":
            return zipped(tmp_path / "figshare.zip", files)
        case "zips in a folder":
            target.mkdir()
            zipped(target / "one.zip", {name: files[name] for name in ("1.mat", "2.mat", "cvind.mat")})
            zipped(target / "two.zip", {name: files[name] for name in ("3.mat", "4.mat")})
            return target
        case "zip of zips":
            inner = {"one.zip": ("1.mat", "2.mat", "cvind.mat"), "two.zip": ("3.mat", "4.mat")}
            for name, members in inner.items():
                zipped(tmp_path / name, {member: files[member] for member in members})
            return zipped(tmp_path / "figshare.zip", {name: (tmp_path / name).read_bytes() for name in inner})
        case _:
            rows = [f"{n},{label},{patient},{fold}" for n, (label, patient, fold) in SLICES.items()]
            images = {f"images/{n}.jpg": png(pixels(n), "JPEG") for n in SLICES}
            masks = {f"masks/{n}.png": png(mask(n).astype(np.uint8) * 255) for n in SLICES}
            metadata = "\n".join(["id,label,pid,fold", *rows]).encode()
            return zipped(tmp_path / "figshare.zip", {"metadata.csv": metadata, **images, **masks})


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_every_form_gives_the_same_table_pixels_and_masks(figshare):
    found = read_figshare(figshare)
    assert found.table["id"].tolist() == [1, 2, 3, 4]
    assert found.table["label"].tolist() == ["meningioma", "glioma", "pituitary", "glioma"]
    assert found.table["patient"].tolist() == ["MR040240", "MR040240B", "100360", "77"]
    assert found.table["patient_group"].tolist() == ["MR040240", "MR040240", "100360", "77"]
    assert found.table["fold"].tolist() == [1, 2, 3, 1]
    for number in SLICES:
        assert np.abs(found.image(number).astype(int) - pixels(number)).mean() < 3
        np.testing.assert_array_equal(found.mask(number), mask(number))


def looks(slices: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    small, confirm = (np.stack([shrink(np.ascontiguousarray(one), size) for one in slices]) for size in (32, 128))
    return small, confirm


def test_slices_are_matched_with_their_turn_their_mask_lies_right_and_other_labels_are_told(tmp_path):
    path = tmp_path / "set"
    path.mkdir()
    for number in SLICES:
        (path / f"{number}.mat").write_bytes(mat(number))
    known = read_figshare(path)
    ours = [np.fliplr(pixels(2)), pixels(9), np.flipud(pixels(3))]
    table = pd.DataFrame({"path": ["a", "b", "c"], "label": ["glioma", "notumor", "meningioma"]})
    found = link(table, *looks(ours), known, *known.pixels(32, 128))
    assert found["row"].tolist() == [0, 2]
    assert found["figshare"].tolist() == [2, 3]
    assert found["turn"].tolist() == ["mirror", "flip"]
    assert found["patient"].tolist() == ["MR040240B", "100360"]
    assert found["conflict"].tolist() == [False, True]
    np.testing.assert_array_equal(mask_of(known, found.iloc[0]) > 0, np.fliplr(mask(2)))
    np.testing.assert_array_equal(mask_of(known, found.iloc[1]) > 0, np.flipud(mask(3)))


def test_what_is_no_figshare_set_is_refused_with_what_was_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFound, match="neither metadata"):
        read_figshare(tmp_path / "empty")
    (tmp_path / "empty" / "1.mat").write_bytes(b"no matrix")
    with pytest.raises(InputRejected, match=r"MATLAB v7\.3"):
        read_figshare(tmp_path / "empty")


NAMES = pd.DataFrame({"path": ["glioma/P1_a.png", "glioma/P2_b.png", "notumor/x.png"], "who": ["A", "", "B"]})


def test_patients_come_from_names_or_from_a_column():
    assert patients_from(NAMES, pattern=r"(P\d+)_").tolist() == ["P1", "P2", ""]
    assert patients_from(NAMES, pattern=r"x(?P<patient>\.)|never").tolist() == ["", "", "."]
    assert patients_from(NAMES, pattern=r"^(\w+)/").tolist() == ["glioma", "glioma", "notumor"]
    assert patients_from(NAMES, column="who").tolist() == ["A", "", "B"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pattern": r"Q(\d)"}, "finds no id in 3 files such as P1_a.png"),
        ({"pattern": r"P\d"}, "needs a group"),
        ({"pattern": "("}, "not a regular expression"),
        ({"column": "nobody"}, "one of path, who"),
        ({}, "exactly one of them"),
    ],
)
def test_ids_that_cannot_be_had_are_refused_with_the_reason(options, said):
    with pytest.raises(InputRejected, match=said):
        patients_from(NAMES, **options)


def folder_of_mats(path: Path) -> Path:
    path.mkdir()
    for number in SLICES:
        (path / f"{number}.mat").write_bytes(mat(number))
    return path


def test_folds_in_the_older_matlab_format_are_read_and_without_any_they_are_unknown(tmp_path):
    path = folder_of_mats(tmp_path / "set")
    assert read_figshare(path).table["fold"].tolist() == [0, 0, 0, 0]
    savemat(path / "cvind.mat", {"cvind": np.array([[5, 4, 2]])})  # none for the fourth
    assert read_figshare(path).table["fold"].tolist() == [5, 4, 2, 0]
    savemat(path / "cvind.mat", {"other": np.array([[5, 4, 2]])})
    with pytest.raises(InputRejected, match="cvind needed"):
        read_figshare(path)


def test_sixteen_bits_are_stretched_from_the_lowest_to_the_highest_value_and_one_value_is_black(tmp_path):
    path = folder_of_mats(tmp_path / "set")
    values = np.array([[300, 380], [500, 1300]], np.int16)
    for number, array in ((1, values), (2, np.full((2, 2), 700, np.int16))):
        with h5py.File(path / f"{number}.mat", "a") as file:
            del file["cjdata/image"]
            file["cjdata/image"] = array.T
    found = read_figshare(path)
    assert found.image(1).tolist() == [[0, 20], [51, 255]]  # 80 x 0.255 is 20.4, 200 x 0.255 is 51
    assert found.image(2).tolist() == [[0, 0], [0, 0]]


def test_a_mask_follows_a_half_turn(tmp_path):
    known = read_figshare(folder_of_mats(tmp_path / "set"))
    match = pd.Series({"figshare": 3, "turn": "half_turn"})
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[SIDE - 40 : SIDE - 24, SIDE - 40 : SIDE - 8] = 255  # rows 24 to 40, columns 8 to 40
    np.testing.assert_array_equal(mask_of(known, match), expected)


def test_what_was_copied_out_of_a_zip_of_zips_goes_with_the_set_and_without_a_warning(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    inner = zipped(tmp_path / "inner.zip", {f"{n}.mat": mat(n) for n in SLICES})
    found = read_figshare(zipped(tmp_path / "outer.zip", {"inner.zip": inner.read_bytes()}))
    assert found.image(1).shape == (SIDE, SIDE)
    assert len(list((tmp_path / "copies").iterdir())) == 1
    del found
    gc.collect()
    assert not list((tmp_path / "copies").iterdir())
    assert not [one for one in recwarn if "cleaning up" in str(one.message)]


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ("id,label\n1,1\n", "metadata.csv: no column pid; id, label and pid needed"),
        ("id,label,pid\n1,4,P\n", "figshare label: 4; 1, 2 or 3"),
        ("id,label,pid\none,1,P\n", "id must be whole numbers"),
    ],
)
def test_a_repacked_set_with_a_damaged_table_is_refused_with_what_is_wrong(tmp_path, metadata, says):
    (tmp_path / "metadata.csv").write_text(metadata)
    with pytest.raises(InputRejected, match=says):
        read_figshare(tmp_path)


def test_an_image_that_a_repacked_set_names_and_lacks_is_refused_by_name(tmp_path):
    (tmp_path / "metadata.csv").write_text("id,label,pid\n7,1,007\n")
    found = read_figshare(tmp_path)
    assert found.table[["id", "patient", "fold"]].to_numpy().tolist() == [[7, "007", 0]]
    with pytest.raises(InputRejected, match=r"images/7\.jpg: missing"):
        found.image(7)


def test_a_pattern_with_a_slash_sees_folders_and_one_without_sees_the_name_alone():
    table = pd.DataFrame({"path": ["P1/a/P7.png", "P2/b/x.png"]})
    assert patients_from(table, pattern=r"^(P\d+)/").tolist() == ["P1", "P2"]
    assert patients_from(table, pattern=r"(P\d+)").tolist() == ["P7", ""]
