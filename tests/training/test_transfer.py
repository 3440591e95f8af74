"""Frozen backbones on stored features, texture beside them, and weights learnt first, never on slices that are scored."""

import io
import json
import shlex
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.tiny_set import catalogue, drawn, tiny_catalogue
from typer.testing import CliRunner

from tumorscope.api import train
from tumorscope.audit.apart import apart
from tumorscope.cli.main import app
from tumorscope.config import Backbone, Input, Pretrain, parse_recipe
from tumorscope.data.cache import input_file, input_pixels, write_pixels
from tumorscope.data.catalogue import extend, join
from tumorscope.data.decode import as_input
from tumorscope.data.folder import read_pictures
from tumorscope.errors import DataNotFound, InputRejected, RecipeError, RunMismatch, SplitLeak, TumorscopeError
from tumorscope.evaluation.assemble import SHOWN_SIZE, report_of
from tumorscope.evaluation.evaluate import by_model
from tumorscope.evaluation.report import write_report
from tumorscope.labels import CLASSES
from tumorscope.models.backbones import make_features
from tumorscope.models.weights import Source, file_sha256, read_source
from tumorscope.training.checkpoint import read_weights, save_weights
from tumorscope.training.features import stored_features
from tumorscope.training.fold import BACKBONE
from tumorscope.training.loop import predict
from tumorscope.training.network import load_network
from tumorscope.training.pretrain import ORIGIN, fold_weights, need_apart, pretrain
from tumorscope.training.runs import read_predictions, train_runs


def recipe(name: str = "frozen", backbone: dict | None = None, **more):
    """A ResNet of ten layers on slices of 30 enlarged to 32, two epochs."""
    return parse_recipe(
        {
            "name": name,
            "input": {"size": 32, "enlarged_from": 30, "normalise": "backbone"},
            "model": {
                **{"name": "backbone", "dense": 8, "dropout": 0.1},
                "backbone": {"name": "resnet10t", "weights": "none", "head": "pooled", **(backbone or {})},
            },
            "augment": {"mirror": 0.5},
            "training": {"epochs": 2, "batch_size": 16, "mirror_average": True},
            "pretrain": {"epochs": 1, "batch_size": 16},
            **more,
        },
        "test",
    )


