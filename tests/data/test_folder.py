"""Pictures to learn on: every image of a folder with its class, and what is left out said."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tumorscope.cli.main import app
from tumorscope.config import Input
from tumorscope.data.folder import read_pictures


def write_images(root, names):
    """A PNG of noise, another one for each name."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)).save(path)


def read(root):
    """Images of each class, and the notices."""
    pictures = read_pictures(root, Input(size=8))
    return Counter(pictures.classes[code] for code in pictures.labels), pictures.notices


def three_each(*folders):
    return [f"{folder}/{number}.png" for folder in folders for number in range(3)]


def test_folders_are_the_classes_where_the_catalogue_does_not_know_all_of_them(tmp_path):
    """It knows four of the six, and takes three of these for one class."""
    folders = ("glioma", "stroke", "healthy", "no", "normal", "abscess")
    write_images(tmp_path, three_each(*folders))
    assert read(tmp_path) == (dict.fromkeys(folders, 3), ())


def test_a_set_that_the_catalogue_knows_whole_keeps_its_classes(tmp_path):
    write_images(tmp_path, three_each("Training/glioma", "Testing/glioma_tumor", "Testing/no"))
    assert read(tmp_path) == ({"glioma": 6, "notumor": 3}, ())


@pytest.mark.parametrize(
    ("second", "expected", "left"),
    [
        (
            "meningioma",
            {"glioma": 1, "meningioma": 1},
            2,
        ),  # the very images that the table names; the mask and other.png go
        ("stroke", {"slices": 2, "more": 1}, 1),  # a class that we do not know, so all images but the mask
    ],
)
def test_a_table_says_what_are_classes_and_what_are_masks(second, expected, left, tmp_path):
    write_images(tmp_path, ["slices/a.png", "slices/b.png", "masks/a.png", "more/other.png"])
    rows = ["path,label,mask", "slices/a.png,glioma,masks/a.png", f"slices/b.png,{second},"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    notice = f"{left} files are no images, or metadata.csv names them as masks or not at all; they were left out."
    assert read(tmp_path) == (expected, (notice,))


def test_the_command_says_what_it_read_and_what_it_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("tumorscope.training.pretrain.check", lambda recipe: None)
    monkeypatch.setattr("tumorscope.training.pretrain.pretrain", lambda *_, **__: None)
    write_images(tmp_path, three_each("glioma", "stroke"))
    (tmp_path / "notes.txt").write_text("no image")
    out = str(tmp_path / "w.safetensors")
    told = CliRunner().invoke(
        app, ["pretrain", "resnet50", "--data", str(tmp_path), "--out", out], catch_exceptions=False
    )
    assert "Note: 1 files are no images" in told.output
    assert "Read 6 images of 2 classes: 3 glioma, 3 stroke" in told.output
