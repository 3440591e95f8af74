"""Slices that a fold makes for itself: super-resolution and regions of interest, learnt without its test slices."""

import hashlib
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.training.tiny_set import SIZE, catalogue, drawn, everything

from tumorscope.api import train
from tumorscope.config import RegionOfInterest, SuperResolution, load_recipe, parse_recipe
from tumorscope.data.cache import pixels, write_pixels
from tumorscope.data.catalogue import load_catalogue
from tumorscope.data.decode import enlarge, shrink
from tumorscope.data.phantom.archive import write_phantom
from tumorscope.errors import RecipeError, RunMismatch
from tumorscope.estimator import SliceClassifier
from tumorscope.evaluation import regions
from tumorscope.models.superresolution import FusionNetwork
from tumorscope.package.export import export_run
from tumorscope.training import network, prepare
from tumorscope.training.prepare import Source, fold_pixels, reduce_to
from tumorscope.training.runs import read_predictions
from tumorscope.training.superresolution import learn, likeness, sheet
from tumorscope.tuning.search import tune
from tumorscope.tuning.space import load_space

SMALL = 10
ENLARGED = {
    **{"input__enlarged_from": SMALL, "input__filter": "mfcn", "input__size": SIZE, "name": "sharp"},
    **{"super_resolution__filters": 4, "super_resolution__units": 1, "super_resolution__epochs": 2},
    **{"training__epochs": 1, "early_stopping__patience": 0, "imbalance__method": "none"},
}


def sharp_catalogue(folder, images, labels):
    """A tiny set that knows its slices at 10 and at 30 pixels."""
    made = catalogue(folder, images, labels)
    write_pixels(made, SMALL, np.stack([shrink(image, SMALL) for image in images]))
    return made


def test_an_untrained_network_gives_the_enlarged_slice_back():
    slices = torch.rand(2, 1, 20, 24)
    torch.testing.assert_close(FusionNetwork(SuperResolution()).eval()(slices), slices)


def test_every_path_of_a_unit_takes_part():
    network = FusionNetwork(SuperResolution(filters=16, units=2))  # of four, all may be silent by chance
    torch.nn.init.ones_(network.last.weight)
    network(torch.rand(1, 1, 12, 12)).sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in network.units[0].parameters())


def test_super_resolution_comes_nearer_to_the_real_slices_than_bicubic(tmp_path, monkeypatch):
    """On heads, whose edges bicubic blurs; of the held-out slices. With seeds 0 to 4 it gains 0.86 to 1.06 dB."""
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    data = load_catalogue(write_phantom(tmp_path / "phantom.zip", patients_per_class=6, slices_per_patient=3, size=96))
    changes = {**{key.replace("__", "."): value for key, value in ENLARGED.items()}, "input.size": 24}
    changes |= {"input.enlarged_from": 12, "super_resolution.epochs": 30, "super_resolution.batch_size": 4}
    changes |= {"super_resolution.filters": 16}  # of four, most may be silent by chance
    (run,) = train(
        load_recipe("improved_cnn", {**changes, "model.filters": [4]}), data, runs=tmp_path / "runs", workers=1
    )
    scores = pd.read_csv(run / "fold-0" / "likeness.csv").groupby("filter")[["psnr", "ssim"]].mean()
    assert scores.loc["mfcn", "psnr"] > scores.loc["bicubic", "psnr"] + 0.2
    assert scores.loc["mfcn", "ssim"] > scores.loc["bicubic", "ssim"]
    tested = (read_predictions(run)["part"] == "test").sum()
    assert len(pd.read_csv(run / "fold-0" / "likeness.csv")) == 3 * tested
    assert Image.open(run / "fold-0" / "likeness.png").size == (5 * 24, 4 * 24)


