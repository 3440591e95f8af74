"""Findings: every input gets an answer, good or bad; formats, heat maps, and a thousand broken files."""

import csv
import gzip
import io
import json
import re
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from pydicom.data import get_testdata_file
from sklearn.metrics import roc_auc_score
from tests.inference.test_reading import CROSSED, dicom, volume
from typer.testing import CliRunner

from tumorscope.cli.main import app
from tumorscope.data.decode import as_input, crop_to_head
from tumorscope.errors import InputRejected
from tumorscope.inference.batch import with_maps
from tumorscope.inference.classifier import BATCH, Classifier, Finding
from tumorscope.inference.gate import TURNS, Likeness, _beyond, before, bright_sides, ghosting, layout, measures, turned
from tumorscope.inference.reading import read_slices
from tumorscope.inference.reading.slices import Slice
from tumorscope.labels import CLASSES

STATUSES = {"accepted", "warned", "refused", "error"}


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def classifier(made):
    return Classifier.load(made[0], threads=1)


@pytest.fixture(scope="module")
def heads(made):
    """File bytes of six phantom slices."""
    source = made[1].source()
    return [source.read(path) for path in made[1].table["path"][::16]]


def test_a_finding_says_what_it_must(classifier, heads):
    for one in classifier.predict(heads):
        plain = one.plain()
        assert {"path", "status", "label", "probabilities", "prediction_set", "reasons"} <= plain.keys()
        assert plain["status"] in STATUSES - {"error"}
        if plain["status"] != "refused":
            assert sum(plain["probabilities"].values()) == pytest.approx(1)
            assert max(plain["probabilities"], key=plain["probabilities"].get) == plain["label"]
        if plain["status"] != "accepted":
            assert plain["reasons"]


def test_answers_do_not_depend_on_what_stands_beside(classifier, heads):
    together = list(classifier.predict(heads))
    for content, one in zip(heads, together, strict=True):
        (alone,) = classifier.predict([content])
        assert (alone.status, alone.label) == (one.status, one.label)
        if one.probabilities:
            assert list(alone.probabilities.values()) == pytest.approx(list(one.probabilities.values()), abs=1e-5)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.full((100, 100), 90, np.uint8), "blank or nearly so"),
        (np.random.default_rng(0).integers(0, 256, (20, 20)).astype(np.uint8), "at least 32 px"),
        (np.random.default_rng(0).integers(0, 256, (400, 100)).astype(np.uint8), "at most 1 to 3"),
        (np.random.default_rng(0).integers(0, 256, (100, 100, 3)).astype(np.uint8), "Give a grey MR slice"),
        (np.random.default_rng(0).integers(0, 256, (100, 100)).astype(np.uint8), "does not look like a head"),
    ],
)
def test_what_is_no_slice_is_refused_with_the_reason(classifier, pixels, says):
    (one,) = classifier.predict([encoded(pixels)])
    assert one.status == "refused"
    assert one.label == ""
    assert says in " ".join(one.reasons)


def test_a_value_beyond_a_limit_does_not_read_as_the_limit():
    """With two decimals both were 0.94."""
    said = _beyond("symmetry", 0.9401, [0.0073, 0.9382])
    assert said == "left-right symmetry 0.940; the limits are 0.007 to 0.938"


def test_both_limits_of_a_side_name_the_same_least_side(classifier):
    """10 px cannot be read and 16 px are: neither is answered below 32, and the first refusal says so already."""
    random = np.random.default_rng(0)
    for shape in ((512, 10), (16, 16)):
        (one,) = classifier.predict([encoded(random.integers(0, 256, shape).astype(np.uint8))])
        assert "32" in one.reasons[0]


def same(one: Finding, other: Finding) -> bool:
    """Whether two findings answer alike, but for the last bits, which may differ from one size of a batch to another."""
    return (one.status, one.label) == (other.status, other.label) and one.probabilities == pytest.approx(
        other.probabilities, abs=1e-6
    )


def test_maps_of_a_file_with_the_longest_of_names_are_written(classifier, heads, tmp_path):
    path = tmp_path / f"{'a' * 251}.png"  # 255 is what file systems take
    path.write_bytes(heads[0])
    (one,) = with_maps(classifier.predict([path], heat=True), tmp_path / "heat", tmp_path / "masks")
    assert Path(one.heatmap).name == f"00001-{'a' * 196}.png.png"
    assert all(Path(file).is_file() for file in (one.heatmap, one.mask))


