"""Heat maps against masks: pointing, energy, deletion and insertion by hand, and a run explained through the command."""

import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from tumorscope.api import train
from tumorscope.cli.main import app
from tumorscope.config import load_recipe
from tumorscope.data.catalogue import load_catalogue
from tumorscope.data.phantom.archive import write_phantom
from tumorscope.errors import RunMismatch
from tumorscope.evaluation.explain import BLUR, CHANCE, RANDOM, SHARES, curves, explain_run, explanation
from tumorscope.transforms.augment import blurred


class Corner(nn.Module):
    """Class 0 by how bright the upper left quarter is, against class 1 at evens."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        bright = pixels[:, 0, :5, :5].mean(dim=(1, 2)) / 255
        return torch.stack([20 * (bright - 0.5), torch.zeros(len(pixels))], 1)


def test_deletion_and_insertion_know_the_place_that_counts():
    """The corner's quarter of the pixels decides; a map that names it first empties the answer at once, the opposite last."""
    pixels = torch.zeros(1, 1, 10, 10)
    pixels[..., :5, :5] = 255
    right = torch.zeros(1, 10, 10)
    right[:, :5, :5] = 1
    deletion, insertion = curves(Corner(), pixels, right)
    worst_deletion, worst_insertion = curves(Corner(), pixels, -right)
    assert deletion[0] < worst_deletion[0]
    assert insertion[0] > worst_insertion[0]
    # The opposite map changes the corner only in the last step: from share 0.7 on.
    full = float(torch.sigmoid(torch.tensor(10.0)))
    with torch.no_grad():
        corners = [blurred(pixels, torch.tensor([BLUR * 10]))] if SHARES[-2] <= 0.75 else []
        gone = float(Corner()(corners[0]).softmax(1)[0, 0])
    assert worst_deletion[0] == pytest.approx(0.7 * full + 0.3 * (full + gone) / 2, abs=1e-4)


def test_means_are_over_slices_and_chance_is_the_share_of_the_mask():
    rows = [
        ("a", "own map", 0.004, 1.0, 0.5), ("b", "own map", 0.03, 0.0, 0.1),
        ("a", CHANCE, 0.004, 0.0, 0.9), ("b", CHANCE, 0.03, 0.0, 0.9),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["path", "method", "mask_share", "pointing", "energy"])
    found = explanation(table.assign(label="glioma", deletion=0.2, insertion=0.8))
    own, chance = found["rows"]
    assert (own["pointing"], own["energy"]) == (0.5, pytest.approx(0.3))
    assert own["pointing_by_size"] == {"to 0.5%": 1.0, "to 4.0%": 0.0}
    assert (chance["pointing"], chance["energy"]) == (pytest.approx(0.017), pytest.approx(0.017))
    assert found["slices"] == 2
    assert found["slices_by_size"] == {"to 0.5%": 1, "to 1.5%": 0, "to 4.0%": 1, "to 100.0%": 0}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUMORSCOPE_HOME", str(folder / "home"))
        archive = write_phantom(folder / "phantom.zip", patients_per_class=6, slices_per_patient=3, size=96)
        yield archive, load_catalogue(archive), folder


