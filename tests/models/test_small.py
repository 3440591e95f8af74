"""The small networks: parameters layer by layer, shapes, and that ReLU after the pool is the usual order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tumorscope.config import Model, load_recipe, shipped_recipes
from tumorscope.errors import RecipeError
from tumorscope.models.registry import build, layer_table, model_names


def test_the_baselines_parameters_layer_by_layer():
    """9 x 32 + 32, 9 x 32 x 32 + 32, 6 x 6 x 32 x 32 + 32 and 32 x 4 + 4."""
    network = build(load_recipe("baseline_cnn").model, 30)
    table = layer_table(network, 30)
    assert [(layer.name, layer.output, layer.parameters) for layer in table] == [
        ("conv 32 3x3, zero padding", (32, 30, 30), 320),
        ("max-pool 2", (32, 15, 15), 0),
        ("relu", (32, 15, 15), 0),
        ("conv 32 3x3, no padding", (32, 13, 13), 9_248),
        ("max-pool 2", (32, 6, 6), 0),
        ("relu", (32, 6, 6), 0),
        ("flatten", (1152,), 0),
        ("dense 32", (32,), 36_896),
        ("relu", (32,), 0),
        ("dense 4", (4,), 132),
    ]
    assert sum(parameter.numel() for parameter in network.parameters()) == 46_596


def test_the_improved_networks_parameters_by_hand():
    """480 + 41,568 + 166,080 for the blocks, 3 x 3 x 192 x 128 + 128 and 128 x 4 + 4 for the dense layers."""
    table = layer_table(build(load_recipe("improved_cnn").model, 30), 30)
    assert [layer.parameters for layer in table if layer.parameters] == [480, 41_568, 166_080, 221_312, 516]
    assert [layer.output for layer in table if layer.name.startswith("max-pool")] == [
        (48, 15, 15),
        (96, 7, 7),
        (192, 3, 3),
    ]
    assert {layer.name for layer in table if "dropout" in layer.name} == {"dropout 0.07"}


@given(
    size=st.integers(8, 64),
    filters=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    convolutions=st.integers(1, 3),
    batch_norm=st.booleans(),
    classes=st.integers(2, 5),
)
@settings(max_examples=30, deadline=None)
def test_any_size_and_depth_that_fits_gives_logits_and_any_other_a_reason(
    size, filters, convolutions, batch_norm, classes
):
    model = Model(
        name="improved_cnn", filters=tuple(filters), convolutions=convolutions, batch_norm=batch_norm, dense=3
    )
    if 2 ** len(filters) > size:
        with pytest.raises(RecipeError, match=r"model\.filters"):
            build(model, size, classes)
        return
    network = build(model, size, classes)
    assert network(torch.rand(2, 1, size, size)).shape == (2, classes)
    convolved = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolved) == convolutions * len(filters)


@pytest.mark.parametrize("name", sorted({*model_names()} - {"backbone"}))
@pytest.mark.parametrize("size", [16, 30, 31, 64])
def test_every_registered_network_takes_grey_slices_and_gives_a_logit_a_class(name, size):
    model = load_recipe(name).model if name in shipped_recipes() else Model(name=name, filters=(8,))
    network = build(model, size).eval()
    images = torch.rand(3, 1, size, size)
    logits = network(images)
    assert logits.shape == (3, 4)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(network(images[1:2]), logits[1:2])  # a slice's answer does not depend on its batch
    # A slice's label must not reach a region map, so that is asked for too.
    asked = network(images, regions=True) if name == "region_unet" else (logits,)
    sum(one.sum() for one in asked).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def usual_order(network: nn.Sequential) -> nn.Sequential:
    """The same layers with every ReLU moved before the pool that it follows."""
    layers = list(network)
    for i in range(1, len(layers)):
        if isinstance(layers[i], nn.ReLU) and isinstance(layers[i - 1], nn.MaxPool2d):
            layers[i - 1], layers[i] = layers[i], layers[i - 1]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    "model",
    [Model(name="baseline_cnn"), Model(name="improved_cnn", filters=(4, 8), convolutions=2, batch_norm=True)],
    ids=["baseline_cnn", "improved_cnn"],
)
def test_relu_after_the_pool_equals_the_usual_order_in_outputs_and_gradients(model):
    torch.manual_seed(0)
    ours = build(model, 30)
    theirs = usual_order(ours)
    assert [type(layer) for layer in ours] != [type(layer) for layer in theirs]
    images = torch.rand(16, 1, 30, 30).round(decimals=1)  # ties and blank regions as in real slices
    images[:, :, :12] = 0
    found = []
    for network in (ours, theirs):
        network.zero_grad()
        logits = network(images)
        logits.logsumexp(1).sum().backward()
        found.append([logits, *(parameter.grad.clone() for parameter in ours.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_layer_table_leaves_the_network_as_it_was():
    network = build(load_recipe("improved_cnn").model, 30).train()
    layer_table(network, 30)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
