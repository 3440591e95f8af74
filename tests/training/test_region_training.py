"""Region models through the whole way: masks from the data or from their figshare twins, training, scores, resume."""

import hashlib
import io
import json
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tumorscope.api import train
from tumorscope.config import load_recipe
from tumorscope.data.cache import pixels
from tumorscope.data.catalogue import load_catalogue
from tumorscope.data.masks import INSIDE, UNKNOWN, masks, need_proportions, tumour_of
from tumorscope.data.phantom.archive import write_phantom
from tumorscope.errors import DataNotFound, InputRejected, RecipeError
from tumorscope.evaluation.augmentation import augmentation_page
from tumorscope.evaluation.package_scores import _region
from tumorscope.inference.classifier import Finding

TINY = {
    **{"model.filters": [4, 8, 12], "training.epochs": 2, "training.batch_size": 16, "input.size": 32},
    **{"augment.paste": 0.5, "augment.remove": 0.5, "augment.seam": 0.3},
}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUMORSCOPE_HOME", str(folder / "home"))
        yield load_catalogue(write_phantom(folder / "phantom.zip", patients_per_class=6, slices_per_patient=3, size=96))


def test_masks_of_the_data_are_those_of_the_files(phantom):
    found = np.load(masks(phantom, 96))
    source = phantom.source()
    for row, name in enumerate(phantom.table["mask"]):
        if phantom.table["label"][row] == "notumor":
            assert not found[row].any()
        else:
            file = np.asarray(Image.open(io.BytesIO(source.read(name)))) > 127
            np.testing.assert_array_equal(found[row] == INSIDE, file)


def test_a_mask_of_ones_is_one_of_whites_and_a_black_one_shows_nothing():
    drawn = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    assert tumour_of(drawn).tolist() == tumour_of(255 * drawn).tolist() == [[False, True, True], [False, False, True]]
    assert not tumour_of(0 * drawn).any()


#: A mask of 20 x 20 pixels at 0.55 of its largest value, 10 x 10 of them at it, and some below half.
LEVELS = np.zeros((40, 40))
LEVELS[10:30, 10:30], LEVELS[10:20, 10:20], LEVELS[2:8, 2:8] = 0.55, 1, 0.45


def mask_file(kind: str, levels: np.ndarray = LEVELS) -> bytes:
    """`levels` as a picture of 8 or 16 bits, of floats, or a TIFF of 16 bits whose 0 is white."""
    buffer = io.BytesIO()
    if kind == "float":
        Image.fromarray(levels.astype(np.float32)).save(buffer, "TIFF")
    elif kind == "white is 0":
        Image.fromarray(np.round((1 - levels) * 60000).astype(np.uint16)).save(buffer, "TIFF", tiffinfo={262: 0})
    else:
        most, depth = {"8 bit": (200, np.uint8), "16 bit": (60000, np.uint16)}[kind]
        Image.fromarray(np.round(levels * most).astype(depth)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["8 bit", "16 bit", "float", "white is 0"])
def test_a_mask_of_any_depth_is_what_lies_above_half_of_its_largest_value(kind, tmp_path, monkeypatch):
    """20 x 20 pixels, at both places that read masks: a window would make the 100 whitest all of them."""
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "set"
    for name in ("glioma", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "glioma" / "a.png").write_bytes(mask_file("8 bit"))
    (folder / "masks" / "a.tif").write_bytes(mask_file(kind))
    (folder / "metadata.csv").write_text("path,mask\nglioma/a.png,masks/a.tif\n")
    catalogue = load_catalogue(folder)
    np.testing.assert_array_equal(np.load(masks(catalogue, 40))[0] == INSIDE, LEVELS > 0.5)
    found = Finding("a", "accepted", heat=np.zeros((40, 40), np.uint8), highest=np.ones((40, 40), bool))
    assert _region(found, catalogue.source(), "masks/a.tif", [])["mask_pixels"] == 400