NETWORKS = {
    "region_unet": {"model.filters": [4, 8, 12], "input.size": 32, "augment.paste": 0.0, "augment.remove": 0.0},
    "compact_cnn": {"model.filters": [4, 8]},
    "baseline_cnn": {},
    "resnet50": {
        "input.size": 32,
        "model.backbone.name": "resnet10t",
        "model.backbone.weights": "none",
        "model.dense": 8,
    },
    "vgg16": {"input.size": 32, "model.backbone.name": "resnet10t", "model.backbone.weights": "none", "model.dense": 8},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_run_is_explained_beside_chance_and_random_weights(name, phantom):
    archive, catalogue, folder = phantom
    recipe = load_recipe(name, {**NETWORKS[name], "training.epochs": 2, "training.batch_size": 16})
    (run,) = train(recipe, catalogue, runs=folder / "runs", workers=1)
    answer = CliRunner().invoke(app, ["explain", str(run), "--data", str(archive), "--slices", "6"])
    assert answer.exit_code == 0, answer.output
    found = json.loads((run / "explain.json").read_text())
    named = [row["method"] for row in found["rows"]]
    own = name not in ("baseline_cnn", "vgg16")  # the head of the last flattens
    assert ("own map" in named) == own
    assert len(named) == 2 * (4 + own) + 1
    assert found["slices"] == 6
    for row in found["rows"]:
        assert 0 <= row["pointing"] <= 1
        assert 0 <= row["energy"] <= 1
        assert (row["deletion"] is None) == row["method"].endswith(RANDOM)
    table = pd.read_csv(run / "explain.csv")
    assert not table["path"].str.contains("notumor").any()
    side = recipe.input.size
    assert Image.open(run / "explain.png").size == (side * (1 + 4 + own), side * 6)


def test_a_perfect_map_points_at_every_tumour(phantom, monkeypatch):
    """The masks themselves as maps: pointing and energy of one; slices without a tumour take no part.

    A map that is the same everywhere points as chance does.
    """
    from tumorscope.evaluation import explain

    _, catalogue, folder = phantom
    recipe = load_recipe("baseline_cnn", {"training.epochs": 1, "name": "perfect"})
    (run,) = train(recipe, catalogue, runs=folder / "runs", workers=1)
    masks = np.load(explain.masks_of(recipe, catalogue))
    images = np.array(explain.input_pixels(catalogue, recipe.input))

    def perfect(module, pixels):
        rows = [int((images == one[0]).all(axis=(1, 2)).argmax()) for one in pixels.numpy().astype(np.uint8)]
        yield "perfect", torch.from_numpy((masks[rows] == explain.INSIDE).astype(np.float32))
        yield "empty", torch.zeros(masks[rows].shape)

    monkeypatch.setattr(explain, "_maps", perfect)
    table, _ = explain_run(run, catalogue, 8)
    best = table[table["method"] == "perfect"]
    assert (best["pointing"] == 1).all()
    assert best["energy"].to_numpy() == pytest.approx(1)
    assert (best["label"] != "notumor").all()
    empty = table[table["method"] == "empty"]
    assert empty["pointing"].to_numpy() == pytest.approx(empty["mask_share"].to_numpy())
    assert (empty["pointing"] > 0).all()


def test_an_external_run_is_explained_on_the_other_set_whose_masks_alone_are_needed(phantom, tmp_path):
    """Trained on a set without masks, with none of figshare's at hand; each tested slice has its own mask and not another's."""
    archive, _, _ = phantom
    with zipfile.ZipFile(archive) as read, zipfile.ZipFile(tmp_path / "plain.zip", "w") as plain:
        for name in read.namelist():
            if "mask" not in name and name != "metadata.csv":
                plain.writestr(name, read.read(name))
    other = write_phantom(tmp_path / "other.zip", patients_per_class=3, slices_per_patient=3, size=96, seed=7)
    runner, sets = CliRunner(), ["--data", str(tmp_path / "plain.zip"), "--test-data", str(other)]
    recipe = ["baseline_cnn", "--set", "training.epochs=1", "--set", "input.size=48"]
    trained = runner.invoke(app, ["train", *recipe, *sets, "--runs", str(tmp_path)])
    assert trained.exit_code == 0, trained.output
    run = tmp_path / "baseline_cnn-external-other-s0"
    answer = runner.invoke(app, ["explain", str(run), *sets, "--slices", "50"])
    assert answer.exit_code == 0, answer.output
    table = pd.read_csv(run / "explain.csv")
    chance = table[table["method"] == CHANCE]
    expected = load_catalogue(other)
    share = dict(zip("other:" + expected.table["path"], expected_shares(expected, 48), strict=True))
    assert len(chance) == (expected.table["label"] != "notumor").sum()
    assert chance["mask_share"].to_numpy() == pytest.approx([share[path] for path in chance["path"]])
    alone = runner.invoke(app, ["explain", str(run), "--data", str(tmp_path / "plain.zip")])
    assert isinstance(alone.exception, RunMismatch)
    assert "--test-data too" in str(alone.exception)


def expected_shares(catalogue, size):
    from tumorscope.data.masks import INSIDE, masks

    return (np.load(masks(catalogue, size)) == INSIDE).mean(axis=(1, 2))


def test_another_set_is_refused(phantom, tmp_path, monkeypatch):
    _, catalogue, _ = phantom
    (run,) = train(load_recipe("baseline_cnn", {"training.epochs": 1}), catalogue, runs=tmp_path, workers=1)
    other = load_catalogue(write_phantom(tmp_path / "other.zip", patients_per_class=4, slices_per_patient=3, size=96))
    with pytest.raises(RunMismatch, match="other bytes than"):
        explain_run(run, other)