def test_arrays_paths_and_bytes_give_the_same_answer(classifier, heads, tmp_path):
    (tmp_path / "a.png").write_bytes(heads[0])
    array = np.asarray(Image.open(io.BytesIO(heads[0])).convert("L"))
    by_path, by_bytes, by_array = classifier.predict([tmp_path / "a.png", heads[0], array])
    assert same(by_path, by_bytes)
    assert same(by_path, by_array)
    (wrong,) = classifier.predict([array.astype(float)])
    assert wrong.status == "error"
    assert "grey uint8" in wrong.reasons[0]


def test_a_single_item_needs_no_list(classifier, heads, tmp_path):
    """A path is no list of characters, and a slice no list of rows; a stack of two slices is two."""
    file = tmp_path / "a.png"
    file.write_bytes(heads[0])
    array = np.asarray(Image.open(file).convert("L"))
    (listed,) = classifier.predict([array])
    for item in (str(file), file, heads[0], array):
        (alone,) = classifier.predict(item)
        assert alone.probabilities == listed.probabilities
    assert [one.status for one in classifier.predict(np.stack([array] * 2))] == [listed.status] * 2
    (coloured,) = classifier.predict(np.dstack([array] * 3))
    assert "grey uint8" in coloured.reasons[0]


def test_what_cannot_be_read_says_so_and_the_others_are_answered(classifier, heads, tmp_path):
    image = Image.open(io.BytesIO(heads[0]))
    array = np.asarray(image.convert("L"))
    bad = [None, image, array.astype(np.uint16), array[None], tmp_path, "a\0b", 7]
    found = list(classifier.predict([array, *bad, bytearray(heads[0]), memoryview(heads[0])]))
    assert [one.status for one in found[1:8]] == ["error"] * 7
    assert [one.reasons[0].partition(": ")[2].partition(";")[0] for one in found[1:6]] == [
        *("NoneType", type(image).__name__, f"uint16 {array.shape}", f"uint8 {array[None].shape}", "a folder"),
    ]
    alone = [one for kind in (bytearray, memoryview) for one in classifier.predict(kind(heads[0]))]
    assert len(alone) == 2
    assert all(same(one, found[0]) for one in (*found[8:], *alone))
    for alone in (None, image, io.BytesIO(heads[0])):
        assert [one.status for one in classifier.predict(alone)] == ["error"]


def test_options_that_cannot_be_are_told_before_the_first_answer(classifier, heads):
    for options, says in (
        ({"plane": "oblique"}, "plane: 'oblique'; sagittal or coronal or axial"),
        ({"error_rate": "0.1"}, "error rate: '0.1'; the package knows 0.01"),
        ({"error_rate": 0.3}, "error rate: 0.3"),
        ({"names": ["one"]}, "names: 1; 2, one an item"),
    ):
        with pytest.raises(InputRejected, match=says):
            classifier.predict(heads[:2], **options)
    assert [one.path for one in classifier.predict(heads[0], names="scan")] == ["scan"]
    assert [one.path for one in classifier.predict(iter(heads[:2]), names=["scan"])] == ["scan", "item-2"]


def test_long_inputs_are_read_ahead_in_order_and_no_further(classifier, heads, monkeypatch):
    """The second batch is read while the first is answered, and no third: folders of any length fit into memory."""
    taken: list[int] = []
    answer = classifier._answer

    def slowly(waiting, *options):
        deadline = time.monotonic() + 30
        while len(taken) < 2 * BATCH and time.monotonic() < deadline:
            time.sleep(0.01)
        return answer(waiting, *options)

    monkeypatch.setattr(classifier, "_answer", slowly)

    def many():
        for number in range(150):
            taken.append(number)
            yield heads[number % len(heads)]

    answers = classifier.predict(many(), names=[str(number) for number in range(150)])
    first = next(answers)
    assert (first.path, len(taken)) == ("0", 2 * BATCH)
    monkeypatch.undo()
    rest = list(answers)
    assert [one.path for one in rest] == [str(number) for number in range(1, 150)]
    assert {one.label for one in rest[5::6]} == {first.label}

    def broken():
        yield heads[0]
        raise RuntimeError("the disc is gone")

    with pytest.raises(RuntimeError, match="the disc is gone"):
        list(classifier.predict(broken()))