def test_a_black_mask_says_nothing_of_its_tumour_and_one_that_lies_across_is_refused(tmp_path, monkeypatch):
    """Two tumours of 80 x 60 pixels, one with a mask of half its size and one without a white pixel."""
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    for name in ("glioma", "masks"):
        (tmp_path / name).mkdir()
    for name, mask in (("a", LEVELS[:30] > 0.5), ("b", np.zeros((30, 40)))):
        (tmp_path / "glioma" / f"{name}.png").write_bytes(
            mask_file("8 bit", np.kron(LEVELS[:30], np.ones((2, 2))) + (name == "b") / 20)
        )
        (tmp_path / "masks" / f"{name}.png").write_bytes(mask_file("8 bit", mask))
    (tmp_path / "metadata.csv").write_text("path,mask\nglioma/a.png,masks/a.png\nglioma/b.png,masks/b.png\n")
    known, black = np.load(masks(load_catalogue(tmp_path), 20))
    assert 0 < (known == INSIDE).sum() < 400
    assert (black == UNKNOWN).all()
    (tmp_path / "masks" / "b.png").write_bytes(mask_file("8 bit", LEVELS[:, :30]))
    with pytest.raises(
        InputRejected, match=r"masks/b\.png: 30 x 40 pixels; its slice's proportions, of 80 x 60\. Turn or"
    ):
        masks(load_catalogue(tmp_path), 20)


@pytest.mark.parametrize(
    ("mask", "shape", "fits"),
    [
        ((300, 200), (150, 100), True),
        ((151, 100), (301, 200), True),
        ((60, 128), (235, 495), True),
        ((75, 56), (301, 200), False),
        ((100, 150), (150, 100), False),
    ],
)
def test_proportions_are_the_same_but_for_rounding(mask, shape, fits):
    """151 x 100 is 301 x 200 halved and rounded up, 60 x 128 is 235 x 495 made smaller and cut; 75 x 56 would be 268 x 200."""
    for one, other in ((mask, shape), (mask[::-1], shape[::-1])):
        if fits:
            need_proportions("mask", one, other)
        else:
            with pytest.raises(InputRejected, match="proportions"):
                need_proportions("mask", one, other)


