"""SMOTE: counts by hand, originals untouched, and synthetic slices where the paper puts them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorscope.config import Imbalance, load_recipe
from tumorscope.errors import RecipeError
from tumorscope.labels import CLASSES, INDEX
from tumorscope.transforms.oversample import oversample

IMPROVED = load_recipe("improved_cnn").imbalance


def slices(counts: tuple[int, ...], seed: int = 0, side: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(CLASSES)), counts))
    return random.integers(0, 256, size=(len(labels), side, side), dtype=np.uint8), labels


def smote(share: float = 0.85, name: str = "glioma", of: str = "notumor", neighbours: int = 5) -> Imbalance:
    return Imbalance.model_validate(
        {"method": "smote", "neighbours": neighbours, "targets": {name: {"share": share, "of": of}}}
    )


def test_glioma_alone_is_brought_to_85_percent_of_notumor():
    """The Kaggle training counts after a fifth is held out, a tenth of them: 106, 107, 128, 117; 0.85 x 128 = 108.8."""
    images, labels = slices((106, 107, 128, 117))
    more, its_labels = oversample(images, labels, IMPROVED, seed=0)
    assert np.bincount(its_labels).tolist() == [109, 107, 128, 117]
    assert more.dtype == np.uint8
    assert its_labels.dtype == labels.dtype
    np.testing.assert_array_equal(more[: len(images)], images)  # the originals come first, unchanged
    np.testing.assert_array_equal(its_labels[: len(labels)], labels)
    assert set(its_labels[len(labels) :]) == {INDEX["glioma"]}


def on_a_segment(point: np.ndarray, ends: np.ndarray) -> bool:
    """Whether `point` lies between two of `ends` up to rounding to whole grey levels."""
    for start in ends:
        for end in ends:
            way = end - start
            share = (point - start) @ way / max(way @ way, 1)
            if 0 <= share <= 1 and np.abs(start + share * way - point).max() <= 1.01:
                return True
    return False


@given(counts=st.tuples(*[st.integers(2, 12)] * 4), seed=st.integers(0, 1000), neighbours=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_synthetic_slices_lie_between_slices_of_their_class(counts, seed, neighbours):
    images, labels = slices(counts, seed)
    more, its_labels = oversample(images, labels, smote(1.5, "pituitary", "notumor", neighbours), seed)
    assert np.bincount(its_labels)[:3].tolist() == list(counts[:3])
    assert (its_labels == 3).sum() == max(counts[3], round(1.5 * counts[2]))
    same = images[labels == 3].reshape(counts[3], -1).astype(float)
    for made in more[len(images) :]:
        assert on_a_segment(made.ravel().astype(float), same)


def test_one_neighbour_means_the_nearest():
    """Slices of a class on a line at 0, 10, 200 and 210: with one neighbour nothing is made between 10 and 200."""
    levels = np.array([0, 10, 200, 210, *range(80, 120)], np.uint8)
    images = np.repeat(levels, 4).reshape(-1, 2, 2)
    labels = np.array([0] * 4 + [2] * 40)
    for neighbours, between in ((1, False), (3, True)):
        more, _ = oversample(images, labels, smote(1.0, neighbours=neighbours), seed=0)
        made = more[len(images) :, 0, 0]
        assert len(made) == 36
        assert (more[len(images) :] == made[:, None, None]).all()
        assert bool(((made > 10) & (made < 200)).any()) == between


def test_the_same_seed_makes_the_same_slices_and_another_others():
    images, labels = slices((10, 10, 30, 10))
    first, again, other = (oversample(images, labels, smote(), seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("counts", [(30, 10, 20, 10), (17, 10, 20, 10), (1, 10, 20, 10), (0, 10, 20, 10)])
def test_a_class_that_has_its_target_or_too_few_slices_stays_as_it_is(counts):
    images, labels = slices(counts)
    more, its_labels = oversample(images, labels, smote(), seed=0)
    np.testing.assert_array_equal(more, images)
    np.testing.assert_array_equal(its_labels, labels)


def test_a_class_smaller_than_the_neighbours_asked_for_uses_those_it_has():
    images, labels = slices((2, 5, 10, 5))
    _, its_labels = oversample(images, labels, smote(neighbours=5), seed=0)
    assert np.bincount(its_labels).tolist() == [8, 5, 10, 5]  # 0.85 x 10 = 8.5, rounded to even


def test_nothing_is_made_where_the_recipe_asks_for_nothing():
    images, labels = slices((5, 10, 20, 10))
    recipe = load_recipe("improved_cnn", {"imbalance.method": "none"})
    assert oversample(images, labels, recipe.imbalance, 0)[0] is images


def test_random_oversampling_gives_slices_again_and_nothing_new():
    images, labels = slices((6, 10, 20, 12))
    recipe = Imbalance.model_validate({"method": "random", "targets": {"glioma": {"count": 15}}})
    more, its_labels = oversample(images, labels, recipe, seed=0)
    assert np.bincount(its_labels).tolist() == [15, 10, 20, 12]
    known = {image.tobytes() for image in images[labels == INDEX["glioma"]]}
    assert {image.tobytes() for image in more[its_labels == INDEX["glioma"]]} == known


def test_borderline_smote_brings_a_class_to_its_count_with_slices_of_its_own():
    images, labels = slices((10, 12, 30, 12))
    targets = {"glioma": {"share": 0.5, "of": "notumor"}, "meningioma": {"count": 14}}
    recipe = Imbalance.model_validate({"method": "borderline_smote", "neighbours": 3, "targets": targets})
    _, its_labels = oversample(images, labels, recipe, seed=0)
    assert np.bincount(its_labels).tolist() == [15, 14, 30, 12]


def test_adasyn_makes_slices_where_other_classes_are_near():
    """Glioma at grey 10 among its own and at 100 among notumor: all that is made starts from or ends at those among notumor."""
    levels = np.concatenate([np.full(6, 10), np.full(6, 100), np.full(30, 101)]).astype(np.uint8)
    images, labels = np.repeat(levels, 4).reshape(-1, 2, 2), np.array([0] * 12 + [2] * 30)
    images[:, 0, 0] += np.arange(42, dtype=np.uint8) % 5  # no two alike
    recipe = Imbalance.model_validate({"method": "adasyn", "neighbours": 5, "targets": {"glioma": {"count": 30}}})
    more, its_labels = oversample(images, labels, recipe, seed=0)
    assert abs((its_labels == 0).sum() - 30) <= 6  # a rounding a slice
    assert (more[42:, 1, 1] == 100).all()


def test_svm_smote_brings_a_class_near_its_count():
    images, labels = slices((10, 12, 30, 12))
    recipe = Imbalance.model_validate(
        {"method": "svm_smote", "neighbours": 3, "targets": {"glioma": {"share": 0.5, "of": "notumor"}}}
    )
    counts = np.bincount(oversample(images, labels, recipe, seed=0)[1]).tolist()
    assert 10 < counts[0] <= 15
    assert counts[1:] == [12, 30, 12]


@pytest.mark.parametrize("method", ["adasyn", "borderline_smote"])
def test_a_method_that_finds_no_place_for_a_slice_says_so(method):
    """Glioma is far from all others: no neighbour is of another class."""
    images = np.concatenate([np.zeros((12, 2, 2)), np.full((30, 2, 2), 250)]).astype(np.uint8)
    images[:, 0, 0] += np.arange(42, dtype=np.uint8) % 5
    recipe = Imbalance.model_validate({"method": method, "targets": {"glioma": {"count": 30}}})
    with pytest.raises(RecipeError, match=rf"imbalance.method: {method} makes nothing here .*try smote"):
        oversample(images, np.array([0] * 12 + [2] * 30), recipe, seed=0)


@pytest.mark.parametrize("target", [{}, {"share": 0.5}, {"of": "notumor"}, {"share": 0.5, "of": "notumor", "count": 3}])
def test_a_target_is_a_share_of_a_class_or_a_count(target):
    with pytest.raises(ValueError, match="give count, or share and of"):
        Imbalance.model_validate({"method": "smote", "targets": {"glioma": target}})