def test_who_stops_early_waits_for_no_item_that_does_not_come(classifier, heads):
    released = threading.Event()

    def live():
        yield from (heads[number % len(heads)] for number in range(BATCH + 1))
        released.wait(60)

    answers = classifier.predict(live())
    next(answers)
    started = time.monotonic()
    answers.close()
    waited = time.monotonic() - started
    released.set()
    assert waited < 20


def test_heat_lies_over_the_slice(classifier, heads):
    answered = [one for one in classifier.predict(heads, heat=True) if one.probabilities]
    assert answered
    for one in answered:
        assert one.heat.shape == one.grey.shape
        assert one.heat.dtype == np.uint8
        assert one.highest.any()
        assert (one.heat[one.highest] == one.heat.max()).all()


def test_the_command_prints_each_format_and_goes_on_after_bad_files(made, heads, tmp_path, tmp_path_factory):
    heat = tmp_path_factory.mktemp("heat")
    for number, content in enumerate(heads):
        (tmp_path / f"{number}.png").write_bytes(content)
    (tmp_path / "bad.png").write_text("no image")
    ask = ["predict", str(tmp_path), "--model", str(made[0])]
    runner = CliRunner()
    as_json = runner.invoke(app, [*ask, "--format", "json", "--heatmaps", str(heat)])
    assert as_json.exit_code == 1  # one file was bad
    found = json.loads(as_json.stdout)
    assert len(found) == 7
    assert [one["status"] for one in found if one["path"].endswith("bad.png")] == ["error"]
    answered = sum(bool(one["probabilities"]) for one in found)
    assert len(list(heat.glob("*.png"))) == len(list(heat.glob("*.npy"))) == answered
    as_csv = runner.invoke(app, [*ask, "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert len(rows) == 7
    assert {f"p_{name}" for name in CLASSES} <= rows[0].keys()
    table = runner.invoke(app, ask)
    assert table.stdout.count("\n") == 7
    good = runner.invoke(app, ["predict", str(tmp_path / "[0-9].png"), "--model", str(made[0])])
    assert good.exit_code == 0


def off_centre(height: int, width: int) -> np.ndarray:
    """A head with a bright spot to the upper left of its middle, in a slice that is not square, uint8."""
    rows, columns = np.mgrid[:height, :width]
    radius = np.hypot((rows - height * 0.55) / (height * 0.35), (columns - width * 0.45) / (width * 0.4))
    spot = np.hypot((rows - height * 0.4) / height, (columns - width * 0.3) / width) < 0.07
    return np.where(spot, 250, np.where(radius < 1, 90, 0)).astype(np.uint8)


def slices_that_are_not_square():
    tall, wide = off_centre(240, 130), off_centre(120, 220)
    header = {"PixelSpacing": [0.5, 1.0], "WindowCenter": 128, "WindowWidth": 256}
    image = nibabel.Nifti1Image(np.dstack([wide.T, wide.T]).astype(np.int16), np.diag([1.5, 1.0, 4.0, 1.0]))
    yield tall
    yield next(read_slices("a.dcm", dicom(wide, **header))).grey
    yield next(read_slices("a.nii", image.to_bytes())).grey


@pytest.mark.parametrize("grey", list(slices_that_are_not_square()), ids=["picture", "dicom", "nifti"])
def test_a_region_lies_on_the_slice_where_the_network_saw_it(grey):
    """A map that is tumour just where the network's own input is bright comes back over the bright spot of the slice."""
    classifier = Classifier.load(threads=1)
    assert abs(grey.shape[0] / grey.shape[1] - 1) > 0.2
    size = classifier.package.card["input"]["size"]
    bright = as_input(crop_to_head(grey), size) > 180
    maps = np.zeros((4, size, size), np.float32)
    maps[CLASSES.index("notumor")] = np.where(bright, -9, 9)
    heat, highest = classifier._heat(maps, 0, grey)
    found, spot = heat > 127, grey > 180
    assert spot.sum() > 100
    assert 2 * (found & spot).sum() / (found.sum() + spot.sum()) > 0.85
    assert spot[highest].mean() > 0.85


def test_the_highest_pixel_is_told_where_sure_pixels_share_the_maps_highest_level():
    """Log odds of 20 over a block and 30 at its corner: both are 255 in the map, and one in a float32 probability."""
    classifier = Classifier.load(threads=1)
    size = classifier.package.card["input"]["size"]
    maps = np.full((4, size, size), -9, np.float32)
    maps[CLASSES.index("notumor")] = 0
    maps[0, 40:60, 40:60], maps[0, 58, 41] = 20, 30
    grey = np.full((2 * size, 2 * size), 90, np.uint8)  # no border: the network sees the whole slice
    heat, highest = classifier._heat(maps, 0, grey)
    assert (heat == 255).sum() > 1000
    assert {(row // 2, column // 2) for row, column in np.argwhere(highest)} == {(58, 41)}
    shown, everywhere = classifier._heat(np.zeros((4, size, size), np.float32), 0, grey)
    assert everywhere.all()  # all pixels are equal, and so are all the highest
    assert len(np.unique(shown)) == 1


def test_what_the_network_did_not_see_is_not_the_highest():
    """A head in a dark border, and a map that is far below even odds everywhere: log odds of -9, beside which 0 would be high."""
    classifier = Classifier.load(threads=1)
    size = classifier.package.card["input"]["size"]
    grey = np.zeros((200, 300), np.uint8)
    grey[50:150, 100:200] = 120
    maps = np.full((4, size, size), -9, np.float32)
    maps[CLASSES.index("notumor")] = 0
    _, highest = classifier._heat(maps, 0, grey)
    assert highest.any()
    assert not highest[:, :50].any()
    assert not highest[:, 250:].any()


WITHOUT_EXTRAS = """
import sys
for name in (
    *("torch", "sklearn", "scipy", "matplotlib", "timm", "lightning_fabric", "optuna", "h5py", "jinja2"),
    *("pylibjpeg", "libjpeg", "openjpeg", "rle"),
):
    sys.modules[name] = None  # importing it fails, as where it is not installed
from tumorscope.cli.main import main
main()
"""


def test_the_base_installation_answers_offline(heads, tmp_path):
    (tmp_path / "head.png").write_bytes(heads[0])
    ask = [sys.executable, "-c", WITHOUT_EXTRAS, "predict", str(tmp_path / "head.png"), "--format", "json"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)
    assert one["status"] in STATUSES - {"error"}


def test_the_base_installation_reads_dicom_and_nifti(tmp_path):
    """Both readers are dependencies; of compressions it knows some, and says what the others need."""
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {"nibabel", "pydicom"} <= {one.partition(">")[0] for one in declared}
    names = ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm")
    files = [str(get_testdata_file(name)) for name in names]
    nibabel.Nifti1Image(np.zeros((40, 40, 1), np.int16), np.eye(4)).to_filename(tmp_path / "v.nii")
    ask = [sys.executable, "-c", WITHOUT_EXTRAS, "predict", *files, str(tmp_path / "v.nii"), "--format", "json"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert [one["status"] == "error" for one in found] == [False, False, False, True, False]
    assert "tumorscope[medical]" in found[3]["reasons"][0]


def test_the_base_installation_scores_a_package(made, tmp_path):
    ask = [sys.executable, "-c", WITHOUT_EXTRAS, "evaluate", "--package", str(made[0]), "--data", str(made[1].origin)]
    done = subprocess.run([*ask, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "scores.json").read_text())
    assert result["trained on this"]
    assert result["scores"]["n"] == len(made[1].table) - result["status"].get("refused", 0)
    told = pd.read_csv(tmp_path / "findings.csv").dropna(subset="p_notumor")
    auc = roc_auc_score(told["label"] != "notumor", 1 - told["p_notumor"])
    assert result["presence"]["auc"] == pytest.approx(auc)


def test_a_head_that_lies_wrongly_is_told_from_one_that_does_not():
    """One known layout, without any symmetry: as it lies a head is at distance 0, and every other way it is not."""
    grid = np.arange(144.0).reshape(12, 12)
    known = Likeness(grid.reshape(1, 144), np.eye(144))
    wrong = [np.rot90(grid, 3), np.rot90(grid, 1), np.rot90(grid, 2), grid[::-1]]
    ratios, ways = turned(np.stack([one.ravel() for one in (grid + 0.1, *wrong)]), known)
    assert ratios[0] < 0.01
    assert (ratios[1:] > 100).all()
    assert [TURNS[way] for way in ways[1:]] == list(TURNS)


def test_a_finding_of_a_file_whose_tags_are_doubtful_is_warned(classifier, heads):
    pixels = np.asarray(Image.open(io.BytesIO(heads[0])).convert("L")).astype(np.uint16)
    window = {"WindowCenter": 128, "WindowWidth": 256, "BodyPartExamined": ""}
    plain, knee = classifier.predict([dicom(pixels, **(window | more)) for more in ({}, {"BodyPartExamined": "KNEE"})])
    assert (knee.status, knee.label) == ("warned", plain.label)
    assert knee.reasons == ("BodyPartExamined KNEE: the model knows heads alone", *plain.reasons)


def test_a_bright_page_or_frame_around_a_refused_slice_is_named():
    """A head of 50 x 40: without a page no side is bright; a strip at the left is one, a frame of one pixel is four."""
    grey = np.zeros((80, 70), np.uint8)
    grey[15:65, 15:55] = np.where(np.hypot(*np.mgrid[-1:1:50j, -1:1:40j]) < 1, 200, 0)
    assert bright_sides(grey) == []
    strip, frame, page = grey.copy(), grey.copy(), np.full((200, 200), 255, np.uint8)
    strip[:, :4] = 255
    frame[5, 5:65] = frame[75, 5:65] = frame[5:76, 5] = frame[5:76, 64] = 255
    page[60:140, 60:130] = grey
    sides = ["top", "bottom", "left side", "right side"]
    assert [bright_sides(one) for one in (strip, frame, page)] == [["left side"], sides, sides]
    ours = Classifier.load(threads=1)
    (refused,) = ours.predict(page)
    assert refused.status == "refused"
    said = "bright from end to end at its top, bottom, left side, right side; known slices are dark around the head. Crop a page"
    assert refused.reasons[-1].startswith(said)
    noise = np.random.default_rng(0).integers(0, 100, (80, 70)).astype(np.uint8)
    noise[0] = noise[-1] = noise[:, 0] = noise[:, -1] = 0
    (refused,) = ours.predict(noise)
    assert not any("bright from end to end" in reason for reason in refused.reasons)


def tissue(side: int = 160) -> np.ndarray:
    """Random tissue of several sizes to the very edge: a head that leaves no air, float in 0..255."""
    random = np.random.default_rng(3)
    coarse = [
        np.asarray(Image.fromarray(random.uniform(-1, 1, (n, n)).astype(np.float32)).resize((side, side)))
        for n in (6, 15, 40, side)
    ]
    return 120 + 25 * np.sum(coarse, axis=0)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("moved", [20, 40, 53])
def test_a_ghost_stands_out_down_or_across_with_or_without_what_lies_around(axis, moved):
    """A third of the head laid over itself, `moved` of 160 pixels away; and what is left of both after a crop."""
    plain = tissue()
    ghosted = 0.75 * (plain + 0.3 * np.roll(plain, moved, axis))
    as_grey = [one.clip(0, 255).round().astype(np.uint8) for one in (plain, ghosted)]
    assert ghosting(as_grey[1]) > 2 * ghosting(as_grey[0])
    cropped = [one[8:-8, 12:-4] for one in as_grey]
    assert ghosting(cropped[1]) > 1.5 * ghosting(cropped[0])
    assert ghosting(np.full((60, 60), 90, np.uint8)) == 0


def test_a_ghosted_slice_is_warned_of_and_not_refused(classifier):
    plain = tissue()
    slices = [
        one.clip(0, 255).round().astype(np.uint8) for one in (plain, 0.75 * (plain + 0.3 * np.roll(plain, 40, 0)))
    ]
    between = (ghosting(slices[0]) + ghosting(slices[1])) / 2
    card = classifier.package.card["gate"]
    assert card["ghosting"] > 1
    said = {}
    for name, limits in {"limit": {**card, "ghosting": between}, "none": {**card, "ghosting": np.inf}}.items():
        said[name] = [before(Slice("a", one), one, limits, classifier.package.layouts) for one in slices]
    assert said["limit"][0] == said["none"][0]
    assert said["limit"][1].refused == said["none"][1].refused
    (more,) = set(said["limit"][1].warned) - set(said["none"][1].warned)
    assert more.endswith(f"known slices reach {between:.1f}: it may be ghosted")


def test_masks_are_the_pixels_that_are_more_likely_tumour_than_not(tmp_path):
    heat = np.array([[0, 127, 128], [255, 1, 200]], np.uint8)
    found = Finding("folder/a b.png", "accepted", heat=heat, grey=np.zeros((2, 3), np.uint8))
    refused = Finding("folder/c.png", "refused")
    assert next(with_maps(iter([refused, found]), None, tmp_path / "masks", start=7)) == refused
    list(with_maps(iter([refused, found]), None, tmp_path / "masks", start=7))
    (written,) = (tmp_path / "masks").iterdir()
    assert written.name == "00008-a_b.png-mask.png"
    assert np.asarray(Image.open(written)).tolist() == [[0, 0, 255], [255, 0, 255]]


def test_heat_and_mask_lie_on_a_turned_slice_as_viewers_show_it(tmp_path):
    """Bright at the top left as stored, and by EXIF (6) to be turned to the right: at the top right."""
    stored, exif, file = np.zeros((16, 32), np.uint8), Image.Exif(), tmp_path / "a.png"
    stored[:8, :8] = 255
    exif[0x0112] = 6
    Image.fromarray(stored).save(file, exif=exif)
    (one,) = read_slices("a.png", file.read_bytes())
    found = Finding("a.png", "accepted", heat=one.grey, grey=one.grey)
    (kept,) = with_maps(iter([found]), tmp_path / "heat", tmp_path / "mask")
    shown = ImageOps.exif_transpose(Image.open(file))
    np.testing.assert_array_equal(np.asarray(Image.open(kept.mask)), np.asarray(shown))
    np.testing.assert_array_equal(np.asarray(shown)[:8, 8:], 255)
    assert Image.open(kept.heatmap).size == shown.size == (16, 32)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("shape", [(20, 30, 26), (20, 30, 26, 1)])
def test_heat_and_mask_of_a_volume_come_back_to_the_voxels_they_were_seen_at(tmp_path, plane, shape):
    """Heat that is the slice itself: a blob in stored voxels, whose axes are crossed, flipped and no cubes, is the mask."""
    values = (np.arange(np.prod(shape)) % 50).astype(np.int16).reshape(shape)
    values[3:8, 14:25, 5:11] = 1000
    image = nibabel.Nifti1Image(values, CROSSED)
    image.header["descrip"] = b"Secret^Name"
    slices = read_slices("in/my scan.nii.gz", image.to_bytes(), plane=plane)
    found = [Finding(one.name, "accepted", heat=one.grey, grey=one.grey, place=one.place) for one in slices]
    found[1] = Finding(found[1].path, "refused", place=found[1].place)
    picture = Finding("b.png", "accepted", heat=np.zeros((4, 4), np.uint8), grey=np.zeros((4, 4), np.uint8))
    every = [*found, picture]
    told = list(with_maps(iter(every), tmp_path / "heat", tmp_path / "masks", 3))
    assert [one.path for one in told] == [one.path for one in every]
    (written,) = (tmp_path / "masks").glob("*.nii.gz")
    assert written.name == "00003-my_scan-mask.nii.gz"
    mask, heat = (nibabel.load(file) for file in (written, tmp_path / "heat" / "00003-my_scan-heat.nii.gz"))
    assert b"Secret" not in gzip.decompress(written.read_bytes())
    for one in (mask, heat):
        assert one.shape == shape
        np.testing.assert_allclose(one.affine, CROSSED)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), values == 1000)
    assert set(np.unique(mask.dataobj)) == {0, 1}
    assert np.asarray(heat.dataobj)[4, 20, 8] > 230
    assert len(list((tmp_path / "heat").glob("*.png"))) == len(found)  # overlays, of the refused slice none
    assert [item.name for item in (tmp_path / "heat").glob("*.npy")] == [f"{len(found) + 3:05d}-b.png.npy"]
    assert [item.name for item in (tmp_path / "masks").glob("*.png")] == [f"{len(found) + 3:05d}-b.png-mask.png"]


def test_the_mask_of_a_two_dimensional_nifti_comes_back_to_its_pixels(tmp_path):
    values = (np.arange(600) % 50).astype(np.int16).reshape(20, 30)
    values[3:8, 14:25] = 1000
    content = nibabel.Nifti1Image(values, np.diag([-1.0, 1, 1, 1])).to_bytes()
    found = [
        Finding(one.name, "accepted", heat=one.grey, grey=one.grey, place=one.place)
        for one in read_slices("flat.nii", content)
    ]
    list(with_maps(iter(found), None, tmp_path, 0))
    (written,) = tmp_path.iterdir()
    np.testing.assert_array_equal(np.asarray(nibabel.load(written).dataobj), values == 1000)


def test_a_slice_refused_after_the_model_keeps_its_place_in_the_volume(classifier, heads, monkeypatch):
    grey = np.asarray(Image.open(io.BytesIO(heads[0])).convert("L")).astype(np.int16)
    volume = nibabel.Nifti1Image(np.dstack([grey] * 3), np.eye(4)).to_bytes()
    monkeypatch.setitem(classifier.package.card["gate"]["distance"], "refuse", -1.0)
    found = list(classifier.predict([volume], heat=True))
    assert {one.status for one in found} == {"refused"}
    assert any("known slices" in one.reasons[0] for one in found)
    assert [one.place[1] for one in found] == [0, 1, 2]
    assert len({id(one.place[0]) for one in found}) == 1


def test_the_command_writes_a_volumes_mask_in_its_own_grid(heads, tmp_path):
    """Two slices of a head, stored from the top down and from front to back; each file's slices stay in its own mask."""
    grey = np.asarray(Image.open(io.BytesIO(heads[0])).convert("L")).astype(np.int16)
    affine = np.array([[0, -1, 0, 40], [-2, 0, 0, 30], [0, 0, -4, 20], [0, 0, 0, 1]], float)
    for name, several in (("a.nii", 2), ("b.nii", 3)):
        (tmp_path / name).write_bytes(nibabel.Nifti1Image(np.dstack([grey[::2]] * several), affine).to_bytes())
    ask = ["predict", *(str(tmp_path / name) for name in ("a.nii", "b.nii")), "--masks", str(tmp_path / "m")]
    answer = CliRunner().invoke(app, [*ask, "--format", "json"])
    assert answer.exit_code == 0, answer.output
    answered = {one["path"].rpartition("#")[0] for one in json.loads(answer.stdout) if one["label"]}
    written = sorted((tmp_path / "m").iterdir())
    assert answered == {str(tmp_path / "a.nii"), str(tmp_path / "b.nii")}
    assert len(written) == 2
    for file in written:
        mask = nibabel.load(file)
        assert mask.shape == (48, 96, 2 if "-a-" in file.name else 3)
        np.testing.assert_allclose(mask.affine, affine)


def test_masks_come_from_the_shipped_region_model_and_a_plain_classifier_is_refused_them(made, heads, tmp_path):
    file = tmp_path / "head.png"
    file.write_bytes(heads[0])
    answer = CliRunner().invoke(app, ["predict", str(file), "--model", str(made[0]), "--masks", str(tmp_path / "m")])
    assert isinstance(answer.exception, InputRejected)
    assert "no region model" in str(answer.exception)
    answer = CliRunner().invoke(app, ["predict", str(file), "--masks", str(tmp_path / "m")])
    assert answer.exit_code == 0, answer.output
    assert "Masks:" in answer.output


def test_what_nibabel_mends_in_a_header_is_not_shown_without_its_file(made, tmp_path, caplog):
    """Bytes 0 to 3 are the header's size, which is 348."""
    (tmp_path / "v.nii").write_bytes(b"\x07" + volume(np.eye(4))[1:])
    answer = CliRunner().invoke(app, ["predict", str(tmp_path / "v.nii"), "--model", str(made[0])])
    assert answer.stdout.count("v.nii#") == 10
    assert not caplog.records


def test_a_path_that_is_not_there_is_said_in_a_line(made, tmp_path):
    from tumorscope.errors import DataNotFound

    answer = CliRunner().invoke(app, ["predict", str(tmp_path / "absent.png"), "--model", str(made[0])])
    assert isinstance(answer.exception, DataNotFound)
    assert "no such file" in str(answer.exception)


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Bytes changed, cut, doubled or filled."""
    data = bytearray(content)
    match random.integers(5):
        case 0:
            for place in random.integers(len(data), size=random.integers(1, 30)):
                data[place] = random.integers(256)
        case 1:
            del data[random.integers(1, len(data)) :]
        case 2:
            start = random.integers(len(data))
            data[start : start + random.integers(1, 400)] = b""
        case 3:
            head = random.integers(min(len(data), 400))
            data[head : head + 8] = random.bytes(8)
        case _:
            start = random.integers(len(data))
            data[start:start] = data[: random.integers(1, 2000)]
    return bytes(data)


@pytest.fixture(scope="module")
def broken(heads, tmp_path_factory):
    """A thousand files of every format with bytes changed, cut off, or put in."""
    import h5py

    random, folder = np.random.default_rng(7), tmp_path_factory.mktemp("broken")
    grey = np.asarray(Image.open(io.BytesIO(heads[0])).convert("L"))
    matlab = io.BytesIO()
    with h5py.File(matlab, "w", userblock_size=512) as file:
        file["cjdata/image"] = grey.astype(np.int16)
    seeds = [
        *((kind.lower(), encoded(grey, kind)) for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")),
        *(("dcm", dicom(grey.astype(np.uint16))), ("nii", volume(np.eye(4)))),
        *(("nii.gz", gzip.compress(volume(np.eye(4)))), ("mat", b"MATLAB 7.3 MAT-file" + matlab.getvalue()[19:])),
    ]
    for number in range(1000):
        ending, content = seeds[number % len(seeds)]
        (folder / f"{number:04d}.{ending}").write_bytes(mutated(content, random))
    return folder


@pytest.mark.slow
def test_a_thousand_broken_files_each_get_an_answer_and_the_rest_is_done(classifier, heads, broken):
    """No exception, nothing over five seconds of computing, and a good slice between each hundred is still answered alike."""
    (good,) = classifier.predict([heads[0]])
    slowest = 0.0
    for number, path in enumerate(sorted(broken.iterdir())):
        started = time.process_time()  # what else the machine does is not counted
        answers = list(classifier.predict([path]))
        slowest = max(slowest, time.process_time() - started)
        assert answers
        assert {one.status for one in answers} <= STATUSES
        if number % 100 == 0:
            (again,) = classifier.predict([heads[0]])
            assert again.probabilities == good.probabilities
    assert slowest < 5


#: Linux keeps the most memory that a program took since it began; `ru_maxrss` has that of who started it in it.
STATUS = Path("/proc/self/status")
TELLING_ITS_MEMORY = f"""
from pathlib import Path
from tumorscope.cli.main import main
try:
    main()
finally:
    print(Path("{STATUS}").read_text())
"""


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason=f"the memory of a program is told by {STATUS}, which is not here")
def test_a_folder_of_broken_files_stays_below_a_gigabyte(made, broken, tmp_path):
    """In a process of its own, as a user runs it: every file is answered, and nothing is printed but the answers."""
    out = tmp_path / "found.csv"
    command = [sys.executable, "-c", TELLING_ITS_MEMORY, "predict", str(broken), "--model", str(made[0])]
    done = subprocess.run([*command, "--format", "csv", "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[-1]) < 2**20
    named = {row["path"].rpartition("#")[0] or row["path"] for row in csv.DictReader(out.open())}
    assert named == {str(path) for path in broken.iterdir()}


def test_distances_by_hand():
    """Centres at 0 and at 10 along the first axis, unit precision: (3, 4) is 5 from the first, over root 2."""
    found = Likeness(np.array([[0.0, 0.0], [10.0, 0.0]]), np.eye(2)).distances(np.array([[3.0, 4.0], [10.0, 0.0]]))
    assert found.tolist() == pytest.approx([5 / 2**0.5, 0])


def test_layout_is_where_a_head_is_bright_whatever_its_contrast():
    half = np.zeros((96, 96), np.uint8)
    half[:, 48:] = 60
    found = layout(half).reshape(12, 12)
    assert (found[:, :6] == 0).all()
    assert found[:, 6:] == pytest.approx(1)
    np.testing.assert_allclose(layout(half * 2), layout(half))


def test_a_disc_has_no_contrast_within():
    axis = np.arange(96) - 47.5
    disc = np.where(np.hypot(axis[:, None], axis[None]) < 46, 100, 0).astype(np.uint8)
    assert measures(disc)["contrast"] == 0
    disc[:, :48] //= 2  # halves of 100 and 50: deviation 25 over 75 + 1
    assert measures(disc)["contrast"] == pytest.approx(25 / 76, rel=1e-3)


def test_a_head_in_pieces_is_refused_by_its_layout(classifier, made):
    """Sixteenths of a slice in another order keep its grey values and edges; where they lie is what is wrong."""
    source = made[1].source()
    slices = [np.asarray(Image.open(io.BytesIO(source.read(path))).convert("L")) for path in made[1].table["path"][::9]]
    order, broken = np.random.default_rng(0).permutation(16), []
    for one in slices:
        parts = [one[i : i + 24, j : j + 24] for i in range(0, 96, 24) for j in range(0, 96, 24)]
        broken.append(
            np.vstack([np.hstack([parts[order[4 * row + column]] for column in range(4)]) for row in range(4)])
        )
    answers = list(classifier.predict(broken))
    assert np.mean([one.status == "refused" for one in answers]) > 0.8
    assert np.mean([one.status == "refused" for one in classifier.predict(slices)]) < 0.2