def test_a_mask_is_known_by_its_bytes_and_refused_when_they_change(phantom, tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    with zipfile.ZipFile(phantom.origin) as archive:
        archive.extractall(tmp_path / "set")
    found = load_catalogue(tmp_path / "set")
    named = found.table[found.table["mask"] != ""]
    digests = [hashlib.sha256((tmp_path / "set" / name).read_bytes()).hexdigest() for name in named["mask"]]
    assert named["mask_sha256"].tolist() == digests
    first = named[named["label"] != "notumor"].iloc[0]
    Image.new("L", (96, 96), 255).save(tmp_path / "set" / first["mask"])
    with pytest.raises(InputRejected, match="changed since it was catalogued"):
        masks(found, 32)
    again = load_catalogue(tmp_path / "set")
    assert again.digest == found.digest  # no slice has changed
    assert (np.load(masks(again, 32))[again.table["path"] == first["path"]] == INSIDE).all()


def test_a_catalogue_of_an_earlier_version_is_made_again_and_stays_the_same(phantom, tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    found = load_catalogue(phantom.origin)
    found.table.drop(columns="mask_sha256").to_csv(found.folder / "catalogue.csv", index=False)
    again = load_catalogue(phantom.origin)
    pd.testing.assert_frame_equal(again.table, found.table)
    assert (again.digest, again.folder) == (found.digest, found.folder)


def test_a_cropped_mask_lies_where_the_cropped_tumour_lies(phantom):
    """A slice whose tumour is painted white keeps it under the mask, cropped and shrunk."""
    from tumorscope.data.decode import crop_like, crop_to_head, shrink

    source = phantom.source()
    tumours = phantom.table[phantom.table["label"] != "notumor"]
    for path, mask in zip(tumours["path"][:20], tumours["mask"][:20], strict=True):
        grey, inside = (np.array(Image.open(io.BytesIO(source.read(name))).convert("L")) for name in (path, mask))
        np.testing.assert_array_equal(crop_like(grey, grey), crop_to_head(grey))
        larger = np.asarray(Image.fromarray(inside).resize((192, 192), Image.Resampling.NEAREST))
        one, other = (shrink(crop_like(stack, grey), 48) > 127 for stack in (inside, larger))
        if one.any():
            assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.8


#: How a slice may lie beside its twin.
WAYS = {
    "as its twin": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "half turned": lambda image: image[::-1, ::-1],
}


@pytest.fixture(scope="module")
def twins(phantom, tmp_path_factory):
    """The phantom's tumours as a figshare set, and as a set without masks whose slices lie in each of `WAYS` in turn."""
    folder = tmp_path_factory.mktemp("twins")
    source, codes = phantom.source(), {"meningioma": 1, "glioma": 2, "pituitary": 3}
    rows = []
    with zipfile.ZipFile(folder / "figshare.zip", "w") as figshare, zipfile.ZipFile(folder / "plain.zip", "w") as plain:
        for number, row in enumerate(phantom.table.itertuples(), start=1):
            image = Image.open(io.BytesIO(source.read(row.path)))
            buffer = io.BytesIO()
            Image.fromarray(list(WAYS.values())[number % 4](np.asarray(image))).save(buffer, "PNG")
            plain.writestr(f"Training/{row.label}/{number}.png", buffer.getvalue())
            if row.label == "notumor":
                continue
            jpeg = io.BytesIO()
            image.save(jpeg, "JPEG", quality=95)
            figshare.writestr(f"images/{number}.jpg", jpeg.getvalue())
            figshare.writestr(f"masks/{number}.png", source.read(row.mask))
            rows.append({"id": number, "label": codes[row.label], "pid": row.patient, "fold": 1, "class": row.label})
        figshare.writestr("metadata.csv", pd.DataFrame(rows).to_csv(index=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUMORSCOPE_HOME", str(folder / "home"))
        yield load_catalogue(folder / "plain.zip"), folder / "figshare.zip"


@pytest.mark.parametrize("way", range(len(WAYS)), ids=list(WAYS))
def test_slices_get_the_mask_of_their_figshare_twin_turned_as_they_lie(phantom, twins, way):
    plain, figshare = twins
    found, ours = np.load(masks(plain, 96, figshare=figshare)), np.load(masks(phantom, 96))
    turned = list(WAYS.values())[way]
    tumours = 0
    for row, path in enumerate(plain.table["path"]):
        number = int(path.rsplit("/", 1)[1].removesuffix(".png"))
        if plain.table["label"][row] != "notumor" and number % 4 == way:
            np.testing.assert_array_equal(found[row], turned(ours[number - 1]))
            tumours += 1
    assert tumours >= 13  # of 54


def test_twins_masks_are_those_of_the_sets_content_wherever_it_lies(twins, tmp_path):
    plain, figshare = twins
    shutil.copy(figshare, tmp_path / "elsewhere.zip")
    assert masks(plain, 24, figshare=tmp_path / "elsewhere.zip") == masks(plain, 24, figshare=figshare)
    with zipfile.ZipFile(figshare) as whole, zipfile.ZipFile(tmp_path / "elsewhere.zip", "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            if name.startswith("masks/"):
                buffer = io.BytesIO()
                Image.new("L", Image.open(io.BytesIO(content)).size, 255).save(buffer, "PNG")
                content = buffer.getvalue()
            changed.writestr(name, content)
    other = np.load(masks(plain, 24, figshare=tmp_path / "elsewhere.zip"))
    assert (other[plain.table["label"] != "notumor"] == INSIDE).all()
    assert not (np.load(masks(plain, 24, figshare=figshare)) == INSIDE).all(axis=(1, 2)).any()


def test_without_any_mask_a_region_model_is_refused_with_the_remedy(twins, tmp_path):
    plain, figshare = twins
    with pytest.raises(DataNotFound, match=r"^regions\.masks: cheng-figshare\.zip: neither a path nor"):
        train(load_recipe("region_unet", TINY), plain, "picture-cv", [0], runs=tmp_path, workers=1)
    with pytest.raises(DataNotFound, match="no tumour mask is known"):
        masks(plain, 32)
    other = tmp_path / "unlike.zip"
    with zipfile.ZipFile(figshare) as whole, zipfile.ZipFile(other, "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            if name.startswith("images/"):
                noise = np.random.default_rng(len(content)).integers(0, 256, (96, 96), np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(noise).save(buffer, "PNG")
                content = buffer.getvalue()
            changed.writestr(name, content)
    asked = load_recipe("region_unet", {**TINY, "regions.masks": str(other)})
    with pytest.raises(DataNotFound, match=r"no tumour mask is known, .*unlike\.zip holds none of its slices"):
        train(asked, plain, "picture-cv", [0], runs=tmp_path, workers=1)
    smote = {"imbalance.method": "smote", "imbalance.targets.glioma": {"count": 50}}
    chosen = load_recipe("region_unet", {**TINY, **smote, "regions.masks": str(figshare)})
    with pytest.raises(RecipeError, match="which oversampling has none for"):
        train(chosen, plain, "picture-cv", [0], runs=tmp_path / "other", workers=1)


def test_a_run_says_where_its_masks_are_from_and_one_of_before_that_does_not_goes_on(phantom, twins, tmp_path):
    plain, figshare = twins
    masked = {"training.epochs": 1, "augment.paste": 0.5, "regions.masks": str(figshare)}
    for data, changes, says in (
        (plain, masked, "figshare"),
        (phantom, masked, "data"),
        (phantom, {"training.epochs": 1}, None),
    ):
        asked = (load_recipe("baseline_cnn", changes), data, "all", [0])
        where = {"runs": tmp_path / str(says), "workers": 1}
        (run,) = train(*asked, **where)
        facts = json.loads((run / "environment.json").read_text())
        assert facts.pop("masks_from", None) == says
        (run / "environment.json").write_text(json.dumps(facts))
        assert train(*asked, **where, resume=True) == [run]


def test_training_scores_regions_and_goes_on_with_the_same_bits(phantom, tmp_path):
    from tumorscope.training import loop

    recipe = load_recipe("region_unet", TINY)
    (run,) = train(recipe, phantom, "official", [0], runs=tmp_path / "whole", workers=1)
    regions = pd.read_csv(run / "regions.csv")
    tested = regions[regions["part"] == "test"]
    assert len(tested) == int((phantom.table["split"] == "test").sum())
    assert tested.loc[tested["label"] != "notumor", "dice"].between(0, 1).all()
    assert tested.loc[tested["label"] == "notumor", "dice"].isna().all()

    save = loop.save_checkpoint

    def stop(path, state):
        save(path, state)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, phantom, "official", [0], runs=tmp_path / "cut", workers=1)
    (again,) = train(recipe, phantom, "official", [0], runs=tmp_path / "cut", workers=1, resume=True)
    assert (again / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()


def test_the_loss_gets_masks_that_are_moved_as_the_slices_are_that_the_network_sees(monkeypatch):
    """Slices that are their own masks stay so, mirrored, turned, zoomed and shifted."""
    from tumorscope.training import loop
    from tumorscope.training.fold import open_fabric

    drawn = np.zeros((8, 32, 32), np.uint8)
    for row, one in enumerate(drawn):
        one[4 + row : 12 + row, 6:20] = INSIDE
    labels = np.array([0, 1, 3, 0, 1, 3, 0, 1])
    grey = ("contrast", "brightness", "gamma", "bias_field", "noise", "paste", "remove", "seam")
    geometry = {"augment.mirror": 0.5, "augment.rotate": 40, "augment.scale": 0.3, "augment.shift": 0.2}
    recipe = load_recipe("region_unet", {**TINY, **{f"augment.{name}": 0.0 for name in grey}, **geometry})
    seen, got = [], []
    forward, region_loss = loop.SliceNetwork.forward, loop.region_loss

    def looking(module, images, regions=False):
        if regions:
            seen.append(images.clone())
        return forward(module, images, regions)

    def asking(pixels, masks, *rest):
        got.append(masks.clone())
        return region_loss(pixels, masks, *rest)

    monkeypatch.setattr(loop.SliceNetwork, "forward", looking)
    monkeypatch.setattr(loop, "region_loss", asking)
    loop.fit(recipe, 0, (drawn, labels), (drawn, labels), masks=drawn, fabric=open_fabric("cpu"))
    assert len(seen) == len(got) == 2  # epochs of one batch
    lay = {one.tobytes() for one in drawn}
    for images, inside in zip(seen, got, strict=True):
        assert torch.equal((images > 127.5).float(), inside)
        assert not lay & {one.numpy().tobytes() for one in (inside * INSIDE).byte()}  # none where it lay


def test_slices_are_changed_at_random_after_tumours_were_pasted_and_removed(phantom, tmp_path):
    """Once the float batch that pasting gives was taken for stored features, and nothing else was drawn for it."""
    losses = []
    for noise in (0.0, 0.5):
        recipe = load_recipe("region_unet", {**TINY, "training.epochs": 1, "augment.noise": noise})
        (run,) = train(recipe, phantom, "official", [0], runs=tmp_path / str(noise), workers=1)
        losses.append(pd.read_csv(run / "fold-0" / "history.csv")["train_loss"][0])
    assert losses[0] != losses[1]


def test_a_plain_network_learns_from_counterfactual_slices_too(phantom, tmp_path):
    changes = {"augment.paste": 0.5, "augment.remove": 0.5, "training.epochs": 1}
    recipe = load_recipe("baseline_cnn", changes)
    plain, counterfactual = (
        train(chosen, phantom, "official", [0], runs=tmp_path / str(k), workers=1)[0]
        for k, chosen in enumerate((load_recipe("baseline_cnn", {"training.epochs": 1}), recipe))
    )
    history = [pd.read_csv(run / "fold-0" / "history.csv")["train_loss"][0] for run in (plain, counterfactual)]
    assert history[0] != history[1]
    assert not (counterfactual / "regions.csv").exists()


def test_the_page_shows_every_change_and_counterfactual_slices_where_masks_are_known(phantom, twins, tmp_path):
    recipe = load_recipe("compact_cnn")
    page = augmentation_page(recipe, phantom, tmp_path / "with").read_text()
    without = augmentation_page(recipe, twins[0], tmp_path / "without").read_text()
    for name in ("mirror", "bias_field", "mixup", "cutout", "noise", "compression", "resolution"):
        assert f"{name}" in page
        assert (tmp_path / "with" / "figures" / f"{name}.png").exists()
    assert "tumours removed" in page
    assert "tumours removed" not in without
    assert "All of the recipe&#39;s changes, draw 3" in page


def test_pixels_and_masks_of_one_recipe_have_one_shape(phantom):
    recipe = load_recipe("region_unet", TINY)
    assert np.load(masks(phantom, 32, "head")).shape == pixels(phantom, 32, crop=recipe.input.crop).shape
    assert json.loads(recipe.model_dump_json())["regions"]["masks"] == "cheng-figshare.zip"


def test_a_region_model_trains_on_every_picture_and_scores_nothing(phantom, tmp_path):
    (run,) = train(load_recipe("region_unet", TINY), phantom, "all", [0], runs=tmp_path, workers=1)
    assert pd.read_csv(run / "predictions.csv").empty
    assert pd.read_csv(run / "regions.csv").empty
    counts = json.loads((run / "environment.json").read_text())["folds"][0]
    assert counts == {"train": len(phantom.table), "validation": 0, "test": 0}
    assert (run / "fold-0" / "weights.safetensors").exists()


def test_members_are_trained_apart_and_answer_together(phantom, tmp_path, monkeypatch):
    """The first is the network that one alone would be; answers are the mean of chances, maps that of logits, by hand."""
    import torch

    from tumorscope.package.graph import largest_difference, to_onnx
    from tumorscope.training import loop
    from tumorscope.training.network import load_network

    (one,) = train(load_recipe("region_unet", TINY), phantom, "official", [0], runs=tmp_path / "one", workers=1)
    recipe = load_recipe("region_unet", {**TINY, "training.members": 2})
    (two,) = train(recipe, phantom, "official", [0], runs=tmp_path / "two", workers=1)
    alone = load_network(one / "fold-0", load_recipe(one / "recipe.toml")).network
    together = load_network(two / "fold-0", recipe)
    first, second = together.network.members
    weights = [part.state_dict() for part in (alone, first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])

    slices = torch.from_numpy(pixels(phantom, 32, crop="head")[:5].copy())[:, None]
    with torch.inference_mode():
        seen = together.scale(slices)
        parts = [member.explained(seen) for member in (first, second)]
        answers, maps = together(slices, regions=True)
        explained = together.network.explained(seen)
        assert torch.equal(together(slices), answers)
    by_hand = np.mean([np.exp(part[0].numpy()) for part in parts], axis=0)
    np.testing.assert_allclose(np.exp(answers.numpy()), by_hand, atol=1e-6)
    np.testing.assert_allclose(maps.numpy(), (parts[0][1] + parts[1][1]).numpy() / 2, atol=1e-5)
    assert torch.equal(explained[0], answers)
    assert torch.equal(explained[2], parts[0][2])

    graph = to_onnx(together, recipe)  # what a package of them answers with
    assert largest_difference(graph, together, recipe, pixels(phantom, 32, crop="head")) < 1e-4

    history = pd.read_csv(two / "fold-0" / "history.csv")
    assert history[["member", "epoch"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert not list((two / "fold-0").glob("checkpoint*"))

    save, told = loop.save_checkpoint, []

    def stop_in_the_second(path, state):
        save(path, state)
        if path.name == "checkpoint-1.safetensors":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, phantom, "official", [0], runs=tmp_path / "cut", workers=1)
    asked = (recipe, phantom, "official", [0])
    (again,) = train(*asked, runs=tmp_path / "cut", workers=1, resume=True, report=told.append)
    assert (again / "predictions.csv").read_bytes() == (two / "predictions.csv").read_bytes()
    epochs = [(event.done, event.total) for event in told if event.unit == "epochs" and not event.finished]
    assert epochs == [(4, 4)]


def test_heads_on_stored_features_have_no_members():
    """Said of the recipe, so that no features are computed first."""
    with pytest.raises(RecipeError, match=r"vgg16\.toml: training\.members: heads on a frozen backbone"):
        load_recipe("vgg16", {"training.members": 2})
