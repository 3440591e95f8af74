"""The scikit-learn estimator: scikit-learn's own checks, pipelines and searches, and the same bits as our loop."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.over_sampling import SMOTE
from imblearn.pipeline import Pipeline
from lightning_fabric import Fabric
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, RandomizedSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks
from tests.training.tiny_set import drawn

import tumorscope as ts
from tumorscope.config import Backbone
from tumorscope.errors import InputRejected, RecipeError
from tumorscope.labels import CLASSES
from tumorscope.models.backbones import make_features
from tumorscope.training.checkpoint import save_weights
from tumorscope.training.loop import fit, predict, reproducible
from tumorscope.training.pretrain import ORIGIN

QUICK = {"training.epochs": 2, "training.batch_size": 16}


class OfAnyWidth(ts.SliceClassifier):
    """Rows of any length and range, as scikit-learn's checks have them, laid into an 8x8 slice; all else is the estimator's."""

    def _images(self, X):
        padded = np.zeros((len(X), max(64, X.shape[1])), np.float32)
        padded[:, : X.shape[1]] = 1 / (1 + np.exp(-np.clip(X, -30, 30)))
        return super()._images(255 * padded[:, :64])


FAST = {
    **{"input.size": 8, "training.epochs": 30, "training.batch_size": 8, "optimiser.learning_rate": 0.01},
    **{"model.dense": 16, "input.normalise": "standard"},
}


@parametrize_with_checks([OfAnyWidth("baseline_cnn", overrides=FAST)])
def test_scikit_learns_own_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def flat() -> tuple[np.ndarray, np.ndarray]:
    images, labels = drawn()
    return images.reshape(len(images), -1), np.array(CLASSES)[labels]


def test_slices_are_cropped_to_the_head_where_the_recipe_says_so():
    slices = np.zeros((2, 60, 60), np.uint8)
    slices[:, 20:50, 10:40] = 200
    for crop, bright in (("head", 1.0), ("none", 0.25)):
        estimator = ts.SliceClassifier("compact_cnn", overrides={"input.crop": crop})
        estimator.recipe_ = ts.load_recipe("compact_cnn", {"input.crop": crop})
        seen = estimator._images(slices.reshape(2, -1))
        assert seen.shape == (2, 30, 30)
        assert float((seen > 100).mean()) == pytest.approx(bright, abs=0.1)


def test_a_frozen_backbones_slices_are_mirrored_in_training():
    """Stored features have views; here the network sees pixels, and the mirror is drawn as for any other."""
    X, y = flat()
    losses = []
    for mirror in (0.0, 1.0):
        overrides = {
            **{"model.backbone.name": "resnet10t", "model.backbone.weights": "none", "input.size": 32},
            **{"augment.mirror": mirror, "training.epochs": 1, "early_stopping.patience": 0},
        }
        fitted = ts.SliceClassifier("resnet50", overrides=overrides, random_state=0).fit(X, y)
        losses.append(fitted.history_[0]["train_loss"])
    assert losses[0] != losses[1]


def test_it_gives_the_very_probabilities_of_our_own_loop():
    import torch

    X, y = flat()
    images, labels = drawn()
    ours = ts.SliceClassifier("baseline_cnn", overrides=QUICK, random_state=3).fit(X, y)
    module, history = fit(
        ts.load_recipe("baseline_cnn", QUICK),
        3,
        (images, labels),
        (images[:0], labels[:0]),
        fabric=Fabric(accelerator="cpu", devices=1),
    )
    with reproducible(3, 1, torch.device("cpu")):
        theirs = predict(module, torch.from_numpy(images[:, None])).numpy()
    np.testing.assert_array_equal(ours.predict_proba(X), theirs)
    assert [row["train_loss"] for row in ours.history_] == [row["train_loss"] for row in history]
    assert list(ours.classes_) == list(CLASSES)
    assert ours.n_features_in_ == 900


def test_early_stopping_holds_slices_out_and_keeps_groups_whole(monkeypatch):
    X, y = flat()
    groups = np.repeat(np.arange(len(y) // 2), 2)
    seen = {}

    def spy(recipe, seed, training, validation, **rest):
        seen["parts"] = training, validation
        return fit(recipe, seed, training, validation, **rest)

    monkeypatch.setattr("tumorscope.training.loop.fit", spy)
    overrides = {**QUICK, "early_stopping.patience": 1}
    ts.SliceClassifier("baseline_cnn", overrides=overrides).fit(X, y, groups=groups)
    (train, _), (held, _) = seen["parts"]
    place = {image.tobytes(): group for image, group in zip(drawn()[0], groups, strict=True)}
    sides = [{place[image.tobytes()] for image in part} for part in (train, held)]
    assert sides[0].isdisjoint(sides[1])
    assert len(train) + len(held) == len(y)
    assert 0.1 < len(held) / len(y) < 0.3


def test_randomised_search_over_a_pipeline_with_a_sampler():
    X, y = flat()
    classifier = ts.SliceClassifier(
        "improved_cnn", overrides={**QUICK, "imbalance.method": "none", "model.filters": [4]}
    )
    pipeline = Pipeline([("smote", SMOTE(k_neighbors=2, random_state=0)), ("classifier", classifier)])
    search = RandomizedSearchCV(
        pipeline,
        {"classifier__optimiser__learning_rate": loguniform(1e-4, 1e-2), "classifier__loss__gamma": [0.0, 2.0]},
        n_iter=2,
        cv=GroupKFold(2),
        random_state=0,
        error_score="raise",
    )
    search.fit(X, y, groups=np.arange(len(y)) // 2)
    best = search.best_estimator_["classifier"]
    assert best.recipe_.optimiser.learning_rate == search.best_params_["classifier__optimiser__learning_rate"]
    assert best.recipe_.loss.gamma == search.best_params_["classifier__loss__gamma"]
    assert set(search.predict(X)) <= set(CLASSES)


@given(gamma=st.floats(0, 10), epochs=st.integers(1, 100))
@settings(max_examples=25, deadline=None)
def test_fields_set_as_parameters_come_back_and_survive_a_clone(gamma, epochs):
    one = ts.SliceClassifier().set_params(loss__gamma=gamma, training__epochs=epochs)
    again = clone(one)
    assert again.get_params()["loss__gamma"] == gamma
    assert again.overrides == {"loss.gamma": gamma, "training.epochs": epochs}
    assert ts.SliceClassifier().overrides is None


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"X": lambda X: X[:, :899]}, InputRejected, "899 features; a square number"),
        ({"X": lambda X: X + 1.0 * 200}, InputRejected, "grey from 0 to 255"),
        ({"y": lambda y: np.where(y == "glioma", "other", y)}, RecipeError, "y must hold all of glioma"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, says):
    X, y = flat()
    X, y = change.get("X", lambda X: X)(X), change.get("y", lambda y: y)(y)
    with pytest.raises(error, match=says):
        ts.SliceClassifier("improved_cnn", overrides=QUICK).fit(X, y)


@pytest.mark.parametrize("fusion", ["concatenate", "branch"])
def test_texture_which_its_network_never_sees_is_refused(fusion):
    texture = {"model.backbone.weights": "none", "model.backbone.texture.fusion": fusion, "input.size": 32}
    with pytest.raises(RecipeError, match=f"texture: fusion {fusion}; .*sees pixels alone.*Use tumorscope train"):
        ts.SliceClassifier("resnet50", overrides=texture).fit(*flat())


def test_weights_that_were_learnt_here_are_refused_whatever_they_are_proven_apart_from(tmp_path):
    """A foreign file, which says nothing of its origin, is taken."""
    network = make_features(Backbone(name="resnet10t", weights="none"), 32, None)
    headers = {"own": {ORIGIN: json.dumps({"name": "heads.zip", "apart_from": ["0" * 16]})}, "foreign": {}}
    for name, header in headers.items():
        save_weights(tmp_path / f"{name}.safetensors", network.state_dict(), header)
    overrides = {
        "model.backbone.name": "resnet10t",
        "input.size": 32,
        "training.epochs": 1,
        "early_stopping.patience": 0,
    }
    own, foreign = (
        ts.SliceClassifier(
            "resnet50", overrides=overrides | {"model.backbone.weights": f"file:{tmp_path / name}.safetensors"}
        )
        for name in headers
    )
    with pytest.raises(RecipeError, match=r"own\.safetensors were learnt on heads\.zip; .*proven apart.*or imagenet"):
        own.fit(*flat())
    foreign.fit(*flat())