VARIANTS = {
    "frozen": recipe(),
    "improved": recipe("improved", {"head": "improved"}),
    "unfrozen": recipe("unfrozen", {"unfrozen": 2, "gradual": 1, "rate_decay": 0.5}),
    "learnt": recipe("learnt", {"weights": "pretrain"}),
    "learnt_all": recipe("learnt_all", {"weights": "pretrain", "unfrozen": 99, "channels": 1}),
    "twins": recipe(
        "twins", {"weights": "pretrain"}, pretrain={"method": "barlow_twins", "epochs": 1, "batch_size": 8}
    ),
    "labels": recipe("labels", {"weights": "pretrain"}, pretrain={"method": "labels", "epochs": 1, "batch_size": 16}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_trained_run_answers_from_pixels_as_it_did_from_stored_features(name, tmp_path):
    data, chosen = tiny_catalogue(tmp_path / "data"), VARIANTS[name]
    (run,) = train(chosen, data, runs=tmp_path / "runs", workers=1)
    table = read_predictions(run)
    scored = table[table["part"] == "test"]
    images = np.array(input_pixels(data, chosen.input))[
        [list(data.table["path"]).index(path) for path in scored["path"]]
    ]
    chances = predict(load_network(run / "fold-0", chosen), torch.from_numpy(images[:, None]), True).numpy()
    np.testing.assert_allclose(chances, scored[[f"p_{label}" for label in CLASSES]], atol=1e-5)
    (again,) = train(chosen, data, runs=tmp_path / "again", workers=1)
    assert (again / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()


def test_stored_features_are_the_networks_own_and_are_made_once(tmp_path):
    data, chosen = tiny_catalogue(tmp_path), recipe(backbone={"head": "improved"})
    slices = input_file(data, chosen.input)
    told: list[tuple[str, int, int]] = []

    def say(work: str):
        return lambda done, total: told.append((work, done, total))

    stored = stored_features(chosen, slices, tmp_path, "cpu", say)
    assert told[-1] == ("Features of resnet10t", 76, 76)
    told.clear()
    assert stored_features(chosen, slices, tmp_path, "cpu", say) == stored
    assert not told
    # Texture beside the same features is work of its own: a pass over the slices, one over their mirrors.
    textured = recipe(backbone={"head": "improved", "texture": {"levels": 8, "angles": [0.0]}})
    assert stored_features(textured, slices, tmp_path, "cpu", say).maps == stored.maps
    assert told == [("Texture", 76, 152), ("Texture", 152, 152)]
    from tumorscope.training.network import SliceNetwork

    whole = SliceNetwork(chosen).eval()
    images = torch.from_numpy(np.array(np.load(slices))[:, None])
    with torch.no_grad():
        for view, turned in enumerate((images, images.flip(3))):
            direct = whole.network.features.forward_features(whole.scale(turned)).numpy()
            np.testing.assert_allclose(np.load(stored.maps)[:, view], direct, rtol=1e-4, atol=1e-5)
    # Other weights, another input: other files.
    for other in (recipe(backbone={"head": "improved", "seed": 1}), recipe(backbone={"head": "linear"})):
        assert stored_features(other, slices, tmp_path, "cpu").maps != stored.maps


def test_what_a_cpu_and_a_gpu_compute_lies_in_files_of_their_own(tmp_path, monkeypatch):
    """They differ in their last bits, so that a run must find what its own device made. Names can be told without a GPU."""
    data, chosen = tiny_catalogue(tmp_path), recipe()
    slices = input_file(data, chosen.input)

    def stands_in(recipe, images, source, file, device, progress):
        np.save(file, np.full((len(images), 2, 1, 1, 1), len(device), np.float32))

    monkeypatch.setattr("tumorscope.training.features._compute", stands_in)
    maps = {device: stored_features(chosen, slices, tmp_path, device).maps for device in ("cpu", "cuda")}
    assert [np.load(maps[device])[0, 0].item() for device in maps] == [3, 4]
    monkeypatch.setattr("tumorscope.training.pretrain.pretrain", lambda *_, **__: None)
    chosen = recipe(backbone={"weights": "pretrain"})
    asked = (chosen, slices, np.zeros(76), np.arange(8), 0)
    assert fold_weights(*asked, "cpu", lambda *_: None) != fold_weights(*asked, "cuda", lambda *_: None)


def test_texture_is_standardised_with_the_training_part_alone(tmp_path):
    texture = {"properties": ["energy", "contrast"], "levels": 16, "angles": [0.0]}
    chosen = recipe("texture", {"head": "improved", "texture": texture})
    images, labels = drawn()
    data = catalogue(tmp_path / "data", images, labels)
    (run,) = train(chosen, data, runs=tmp_path / "runs", workers=1)
    weights = read_source(run / "fold-0" / "weights.safetensors", "resnet10t").tensors
    facts = json.loads((run / "environment.json").read_text())
    assert facts["recipe"]["model"]["backbone"]["texture"]["levels"] == 16
    from tumorscope.protocols import folds
    from tumorscope.transforms.texture import texture_values

    rows = folds("official", data.table, 0)[0].train
    values = texture_values(input_pixels(data, chosen.input)[rows], chosen.model.backbone.texture)
    np.testing.assert_allclose(weights["head.branch.mean"], values.mean(0), rtol=1e-4)
    np.testing.assert_allclose(weights["head.branch.deviation"], values.std(0, ddof=1), rtol=1e-4)
    with pytest.raises(TumorscopeError, match="texture is computed outside the network"):
        load_network(run / "fold-0", chosen)


@pytest.mark.parametrize("method", ["simclr", "labels"])
def test_weights_of_a_fold_do_not_know_its_validation_and_test_slices(method, tmp_path):
    """Noise in their place leaves the learnt weights as they are, bit for bit."""
    chosen = recipe("learnt", {"weights": "pretrain"}, pretrain={"method": method, "epochs": 1, "batch_size": 16})
    images, labels = drawn()
    from tumorscope.protocols import folds

    fold = folds("official", catalogue(tmp_path / "look", images, labels).table, 0)[0]
    blind = images.copy()
    blind[np.concatenate([fold.validation, fold.test])] = 7
    made = []
    for name, stack in (("seen", images), ("blind", blind)):
        data = catalogue(tmp_path / name, stack, labels)
        train(chosen, data, runs=tmp_path / f"{name}-runs", workers=1)
        (file,) = (tmp_path / name).glob("weights-*.safetensors")
        made.append(read_source(file, "resnet10t").tensors)
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_under_cross_validation_each_fold_learns_weights_on_its_own_training_slices(tmp_path, monkeypatch):
    """What each fold's pretraining is given, and whose weights its head lies on; the learning itself is stood in for."""
    chosen = recipe("learnt", {"weights": "pretrain"}, training={"epochs": 1, "batch_size": 64})
    data = tiny_catalogue(tmp_path / "data")
    slices = np.array(input_pixels(data, chosen.input))
    given: dict[str, np.ndarray] = {}

    def stands_in(recipe, images, labels, file, header, *, seed, device, progress):
        drawn = make_features(Backbone(name="resnet10t", weights="none", seed=len(given)), 32, None)
        save_weights(file, drawn.state_dict(), header)
        given[file_sha256(file)] = images

    monkeypatch.setattr("tumorscope.training.pretrain.pretrain", stands_in)
    (run,) = train_runs(chosen, data, "patient-cv", [0], runs=tmp_path / "runs", workers=1)
    scored = read_predictions(run)
    rows = {path: row for row, path in enumerate(data.table["path"])}
    folders = sorted(run.glob("fold-*"))
    assert len(folders) == len(given) == 5
    for number, folder in enumerate(folders):
        header = read_source(folder / "weights.safetensors", "resnet10t").header
        held = [rows[path] for path in scored.loc[scored["fold"] == number, "path"]]
        np.testing.assert_array_equal(given.pop(header["backbone_sha256"]), np.delete(slices, held, axis=0))


def test_a_run_of_a_backbone_that_its_fold_learnt_is_whole_without_the_cache_and_elsewhere(tmp_path, monkeypatch):
    """The run is moved and the cache deleted; the learning itself is stood in for."""
    chosen = recipe("learnt", {"weights": "pretrain"}, training={"epochs": 1, "batch_size": 64})
    data = tiny_catalogue(tmp_path / "data")

    def stands_in(recipe, images, labels, file, header, *, seed, device, progress):
        drawn = make_features(Backbone(name="resnet10t", weights="none", seed=5), 32, None)
        save_weights(file, drawn.state_dict(), header)

    monkeypatch.setattr("tumorscope.training.pretrain.pretrain", stands_in)
    (run,) = train_runs(chosen, data, "official", [0], runs=tmp_path / "runs", workers=1)
    images = torch.from_numpy(np.array(input_pixels(data, chosen.input))[:, None])
    before = predict(load_network(run / "fold-0", chosen), images)
    (learnt,) = (tmp_path / "data").glob("weights-*.safetensors")
    learnt.unlink()
    moved = run.rename(tmp_path / "moved")
    assert torch.equal(predict(load_network(moved / "fold-0", chosen), images), before)
    header = read_source(moved / "fold-0" / "weights.safetensors", "resnet10t").header
    assert str(tmp_path) not in json.dumps(header)
    write_pixels(data, SHOWN_SIZE, np.zeros((76, SHOWN_SIZE, SHOWN_SIZE), np.uint8))
    assert write_report(tmp_path / "report", report_of(by_model([moved]), data)).exists()
    # A run from before the weights lay there says where they are.
    (moved / "fold-0" / BACKBONE).rename(learnt)
    tensors, _ = read_weights(moved / "fold-0" / "weights.safetensors")
    save_weights(moved / "fold-0" / "weights.safetensors", tensors, header | {"backbone": str(learnt)})
    assert torch.equal(predict(load_network(moved / "fold-0", chosen), images), before)


@pytest.mark.parametrize("method", ["simclr", "barlow_twins", "labels"])
def test_pretraining_goes_on_where_it_stopped(method, tmp_path):
    chosen = recipe(pretrain={"method": method, "epochs": 3, "batch_size": 16})
    images, labels = drawn()
    slices = np.stack([as_input(image, 32, 30) for image in images])
    whole = pretrain(chosen, slices, labels, tmp_path / "whole.safetensors", {})

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        pretrain(chosen, slices, labels, tmp_path / "parts.safetensors", {}, progress=stop)
    assert not (tmp_path / "parts.safetensors").exists()
    epochs: list[int] = []
    parts = pretrain(
        chosen, slices, labels, tmp_path / "parts.safetensors", {}, progress=lambda done, _: epochs.append(done)
    )
    assert epochs == [3]
    one, other = (read_source(file, "resnet10t").tensors for file in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["parts.safetensors", "whole.safetensors"]


def test_an_interrupted_pretraining_is_not_gone_on_with_on_other_slices_or_beside_another_set(tmp_path, monkeypatch):
    from tumorscope.training import pretrain as module

    def stop(*_):
        raise KeyboardInterrupt

    images, labels = drawn()
    images = np.stack([as_input(image, 32, 30) for image in images])
    chosen = recipe(pretrain={"method": "simclr", "epochs": 2, "batch_size": 16})
    file = tmp_path / "w.safetensors"
    with pytest.raises(KeyboardInterrupt):
        pretrain(chosen, images, labels, file, {ORIGIN: "{}"}, progress=stop)
    assert len(list(tmp_path.glob(".w.*.checkpoint.safetensors"))) == 1

    def never(*_):
        raise AssertionError("went on with another run's checkpoint")

    monkeypatch.setattr(module, "load_checkpoint", never)
    for slices, header in ((images[::-1], {ORIGIN: "{}"}), (images, {ORIGIN: '{"apart_from": ["a"]}'})):
        with pytest.raises(KeyboardInterrupt):
            pretrain(chosen, slices, labels, file, header, progress=stop)
    with pytest.raises(AssertionError, match="went on"):
        pretrain(chosen, images, labels, file, {ORIGIN: "{}"})


def test_a_head_is_not_put_on_other_weights_than_it_was_trained_on(tmp_path):
    """The file that the recipe names is replaced after training."""
    file = tmp_path / "w.safetensors"
    for seed in (1, 2):
        network = make_features(Backbone(name="resnet10t", weights="none", seed=seed), 32, None)
        save_weights(file, network.state_dict(), {})
        if seed == 1:
            chosen = recipe("held", {"weights": f"file:{file}"})
            data = tiny_catalogue(tmp_path / "data")
            (run,) = train(chosen, data, runs=tmp_path / "runs", workers=1)
            load_network(run / "fold-0", chosen)
    with pytest.raises(RunMismatch, match="trained on other weights of resnet10t"):
        load_network(run / "fold-0", chosen)
    with pytest.raises(RunMismatch, match="another weights"):
        train(chosen, data, runs=tmp_path / "runs", workers=1, resume=True)


def test_weights_learnt_elsewhere_are_refused_unless_proven_apart(tmp_path):
    data = tiny_catalogue(tmp_path / "data")
    slices = np.array(input_pixels(data, recipe().input))
    for apart_from, refused in (([], True), ([data.digest], False)):
        origin = json.dumps({"name": "other.zip", "apart_from": apart_from})
        file = pretrain(recipe(), slices, None, tmp_path / f"{refused}.safetensors", {ORIGIN: origin})
        chosen = recipe(f"from-{refused}".lower(), {"weights": f"file:{file}"})
        if refused:
            with pytest.raises(
                SplitLeak, match=r"learnt on other.zip, which is not proven apart from tiny.*--apart-from"
            ):
                train(chosen, data, runs=tmp_path / "runs", workers=1)
            assert not (tmp_path / "runs").exists()
        else:
            need_apart(read_source(file, "resnet10t"), data)
            train(chosen, data, runs=tmp_path / "runs", workers=1)


def test_the_refusal_names_every_set_of_a_joined_and_extended_one_and_following_it_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    parts = [replace(tiny_catalogue(tmp_path / name, seed), name=name) for seed, name in enumerate("abc")]
    whole = extend(join(*parts[:2]), parts[2])
    assert [part.name for part in whole.sets] == ["a", "b", "c"]
    file = tmp_path / "w.safetensors"

    def learnt(apart_from):
        origin = json.dumps({"name": "other.zip", "apart_from": [part.digest for part in apart_from]})
        return Source(file, {}, "", {ORIGIN: origin}, ())

    with pytest.raises(SplitLeak) as refused:
        need_apart(learnt(parts[:1]), whole)
    options = " ".join(f"--apart-from {part.origin}" for part in parts)
    assert f"not proven apart from b and c. Make it with tumorscope pretrain {options}, or" in str(refused.value)
    need_apart(learnt(parts), whole)


def test_pictures_that_a_set_knows_are_left_out_mirrored_ones_too(tmp_path, monkeypatch):
    """Of four new images two are a slice of the set again: one as it is, one mirrored and stored as JPEG."""
    from tumorscope.data.catalogue import load_catalogue
    from tumorscope.data.phantom.archive import write_phantom

    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    archive = write_phantom(tmp_path / "phantom.zip", patients_per_class=4, slices_per_patient=3, size=128)
    known = load_catalogue(archive)
    other = write_phantom(tmp_path / "other.zip", patients_per_class=4, slices_per_patient=3, size=128, seed=77)
    folder = tmp_path / "more" / "heads"
    folder.mkdir(parents=True)
    for name, archived, turned in (("a", archive, 1), ("b", archive, -1), ("c", other, 1), ("d", other, -1)):
        with zipfile.ZipFile(archived) as zipped:
            member = next(item for item in zipped.namelist() if item.endswith(".png") and "mask" not in item.lower())
            grey = np.asarray(Image.open(io.BytesIO(zipped.read(member))).convert("L"))
        Image.fromarray(grey[:, ::turned].copy()).save(folder / f"{name}.{'png' if turned > 0 else 'jpg'}")
    (folder / "note.jpg").write_text("no image")
    pictures = read_pictures(tmp_path / "more", Input(size=32))
    assert (len(pictures.labels), pictures.classes, pictures.refused) == (4, ("heads",), 1)
    left = apart(pictures, tmp_path / "more", known)
    assert len(left.labels) == 2
    np.testing.assert_array_equal(left.images, pictures.images[2:])


def test_from_other_images_to_a_trained_run_by_command_line(tmp_path, monkeypatch):
    from tumorscope.data.phantom.archive import write_phantom

    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_phantom(tmp_path / "set.zip", patients_per_class=4, slices_per_patient=3, size=96)
    write_phantom(tmp_path / "heads.zip", patients_per_class=3, slices_per_patient=3, size=96, seed=5)
    Path("tiny.toml").write_text(recipe("tiny").toml())
    call = [
        "pretrain",
        "tiny.toml",
        "--data",
        "heads.zip",
        "--apart-from",
        "set.zip",
        "--set",
        "pretrain.method=labels",
        "--set",
        "input.size=40",
        "--set",
        "model.backbone.channels=1",
        "--set",
        "training.epochs=1",
    ]
    told = CliRunner().invoke(app, call, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    file = Path("weights/tiny-heads.safetensors")
    assert str(file.resolve()) in told.output
    (following,) = (line for line in told.output.splitlines() if line.startswith("Next: tumorscope "))
    command = following.removeprefix("Next: tumorscope ")
    assert command == (
        "train tiny.toml --data set.zip --set input.size=40 --set model.backbone.channels=1 --set training.epochs=1 "
        f"--set model.backbone.weights=file:{file}"
    )
    told = CliRunner().invoke(app, [*shlex.split(command), "--workers", "1"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    origin = json.loads(read_source(file, "resnet10t").header[ORIGIN])
    assert (origin["slices"], origin["method"]) == (36, "labels")


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        (["compact_cnn"], RecipeError, "compact_cnn has no backbone; name one in"),
        (["vgg16", "--set", "input.size=16"], RecipeError, "vgg16 does not take 16x16"),
        (
            ["resnet50", "--set", "input.enlarged_from=30", "--set", "input.filter=mfcn"],
            RecipeError,
            "resnet50: its slices are made for each fold, which other images have none of",
        ),
        (["resnet50", "--device", "abacus"], InputRejected, "abacus"),
        (["resnet50"], DataNotFound, "gone.zip"),
    ],
)
def test_what_cannot_be_pretrained_is_said_before_images_are_read(more, error, says, tmp_path):
    told = CliRunner().invoke(app, ["pretrain", *more, "--data", str(tmp_path / "gone.zip")])
    assert isinstance(told.exception, error)
    assert says in str(told.exception)


def test_a_weights_file_that_file_would_not_take_is_refused():
    told = CliRunner().invoke(app, ["pretrain", "resnet50", "--data", "gone.zip", "--out", "w.pth"])
    assert told.exit_code == 2
    assert "w.pth: weights are .safetensors files" in told.output


def test_images_without_labels_are_enough_and_none_may_be_left(tmp_path, monkeypatch):
    """A flat folder: one of three images is no image, and against a set that holds all of them nothing is left to learn on."""
    from tumorscope.data.phantom.archive import write_phantom

    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    archive = write_phantom(tmp_path / "set.zip", patients_per_class=2, slices_per_patient=3, size=96)
    Path("flat").mkdir()
    with zipfile.ZipFile(archive) as zipped:
        names = [name for name in zipped.namelist() if "glioma" in name and "mask" not in name][:2]
        for number, name in enumerate(names):
            Path("flat", f"{number}.png").write_bytes(zipped.read(name))
    Path("flat", "note.png").write_text("no image")
    Path("tiny.toml").write_text(recipe("tiny", pretrain={"method": "simclr", "epochs": 1, "batch_size": 2}).toml())
    call = ["pretrain", "tiny.toml", "--data", "flat"]
    told = CliRunner().invoke(app, call, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert "Left out: 1 files that are no readable image." in told.output
    assert (
        "Training refuses these weights on any set: name the set that is trained on with --apart-from." in told.output
    )
    origin = json.loads(read_source(Path("weights/tiny-flat.safetensors"), "resnet10t").header[ORIGIN])
    assert (origin["slices"], origin["method"], origin["apart_from"]) == (2, "simclr", [])
    told = CliRunner().invoke(app, [*call, "--apart-from", "set.zip", "--out", "none.safetensors"])
    assert "every image of it is a slice of set.zip" in str(told.exception)
    assert not Path("none.safetensors").exists()
    told = CliRunner().invoke(app, [*call, "--set", "pretrain.method=labels"])
    assert "it needs two classes at least" in str(told.exception)


def test_the_commands_help_names_every_method_and_option():
    told = CliRunner().invoke(app, ["pretrain", "--help"], env={"COLUMNS": "200"}, catch_exceptions=False).output
    methods = get_args(Pretrain.model_fields["method"].annotation)
    options = ("--data", "--apart-from", "--out", "--set", "--seed", "--device")
    assert [word for word in (*methods, *options) if word not in told] == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"imbalance": {"method": "random", "targets": {"glioma": {"count": 9}}}}, "imbalance.method changes pixels"),
        ({"augment": {"rotate": 5.0}}, "augment.rotate changes pixels"),
        ({"input": {"size": 32, "normalise": "standard"}}, "normalise = backbone or unit"),
        ({"input": {"size": 32, "enlarged_from": 32}}, "from 8 to below size"),
        (
            {"model": {"name": "improved_cnn", "backbone": {"name": "vgg16"}}},
            'goes with model.name = "backbone" or "region_unet"',
        ),
        ({"backbone": {"unfrozen": 1, "texture": {}}}, "texture goes with model.name"),
        ({"backbone": {"texture": {"distances": [1, 32]}}}, "no pixels are 32 apart in slices of 32"),
        ({"backbone": {"gradual": 2}}, "unfrozen = 0 trains none"),
        ({"backbone": {"rate_decay": 0.5}}, "unfrozen = 0 trains none"),
    ],
)
def test_what_cannot_be_is_said_before_training(more, says):
    with pytest.raises(RecipeError, match=says):
        recipe(**more)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("weights=file:gone.safetensors", "model.backbone.weights: file:gone.safetensors: no such file"),
        ("name=vgg61", "model.backbone.name: timm "),
    ],
)
def test_missing_weights_and_networks_are_said_before_the_data_are_read(wrong, says, tmp_path):
    call = ["train", "resnet10_128", "--set", f"model.backbone.{wrong}", "--data", str(tmp_path / "gone.zip")]
    told = CliRunner().invoke(app, call)
    assert str(told.exception).startswith(says)