def test_super_resolution_never_sees_a_test_slice(tmp_path):
    """Other test slices: the same network, the same classifier, the same answers on validation slices."""
    images, labels = drawn()
    other = images.copy()
    other[len(images) * 3 // 4 :] = 255 - other[len(images) * 3 // 4 :]
    runs = []
    for name, stack in (("one", images), ("two", other)):
        (run,) = train(
            everything(**ENLARGED),
            sharp_catalogue(tmp_path / name, stack, labels),
            runs=tmp_path / f"runs-{name}",
            workers=1,
        )
        runs.append((run, next((tmp_path / name).glob("pixels-mfcn-*.safetensors"))))
    assert runs[0][1].read_bytes() == runs[1][1].read_bytes()
    one, two = (read_predictions(run) for run, _ in runs)
    pd.testing.assert_frame_equal(one[one["part"] == "validation"], two[two["part"] == "validation"])
    assert not one[one["part"] == "test"].equals(two[two["part"] == "test"])


def test_super_resolution_without_test_slices_compares_nothing(tmp_path):
    """Under `all` every picture is for training; it ended with an error when all was learnt."""
    (run,) = train(
        everything(**ENLARGED), sharp_catalogue(tmp_path, *drawn()), "all", [0], runs=tmp_path / "runs", workers=1
    )
    assert (run / "fold-0" / "weights.safetensors").exists()
    assert not (run / "fold-0" / "likeness.csv").exists()


def test_an_interrupted_super_resolution_goes_on_with_the_same_bits(tmp_path):
    from tumorscope.training import superresolution

    real = drawn()[0]
    enlarged = np.stack([enlarge(shrink(image, SMALL), SIZE, "bicubic") for image in real])
    asked = {"seed": 3, "device": "cpu", "progress": lambda done, total: None}
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    learn(everything(**ENLARGED), enlarged, real, whole, **asked)
    save = superresolution.save_checkpoint

    def stop(path, state):
        save(path, state)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(superresolution, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            learn(everything(**ENLARGED), enlarged, real, cut, **asked)
    assert not cut.exists()
    epochs = []
    learn(everything(**ENLARGED), enlarged, real, cut, **asked | {"progress": lambda *one: epochs.append(one)})
    assert epochs == [(2, 2)]
    assert cut.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cut.safetensors", "whole.safetensors"]


def test_likeness_by_hand():
    real = np.full((1, 16, 16), 100, np.uint8)
    made = real + 10  # mean squared error 100
    scores = likeness(np.full((1, 8, 8), 100, np.uint8), real, made).set_index("filter")
    assert scores.loc["mfcn", "psnr"] == pytest.approx(10 * math.log10(255**2 / 100))
    # Of flat slices SSIM is its luminance term alone.
    c1 = (0.01 * 255) ** 2
    assert scores.loc["mfcn", "ssim"] == pytest.approx((2 * 100 * 110 + c1) / (100**2 + 110**2 + c1))
    assert scores.loc["bicubic", "psnr"] == math.inf
    assert sheet(real[:, :8, :8], real, made).shape == (16, 80)


def square(side, top, left, size):
    region = np.zeros((side, side), bool)
    region[top : top + size, left : left + size] = True
    return region


def test_a_crop_is_the_square_around_the_largest_region():
    whole = np.arange(64 * 64, dtype=np.int64).reshape(64, 64).__mod__(251).astype(np.uint8)
    region = square(32, 10, 12, 8) | square(32, 28, 28, 2)
    # 8 pixels at 32, a quarter of margin on both sides, twice as large at 64: 24 pixels around (28, 32).
    cut = reduce_to(whole, region, RegionOfInterest(use="crop", margin=0.25), 24)
    np.testing.assert_array_equal(cut, whole[16:40, 20:44])


def test_a_crop_at_the_edge_is_black_outside_and_none_without_a_region():
    whole = np.full((32, 32), 200, np.uint8)
    cut = reduce_to(whole, square(32, 0, 0, 8), RegionOfInterest(margin=0.5), 16)
    assert (cut[:4] == 0).all()
    assert (cut[:, :4] == 0).all()
    assert (cut[4:, 4:] == 200).all()
    nothing = np.zeros((32, 32), bool)
    np.testing.assert_array_equal(reduce_to(whole, nothing, RegionOfInterest(), 16), shrink(whole, 16))


def test_a_mask_keeps_the_region_and_its_margin_alone():
    whole = np.full((64, 64), 200, np.uint8)
    kept = reduce_to(whole, square(32, 12, 12, 8), RegionOfInterest(use="mask", margin=0.25), 64)
    # Grown by two pixels up, down and sideways, which leaves the corners out.
    assert (kept[20:44, 24:40] == 200).all()
    assert (kept[24:40, 20:44] == 200).all()
    assert (kept == 200).sum() == 4 * (8 * 8 + 4 * 2 * 8 + 4 * 1)
    assert not reduce_to(whole, np.zeros((32, 32), bool), RegionOfInterest(use="mask"), 16).any()


def test_the_margin_around_one_of_several_regions_is_of_its_own_side():
    """Two of 4 x 4 grow by a pixel each, however far apart they lie: 4 * 4 + 4 * 4 pixels, four times as many at 64."""
    whole = np.full((64, 64), 200, np.uint8)
    several = square(32, 2, 2, 4) | square(32, 26, 26, 4)
    kept = reduce_to(whole, several, RegionOfInterest(use="mask", margin=0.25), 64)
    assert (kept == 200).sum() == 2 * 4 * (4 * 4 + 4 * 4)
    assert not kept[16:48, 16:48].any()


@pytest.fixture(scope="module")
def interest(tmp_path_factory):
    """Catalogue, folder and a recipe whose slices are cut to what a tiny region model finds."""
    folder = tmp_path_factory.mktemp("interest")
    finder = {
        "model.filters": [4, 8, 12],
        "training.epochs": 1,
        "augment.paste": 0.0,
        "augment.remove": 0.0,
        "augment.seam": 0.0,
        "input.size": 32,
        "name": "finder",
        "training.batch_size": 16,
    }
    (folder / "finder.toml").write_text(load_recipe("region_unet", finder).toml())
    changes = {"input.crop": "head", "region_of_interest.recipe": str(folder / "finder.toml"), "name": "cut"}
    changes |= {"model.filters": [4], "training.epochs": 1, "early_stopping.patience": 0, "imbalance.method": "none"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUMORSCOPE_HOME", str(folder / "home"))
        archive = write_phantom(folder / "phantom.zip", patients_per_class=6, slices_per_patient=3, size=96)
        yield load_catalogue(archive), folder, load_recipe("improved_cnn", changes)


def test_regions_come_from_a_model_of_the_same_fold(interest, monkeypatch):
    """Another fold's has learnt on the test slices; each is given a square of its own to find, however it was trained."""
    data, folder, recipe = interest
    made, loaded = {}, {}
    prepared, load = prepare.fold_pixels, network.load_network

    def keep(job, *rest):
        made[job.fold.index] = prepared(job, *rest)
        return made[job.fold.index]

    def remember(fold, *rest):
        module = load(fold, *rest)
        loaded[module] = fold
        return module

    def found(module, images, mirror_average):
        assert images.shape[1:] == (1, 32, 32)
        start = 4 * int(loaded[module].name.removeprefix("fold-"))
        maps = torch.zeros(len(images), 32, 32)
        maps[:, start : start + 8, 4:12] = 0.9
        return maps

    monkeypatch.setattr(prepare, "fold_pixels", keep)
    monkeypatch.setattr(network, "load_network", remember)
    monkeypatch.setattr(regions, "region_maps", found)
    (run,) = train(recipe, data, "picture-cv", [3], runs=folder / "runs", workers=1)
    finder = folder / "runs" / "finder-picture-cv-s3"
    assert sorted(loaded.values()) == sorted(finder.glob("fold-*")) == [finder / f"fold-{index}" for index in range(5)]
    one, other = (json.loads((place / "environment.json").read_text()) for place in (run, finder))
    assert one["split"] == other["split"]
    whole = pixels(data, 128, crop="head")
    for index in range(5):
        cut = [reduce_to(np.array(one), square(32, 4 * index, 4, 8), recipe.region_of_interest, 30) for one in whole]
        np.testing.assert_array_equal(np.load(made[index]), cut)


def test_a_run_does_not_go_on_with_slices_that_another_network_has_cut(interest):
    """A region model trained anew has other weights; a run from before they were noted down goes on."""
    data, folder, recipe = interest
    asked = {"runs": folder / "again", "workers": 1, "resume": True}
    (run,) = train(recipe, data, "official", [0], **asked)
    weights = folder / "again" / "finder-official-s0" / "fold-0" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(RunMismatch, match=r"cut-official-s0 holds a run with another finder_weights\. Give"):
        train(recipe, data, "official", [0], **asked)
    facts = json.loads((run / "environment.json").read_text())
    del facts["finder_weights"]
    (run / "environment.json").write_text(json.dumps(facts))
    assert train(recipe, data, "official", [0], **asked) == [run]


@pytest.mark.parametrize(("mirrored", "more"), [(False, {}), (True, {"mirror_average": True})])
def test_slices_reduced_without_the_mirror_are_known_by_the_name_of_before(tmp_path, mirrored, more):
    """A file of that name is taken as it is; with the mirror regions are others, and so is the name."""
    finder, interest = tmp_path / "finder", RegionOfInterest()
    (finder / "fold-0").mkdir(parents=True)
    (finder / "fold-0" / "weights.safetensors").write_bytes(b"weights")
    (finder / "recipe.toml").write_text(load_recipe("region_unet", {"training.mirror_average": mirrored}).toml())
    facts = {
        **{"interest": interest.model_dump(mode="json"), "slices": ["seen.npy", "whole.npy"], "size": 30},
        **{"device": "cpu", "weights": hashlib.sha256(b"weights").hexdigest(), **more},
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    file = tmp_path / f"pixels-crop-{key}.npy"
    file.touch()
    recipe = load_recipe("improved_cnn", {"region_of_interest.recipe": interest.recipe, "input.size": 30})
    job = SimpleNamespace(
        recipe=recipe, fold=SimpleNamespace(index=0), device="cpu", pixels=tmp_path / "all.npy", run=tmp_path
    )
    assert fold_pixels(job, Source(tmp_path / "seen.npy", tmp_path / "whole.npy", finder), lambda *_: print) == file


def test_what_goes_with_no_fold_is_refused(interest, tmp_path):
    data, folder, recipe = interest
    file = tmp_path / "cut.toml"
    file.write_text(recipe.toml())
    with pytest.raises(RecipeError, match="is no region model"):
        train(load_recipe(file, {"region_of_interest.recipe": "baseline_cnn"}), data, runs=tmp_path, workers=1)
    with pytest.raises(RecipeError, match=r"input\.crop is none, that of finder is head"):
        train(load_recipe(file, {"input.crop": "none"}), data, runs=tmp_path, workers=1)
    with pytest.raises(RecipeError, match="made for each fold"):
        SliceClassifier(str(file)).fit(np.zeros((8, 900)), np.arange(8) % 4)
    with pytest.raises(RecipeError, match="made for each fold"):
        tune(str(file), load_space("improved_cnn"), data, trials=1, out=tmp_path / "tune", workers=1)
    compact = load_recipe(
        "compact_cnn", {"region_of_interest.recipe": str(folder / "finder.toml"), "training.epochs": 1}
    )
    (run,) = train(compact, data, "all", [0], runs=folder / "runs", workers=1)
    with pytest.raises(RunMismatch, match="made by another network"):
        export_run(run, [], data, tmp_path / "package")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": {"filter": "mfcn"}}, "give the pixels a side that it starts from"),
        ({"region_of_interest": {}, "input": {"size": 60, "enlarged_from": 30}}, "do not go together"),
        ({"region_of_interest": {}, "external": [{"data": "x"}]}, "goes with one set"),
        ({"region_of_interest": {}, "augment": {"paste": 0.5}}, "masks would not follow"),
    ],
)
def test_recipes_that_cannot_be_are_refused(changes, said):
    with pytest.raises(RecipeError, match=said):
        parse_recipe({"name": "x", "model": {"name": "baseline_cnn"}, **changes}, "test")


def test_enlarging_starts_from_bicubic(tmp_path):
    from tumorscope.data.cache import input_pixels

    images, labels = drawn()
    data = sharp_catalogue(tmp_path, images, labels)
    np.testing.assert_array_equal(
        input_pixels(data, everything(**ENLARGED).input)[0], enlarge(shrink(images[0], SMALL), SIZE, "bicubic")
    )
