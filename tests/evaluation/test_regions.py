"""Region scores by hand, and the region network's promise that labels do not reach the map."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from tumorscope.config import Backbone, Model, load_recipe
from tumorscope.errors import RecipeError
from tumorscope.evaluation.evaluate import presence_by_size
from tumorscope.evaluation.regions import dice, region_scores, summary
from tumorscope.files import as_json
from tumorscope.labels import CLASSES, INDEX
from tumorscope.models.backbones import trunk_of
from tumorscope.models.regions import evidence_of
from tumorscope.models.registry import build
from tumorscope.training.losses import region_loss

UNET = Model(name="region_unet", filters=(4, 6, 8))
ON_A_BACKBONE = Model(
    name="region_unet", filters=(4, 6, 8), backbone=Backbone(name="mobilenetv3_small_050", weights="none", unfrozen=2)
)


def test_dice_by_hand():
    one, other = np.zeros((3, 4, 4), bool), np.zeros((3, 4, 4), bool)
    one[0, 0, :2] = True  # two pixels, one of them shared with three: 2 * 1 / 5
    other[0, 0, 1:] = True
    one[1, 0, 0] = True  # none shared
    other[1, 3, 3] = True
    assert dice(one, other).tolist() == pytest.approx([0.4, 0, 1])


def test_presence_by_size_by_hand():
    """Two seeds of the same slices of 100 pixels: tumours of 3 and 1 in two patients each, one without a mask, two tumour-free.

    Chances of tumour-free slices are 0.2 and 0.6. Above 1.5 % stay the tumours of 3: seed 0 has 0.9 and 0.8, area 1; seed 1
    has 0.9 and 0.4, which beats one of the two: (1 + 1/2) / 2. The one of 0.1 without a mask would lower every size. All of
    seed 1 are halved, which changes no order within it, and would among the rows of both.
    """
    paths = ["a3", "a1", "b3", "b1", "unknown", "free", "also free"]
    regions = pd.DataFrame({"path": paths, "mask_pixels": [3, 1, 3, 1, np.nan, 0, 0]}).iloc[::-1]
    labels = ["glioma"] * 5 + ["notumor"] * 2
    patients = ["a", "a", "b", "b", "b", "a", "b"]
    seeds = []
    for chances in ([0.9, 0.1, 0.8, 0.5, 0.1, 0.2, 0.6], [0.9, 0.1, 0.4, 0.5, 0.1, 0.2, 0.6]):
        told = np.array(chances) / (len(seeds) + 1)
        answers = {"p_glioma": told, "p_meningioma": 0.0, "p_notumor": 1 - told, "p_pituitary": 0.0}
        seeds.append(pd.DataFrame({"path": paths, "label": labels, "patient": patients, "source": "", **answers}))
    found = presence_by_size(seeds, [regions, regions], 100)
    assert found["above 1.5%"]["tumours"] == 2
    assert found["above 1.5%"]["auc"] == pytest.approx((1 + 0.75) / 2)
    assert found["above 1.5%"]["auc_sd"] == pytest.approx(0.25 / math.sqrt(2))
    # A resample of patient b alone has 0.8 and 0.4 against 0.6 twice; of a alone 0.9 against 0.2.
    assert (found["above 1.5%"]["auc_low"], found["above 1.5%"]["auc_high"]) == (0.5, 1)
    # Of tumours of 3 and 1: seed 0 beats 2, 0, 2 and 1 of two, seed 1 has 2, 0, 1 and 1.
    assert found["above 0.5%"] == found["above 0.0%"]
    assert found["above 0.5%"]["auc"] == pytest.approx((5 / 8 + 4 / 8) / 2)
    assert (found["above 4.0%"]["tumours"], found["above 4.0%"]["auc"]) == (0, None)
    small_alone = [one[one["path"].isin(["a1", "b1"])] for one in seeds]
    assert list(presence_by_size(small_alone, [regions, regions], 100)) == ["above 0.0%", "above 0.5%"]


class Known(torch.nn.Module):
    """Answers with evidence 4 where a slice is bright, -4 elsewhere."""

    def forward(self, images, regions=False):
        evidence = torch.where(images > 100, 4.0, -4.0)[:, 0]
        pixels = torch.zeros(len(images), 4, *images.shape[2:])
        pixels[:, INDEX["notumor"]] = -evidence
        return pixels.mean(dim=(2, 3)), pixels


class Left(torch.nn.Module):
    """Evidence is the grey value less 100, and 90 lower in the left half than in the right one."""

    def forward(self, images, regions=False):
        pixels = torch.zeros(len(images), 4, *images.shape[2:])
        pixels[:, INDEX["notumor"]] = 100 - images[:, 0].float()
        pixels[:, INDEX["notumor"], :, :5] += 90
        return pixels.mean(dim=(2, 3)), pixels


def test_regions_of_slice_and_mirror_are_their_mean_as_a_package_answers():
    images, masks = np.zeros((1, 10, 10), np.uint8), np.zeros((1, 10, 10), np.uint8)
    images[0, 2, 1], masks[0, 2, 1] = 180, 255  # evidence 80 - 90, in the mirror 80: 35 on average
    images[0, 7, 8] = 140  # 40, in the mirror 40 - 90: -5
    labels = np.array([INDEX["glioma"]])
    alone = region_scores(Left(), images, masks, labels, "cpu")
    both = region_scores(Left(), images, masks, labels, "cpu", mirror_average=True)
    assert alone[["region_pixels", "dice", "pointed"]].to_numpy().tolist() == [[1, 0, 0]]
    assert both[["region_pixels", "dice", "pointed"]].to_numpy().tolist() == [[1, 1, 1]]


def test_region_scores_and_their_summary_by_hand():
    images, masks = np.zeros((4, 10, 10), np.uint8), np.zeros((4, 10, 10), np.uint8)
    labels = np.array([INDEX[name] for name in ("glioma", "glioma", "notumor", "pituitary")])
    images[0, 0, :4], masks[0, 0, :4] = 200, 255  # found, all of it
    images[1, 9, 9], masks[1, 0, 0] = 200, 255  # elsewhere
    images[2, 5, 5] = 200  # a false region
    masks[3] = 128  # unknown
    scores = region_scores(Known(), images, masks, labels, "cpu")
    assert scores["dice"].tolist()[:2] == [1, 0]
    assert scores["dice"].isna().tolist() == [False, False, True, True]
    assert scores["pointed"].tolist()[:2] == [1, 0]
    assert scores["region_pixels"].tolist() == [4, 1, 1, 0]
    facts = {"path": ["a.png", "b.png", "c.png", "d.png"], "patient": ["P1", "P2", "P3", "P4"]}
    named = scores.assign(**facts, label=np.array(CLASSES)[labels], plane=["axial", "coronal", "", "axial"])
    found = summary(named, 100)
    twice = summary(pd.concat([named, named]), 100, seeds=2)  # two runs on the same slices
    assert as_json(twice) == as_json(found)
    assert found["by plane"]["axial"]["dice_mean"] == 1
    assert found["by plane"]["coronal"]["hit"] == 0
    assert found["by class"]["glioma"]["dice_mean"] == 0.5
    assert found["by class"]["glioma"]["hit"] == 0.5
    assert (found["tumour-free"]["slices"], found["tumour-free"]["with a region"]) == (1, 1.0)
    assert found["all"]["slices"] == 2
    assert math.isnan(found["by plane"]["axial"]["hit_low"])  # a single patient
    assert summary(named[named["label"] != "notumor"], 100)["tumour-free"] == {
        **{"slices": 0, "with a region": None},
        **{"with a region_low": None, "with a region_high": None},
    }
    assert found["all"]["mask_share"] == 0.025  # 4 and 1 of 100 pixels


def test_region_means_have_intervals_by_patient():
    """Of two patients a resample in four holds the one alone, and one the other."""
    regions = pd.DataFrame(
        {
            **{"path": ["a.png", "b.png", "c.png"], "patient": ["P1", "P1", "P2"], "label": "glioma", "plane": ""},
            **{"mask_pixels": 5, "region_pixels": 5, "dice": [0.5, 0.25, 0.0], "pointed": [0.0, 1.0, 1.0]},
        }
    )
    found = summary(regions, 100)["all"]
    assert (found["slices"], found["patients"]) == (3, 2)
    expected = {"hit": (2 / 3, 0, 1), "pointing": (2 / 3, 0.5, 1), "dice_mean": (0.25, 0, 0.375)}
    for name, told in expected.items():
        assert (found[name], found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(told), name


class Sure(torch.nn.Module):
    """Evidence is the grey value: above some 17 all probabilities are one in float32."""

    def forward(self, images, regions=False):
        pixels = torch.zeros(len(images), 4, *images.shape[2:])
        pixels[:, INDEX["notumor"]] = -images[:, 0].float()
        return pixels.mean(dim=(2, 3)), pixels


def test_the_highest_pixel_is_told_among_those_that_are_sure():
    images, masks = np.zeros((1, 10, 10), np.uint8), np.zeros((1, 10, 10), np.uint8)
    images[0, 2], images[0, 7, 7], masks[0, 7, 7] = 40, 60, 255
    scores = region_scores(Sure(), images, masks, np.array([INDEX["glioma"]]), "cpu")
    assert scores["pointed"].tolist() == [1]
    assert scores["peak"].tolist() == [1]


def test_of_equally_high_pixels_the_share_within_the_mask_counts():
    """Three pixels of 60, one of them in the mask; and a map that is the same everywhere, with a mask of 2 in 100 pixels."""
    images, masks = np.zeros((2, 10, 10), np.uint8), np.zeros((2, 10, 10), np.uint8)
    images[0, 7, 3:6], masks[0, 7, 5], masks[1, 4, :2] = 60, 255, 255
    scores = region_scores(Sure(), images, masks, np.array([INDEX["glioma"]] * 2), "cpu")
    assert scores["pointed"].tolist() == pytest.approx([1 / 3, 0.02])


@pytest.mark.parametrize("model", [UNET, ON_A_BACKBONE], ids=["plain", "on a backbone"])
def test_slice_answers_are_log_probabilities_and_follow_the_map(model):
    torch.manual_seed(0)
    network = build(model, 32).eval()
    slices, pixels = network(torch.rand(3, 1, 32, 32), regions=True)
    assert pixels.shape == (3, 4, 32, 32)
    torch.testing.assert_close(slices.exp().sum(1), torch.ones(3))
    network.pixels.bias.data[INDEX["notumor"]] -= 20  # tumour everywhere
    assert float(network(torch.rand(3, 1, 32, 32)).exp()[:, INDEX["notumor"]].max()) < 0.01
    network.pixels.bias.data[INDEX["notumor"]] += 40  # nowhere
    assert float(network(torch.rand(3, 1, 32, 32)).exp()[:, INDEX["notumor"]].min()) > 0.99


def test_pixels_of_a_plain_unet_differ_where_nothing_comes_from_below():
    """All features of the last stage far below zero, of which a rectifier makes zeros: the finest map still orders the pixels."""
    torch.manual_seed(0)
    network = build(UNET, 32).eval()
    network.up[-1][1].bias.data -= 100
    assert network.pixels.weight.shape == (4, 6 + 4, 3, 3)
    slices, pixels = network(torch.rand(3, 1, 32, 32), regions=True)
    assert all(len(one.unique()) > 500 for one in evidence_of(pixels).flatten(1))  # of 1024
    assert len(slices[:, INDEX["notumor"]].unique()) == 3


@pytest.mark.parametrize("model", [UNET, ON_A_BACKBONE], ids=["plain", "on a backbone"])
def test_tumour_or_none_reaches_neither_the_map_nor_the_features_below_it(model):
    network = build(model, 32)

    def moved(labels):
        network.zero_grad()
        slices = network(torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
        torch.nn.functional.nll_loss(slices, torch.tensor(labels)).backward()
        return {
            name for name, one in network.named_parameters() if one.grad is not None and (one.grad.abs() > 1e-7).any()
        }

    assert moved([INDEX["notumor"]] * 4) == {"presence"}
    by_type = moved([INDEX["glioma"], INDEX["meningioma"], INDEX["pituitary"], INDEX["glioma"]])
    assert not any(name.startswith("pixels") for name in by_type)
    assert any(name.startswith("encoder") for name in by_type), "the kind of tumour is learnt by nothing"


def test_region_loss_by_hand():
    """One pixel of four is tumour; logits are all zero: cross-entropy log 4, and Dice (2 * 0.75 + 1) / (4 * 0.75 + 1 + 1)."""
    masks = torch.tensor([[[[1.0, 0], [0, 0]]]])
    loss = region_loss(torch.zeros(1, 4, 2, 2), masks, torch.tensor([INDEX["glioma"]]), torch.tensor([True]))
    assert float(loss) == pytest.approx(np.log(4) + 1 - 2.5 / 5)
    nothing = region_loss(torch.zeros(1, 4, 2, 2), masks, torch.tensor([0]), torch.tensor([False]))
    assert float(nothing) == 0


@pytest.mark.parametrize("size", [30, 48, 96])
def test_any_size_gives_a_map_of_its_own_size(size):
    recipe = load_recipe("region_unet", {"input.size": size})
    _, pixels = build(recipe.model, size)(torch.rand(2, 1, size, size), regions=True)
    assert pixels.shape == (2, 4, size, size)
    assert evidence_of(pixels).shape == (2, size, size)


def test_on_a_backbone_every_level_has_a_stage_on_the_way_up_as_the_shipped_weights_have():
    network = build(ON_A_BACKBONE, 32)
    assert [stage[0].out_channels for stage in network.up] == [8, 6, 4]
    assert network.pixels.weight.shape == (4, 4, 1, 1)


def test_a_backbones_frozen_stages_stand_still_and_what_lies_behind_its_levels_is_cut_off():
    network = build(ON_A_BACKBONE, 64)
    trunk = trunk_of(network)
    trunk.unfreeze(0)
    assert network.encoder.channels == [entry["num_chs"] for entry in trunk.features.feature_info][:4]
    frozen = [
        value  # of its own: frames hold later stages too
        for stage in trunk.stages[:-2]
        for module in stage
        for value in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    ]
    before = [value.clone() for value in frozen]
    assert len(frozen) > 20
    groups = trunk.rate_groups(network)
    optimiser = torch.optim.SGD([{"params": group} for group, _ in groups], lr=0.1)
    slices, pixels = network.train()(torch.rand(4, 1, 64, 64), regions=True)
    (slices.mean() + pixels.square().mean()).backward()
    optimiser.step()
    assert all(torch.equal(one, other) for one, other in zip(before, frozen, strict=True))
    trained = {id(parameter) for group, _ in groups for parameter in group}
    assert trained == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}


def test_more_levels_than_a_backbone_has_are_refused():
    with pytest.raises(RecipeError, match="7 levels of mobilenetv3_small_050, which gives 5"):
        build(ON_A_BACKBONE.model_copy(update={"filters": (4,) * 6}), 64)


def test_a_slice_too_small_for_its_levels_is_refused():
    with pytest.raises(RecipeError, match="for 8x8 input; give 3 to 4 levels"):
        build(Model(name="region_unet", filters=(4, 4, 4, 4, 4)), 8)
    with pytest.raises(RecipeError, match="give 3 to 4 levels"):
        build(Model(name="region_unet", filters=(4, 4)), 8)


def test_an_empty_part_gives_an_empty_table():
    empty = np.zeros((0, 4, 4), np.uint8)
    assert isinstance(region_scores(Known(), empty, empty, np.zeros(0, int), "cpu"), pd.DataFrame)
