"""Files that are not what they say: each is listed with its reason, nothing is opened that should not be, the rest goes on."""

import hashlib
import io
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from tumorscope.cli.main import app
from tumorscope.data.cache import path_of, pixels
from tumorscope.data.catalogue import load_catalogue, threaded
from tumorscope.data.decode import _percentile, crop_to_head, decode, decode_mask, shrink
from tumorscope.errors import DataNotFound, InputRejected


def encoded(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(side: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be `width` x `height` and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two good slices a class, and one of every kind of bad file."""
    top = tmp_path / "set"
    for number, name in enumerate(("glioma", "meningioma", "notumor", "pituitary")):
        for k in range(2):
            file = top / name / f"good-{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(noise(seed=10 * number + k)))
    bad = {
        "cut.jpg": encoded(noise(), "JPEG")[:400],
        "text.jpg": b"this is not an image",
        "empty.png": b"",
        "dot.png": encoded(noise(1)),
        "bomb.png": png_header(50_000, 50_000),
        "long.png": png_header(20_000, 100),
    }
    for name, content in bad.items():
        (top / "glioma" / name).write_bytes(content)
    (top / "glioma" / "outside.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "elsewhere.png").write_bytes(encoded(noise(seed=99)))
    (top / "unknown class").mkdir()
    return top


def test_bad_files_are_listed_with_reasons_and_the_good_ones_go_on(folder):
    catalogue = load_catalogue(folder)
    assert len(catalogue.table) == 8
    assert set(catalogue.table["label"]) == {"glioma", "meningioma", "notumor", "pituitary"}
    reasons = dict(zip(catalogue.rejected["path"], catalogue.rejected["reason"], strict=True))
    expected = {
        "cut.jpg": "whole image",
        "text.jpg": "known format",
        "empty.png": "known format",
        "dot.png": "16",
        "bomb.png": "50000",
        "long.png": "20000",
        "outside.png": "leaves",
    }
    assert {path.removeprefix("glioma/") for path in reasons} == set(expected)
    for name, part in expected.items():
        assert part in reasons[f"glioma/{name}"].replace(",", ""), reasons[f"glioma/{name}"]


def test_archive_members_that_would_leave_the_target_are_refused_unread(tmp_path):
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as write:
        write.writestr("glioma/good.png", encoded(noise()))
        for name in ("../glioma/up.png", "/glioma/root.png", "C:/glioma/drive.png"):
            write.writestr(name, encoded(noise(seed=1)))
        write.writestr("glioma/bomb.bmp", bytes(5 * 2**20))  # inflates a thousandfold
    catalogue = load_catalogue(archive)
    assert catalogue.table["path"].tolist() == ["glioma/good.png"]
    reasons = dict(zip(catalogue.rejected["path"], catalogue.rejected["reason"], strict=True))
    assert sum("leaves the target folder" in reason for reason in reasons.values()) == 3
    assert "compression ratio" in reasons["glioma/bomb.bmp"]
    assert [path.name for path in tmp_path.iterdir()].count("glioma") == 0


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_files_with_one_name_in_an_archive_the_last_counts_and_it_is_said(tmp_path):
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as write:
        for seed in (1, 2):
            write.writestr("glioma/same.png", encoded(noise(seed=seed)))
    catalogue = load_catalogue(archive, sizes=(40,))
    assert len(catalogue.table) == 1
    np.testing.assert_array_equal(pixels(catalogue, 40)[0], noise(seed=2))
    assert any("name of a later one" in notice for notice in catalogue.notices)


def test_a_set_of_nothing_usable_is_refused_with_what_was_expected(tmp_path):
    (tmp_path / "set" / "glioma").mkdir(parents=True)
    with pytest.raises(DataNotFound, match="Expected Training/<class>/"):
        load_catalogue(tmp_path / "set")
    (tmp_path / "set" / "glioma" / "text.jpg").write_text("no image")
    with pytest.raises(DataNotFound, match=r"1 were refused, the first: glioma/text.jpg"):
        load_catalogue(tmp_path / "set")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_a_tiff_whose_0_is_white_is_turned_round_at_every_depth(kind):
    buffer = io.BytesIO()
    stored = noise().astype(kind) * {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[kind]
    black = decode(encoded((stored.max() - stored).astype(kind), "TIFF")).grey
    Image.fromarray(stored.astype(kind)).save(buffer, "TIFF", tiffinfo={262: 0})
    content = buffer.getvalue()
    with Image.open(io.BytesIO(content)) as image:
        assert image.tag_v2[262] == 0
    # Pillow turns 8 bits round when it writes, too.
    np.testing.assert_array_equal(decode(content).grey, noise() if kind == np.uint8 else black)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_white_border_of_0_stays_white_where_0_is_white(kind):
    """Around values of 500 to 1400, which is black: as in 8 bits, but for their rounding and half a percentile."""
    stored = np.zeros((40, 40))
    stored[5:35, 5:35] = np.linspace(500, 1400, 900).reshape(30, 30)
    shallow, deep = (
        decode(_tiff_of_white_0(values)).grey.astype(int)
        for values in (np.round(255 - stored * (255 / 1400)).astype(np.uint8), stored.astype(kind))
    )
    assert (deep[:5] == 255).all()
    assert np.abs(deep - shallow).max() <= 3


def _tiff_of_white_0(stored: np.ndarray) -> bytes:
    """Pillow turns 8 bits round when it writes, others not."""
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "TIFF", tiffinfo={262: 0})
    return buffer.getvalue()


def test_12_bits_and_z_scores_are_windowed_above_their_background():
    """Air and 200 values, as stored and as z-scores of -2 to 2 around 0: black, and from the first to the last grey."""
    ramp = np.arange(200).reshape(10, 20)
    expected = np.vstack([np.zeros((10, 20)), np.round(((ramp - 0.995) * 255 / 197.01).clip(0, 255))])
    twelve = np.vstack([np.zeros((10, 20)), 1000 + 4 * ramp]).astype(np.uint16)
    np.testing.assert_array_equal(decode(encoded(twelve)).grey, expected)
    scores = np.zeros((24, 30), np.float32)
    scores[2:12, 5:25] = np.linspace(-2, 2, 200).reshape(10, 20)
    grey = decode(encoded(scores, "TIFF")).grey
    assert np.abs(grey[2:12, 5:25] - expected[10:]).max() <= 2  # the least value is background too
    grey[2:12, 5:25] = 0
    assert not grey.any()


def test_sets_of_deep_slices_have_another_digest_than_before_and_others_the_same(tmp_path):
    """What is bound to pixels that were made by another rule must not be taken for these; by hand, with sha256 of the name."""
    for name, stored in (("shallow", noise()), ("deep", noise().astype(np.uint16))):
        file = tmp_path / name / "glioma" / "a.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(encoded(stored))
        inner = hashlib.sha256(file.read_bytes()).hexdigest()
        before = hashlib.sha256(f"{inner}/2".encode()).hexdigest()[:16]
        assert (load_catalogue(tmp_path / name).digest == before) == (name == "shallow")


UPRIGHT = {
    1: lambda grey: grey,
    2: np.fliplr,
    3: lambda grey: grey[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda grey: np.rot90(grey, -1),
    7: lambda grey: grey[::-1, ::-1].T,
    8: np.rot90,
}


def oriented(array: np.ndarray, lies: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = lies
    return encoded(array, kind, exif=exif)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("lies", UPRIGHT)
def test_an_image_is_turned_as_its_exif_says(lies, kind):
    """What stands first in the file is shown at the top left, mirrored or not, or after a quarter turn (EXIF 2.32, 4.6.4)."""
    stored = np.zeros((16, 32), np.uint8)
    stored[:8, :8] = 255
    one = decode(oriented(stored, lies, kind))
    shown = UPRIGHT[lies](stored)
    assert (one.height, one.width) == one.grey.shape == shown.shape
    assert np.abs(one.grey.astype(int) - shown).max() <= (0 if kind in ("PNG", "TIFF") else 40)
    assert one.format == kind
    assert one.rules == ("upright" if lies > 1 and kind != "TIFF" else "")  # Pillow has turned TIFF before
    mask = decode_mask(oriented((stored > 0).astype(np.uint8), lies, kind if kind == "TIFF" else "PNG"))
    np.testing.assert_array_equal(mask, shown > 0)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", b"no exif at all"])
def test_an_image_of_damaged_exif_is_taken_as_stored(exif):
    np.testing.assert_array_equal(decode(encoded(noise(), exif=exif)).grey, noise())


def test_sets_of_turned_slices_have_another_digest_than_before_and_their_sides_as_shown(tmp_path):
    """By hand, with sha256 of the file; a set of slices that lie as they are stored keeps its digest."""
    for lies in (1, 6):
        file = tmp_path / f"lies-{lies}" / "glioma" / "a.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(oriented(noise()[:20], lies))
        catalogue = load_catalogue(tmp_path / f"lies-{lies}")
        inner = hashlib.sha256(file.read_bytes()).hexdigest()
        told = hashlib.sha256(f"{inner}/2{'/upright' * (lies == 6)}".encode()).hexdigest()[:16]
        assert load_catalogue(tmp_path / f"lies-{lies}").digest == catalogue.digest == told
        assert catalogue.table.loc[0, ["width", "height"]].tolist() == ([20, 40] if lies == 6 else [40, 20])
        np.testing.assert_array_equal(pixels(catalogue, 40)[0], shrink(UPRIGHT[lies](noise()[:20]), 40))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(noise()), noise()),
        (Image.fromarray(np.dstack([noise()] * 3)), noise()),
        (Image.fromarray(noise().astype(np.uint16) * 257), noise()),
        (Image.fromarray(np.dstack([noise()] * 3 + [np.zeros((40, 40), np.uint8)])), np.zeros((40, 40), np.uint8)),
        (Image.fromarray(noise()).convert("P"), noise()),
    ],
    ids=["grey", "colour", "16 bit", "transparent is black", "palette"],
)
def test_every_way_of_storing_gives_the_same_grey_values(image, expected):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue()).grey, expected)


def test_a_png_under_a_jpg_name_is_read_as_what_it_is(tmp_path):
    (tmp_path / "set" / "no").mkdir(parents=True)
    (tmp_path / "set" / "no" / "slice.jpg").write_bytes(encoded(noise()))
    catalogue = load_catalogue(tmp_path / "set", classes={"no": "notumor"})
    assert catalogue.table.loc[0, ["format", "label"]].tolist() == ["PNG", "notumor"]


def test_several_frames_are_no_slice():
    buffer = io.BytesIO()
    frames = [Image.fromarray(noise(seed=seed)) for seed in (0, 1)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(InputRejected, match="frame"):
        decode(buffer.getvalue())


def test_the_pixel_cache_is_reused_rebuilt_when_bytes_change_and_never_left_half_written(tmp_path):
    top = tmp_path / "set" / "glioma"
    top.mkdir(parents=True)
    for seed in range(3):
        (top / f"{seed}.png").write_bytes(encoded(noise(seed=seed)))
    catalogue = load_catalogue(tmp_path / "set", sizes=(40,))
    file = path_of(catalogue, 40)
    made = file.stat().st_mtime_ns
    again = load_catalogue(tmp_path / "set", sizes=(40,))
    np.testing.assert_array_equal(pixels(again, 40)[1], noise(seed=1))
    assert file.stat().st_mtime_ns == made
    assert not pixels(again, 40).flags.writeable

    for damage in (file.read_bytes()[:-100], b"no array"):
        file.write_bytes(damage)
        np.testing.assert_array_equal(pixels(again, 40)[2], noise(seed=2))

    (top / "1.png").write_bytes(encoded(noise(seed=7)))
    changed = load_catalogue(tmp_path / "set", sizes=(40,))
    np.testing.assert_array_equal(pixels(changed, 40)[1], noise(seed=7))
    assert changed.digest != catalogue.digest
    files = {path.name for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert {name.split("-")[0] for name in files} == {"catalogue.csv", "rejected.csv", "card.json", "pixels"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["data", "import", "nowhere.zip"], 1, "no such file or folder"),
        (["data", "import", "{text}"], 1, "not a zip archive"),
        (["data", "import", "{set}", "--classes", "no"], 2, "folder=class"),
        (["data", "import", "{set}", "--size", "4000"], 2, "1024"),
        (["data", "nothing"], 2, "No such command"),
    ],
)
def test_wrong_paths_and_wrong_use_are_told_apart_by_exit_code(folder, tmp_path, arguments, code, said):
    (tmp_path / "text.zip").write_text("no archive")
    filled = [part.format(text=tmp_path / "text.zip", set=folder) for part in arguments]
    done = CliRunner().invoke(app, filled)
    message = f"{done.output} {done.exception}"
    assert said in " ".join(message.replace("│", " ").split())
    assert done.exit_code == code


def test_the_crop_is_the_square_around_the_head_without_border_and_specks():
    grey = np.zeros((100, 160), np.uint8)
    grey[20:80, 50:90] = 200  # a head of 60 x 40
    grey[5, 150:154] = 255  # a letter
    cropped = crop_to_head(grey)
    assert cropped.shape == (60, 60)
    np.testing.assert_array_equal(cropped[:, 10:50], 200)
    assert not cropped[:, :10].any()
    assert not cropped[:, 50:].any()


@given(value=st.integers(0, 255))
@settings(max_examples=10)
def test_a_slice_without_a_head_is_cropped_to_itself(value):
    grey = np.full((40, 40), value, np.uint8)
    np.testing.assert_array_equal(crop_to_head(grey), grey)


@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=400), share=st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0])
)
@settings(max_examples=100)
def test_the_counted_percentile_is_numpys(values, share):
    grey = np.array(values, np.uint8)
    assert _percentile(grey, share) == pytest.approx(float(np.percentile(grey, 100 * share)))


def test_beside_a_library_with_threads_slices_are_read_by_threads_and_come_out_the_same(tmp_path, monkeypatch):
    """A fork of torch's threads waits for ever, and this file has no `__main__` that a new process could run."""
    for number in range(40):
        (tmp_path / "set" / "notumor").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40), 3 * number, np.uint8)).save(tmp_path / "set" / "notumor" / f"{number}.png")
    tables = []
    for module in (None, "onnxruntime"):
        for name in ("torch", "onnxruntime"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        if module:
            monkeypatch.setitem(sys.modules, module, ModuleType(module))
        monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / str(module)))
        monkeypatch.setattr("tumorscope.home.cores", lambda: 2)  # one alone reads in threads
        assert threaded() == bool(module)
        pool = "ProcessPoolExecutor" if module else "ThreadPoolExecutor"  # the one that must not be used
        monkeypatch.setattr(f"tumorscope.data.catalogue.{pool}", None)
        tables.append(load_catalogue(tmp_path / "set").table)
        monkeypatch.undo()
    assert len(tables[0]) == 40
    assert tables[0].equals(tables[1])
