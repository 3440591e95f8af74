"""The test part decides nothing: with other test pixels everything but the test answers comes out the same."""

import hashlib

import numpy as np
import pytest
from tests.training.tiny_set import catalogue, drawn, everything

from tumorscope.protocols import folds
from tumorscope.training import loop
from tumorscope.training.runs import read_predictions, train_runs


@pytest.mark.slow
def test_other_test_pixels_change_nothing_but_the_answers_on_them(tmp_path):
    images, labels = drawn()
    other = images.copy()
    rows = slice(len(images) * 3 // 4, None)  # the published test part
    other[rows] = np.random.default_rng(7).integers(0, 256, other[rows].shape, dtype=np.uint8)
    found = {}
    for name, pixels in (("one", images), ("other", other)):
        (run,) = train_runs(
            everything(), catalogue(tmp_path / name, pixels, labels), "official", [0], runs=tmp_path / name, workers=1
        )
        weights = hashlib.sha256((run / "fold-0" / "weights.safetensors").read_bytes()).hexdigest()
        history = (run / "fold-0" / "history.csv").read_text().splitlines()
        found[name] = weights, [line.rsplit(",", 1)[0] for line in history], read_predictions(run)
    assert found["one"][0] == found["other"][0]
    answers = [found[name][2].drop(columns=["patient"]) for name in found]
    validation = [table[table["part"] == "validation"].reset_index(drop=True) for table in answers]
    test = [table[table["part"] == "test"].reset_index(drop=True) for table in answers]
    assert validation[0].equals(validation[1])
    assert test[0]["path"].equals(test[1]["path"])
    assert not test[0].equals(test[1])


@pytest.mark.slow
def test_oversampling_sees_the_training_slices_of_its_fold_and_no_other(tmp_path, monkeypatch):
    images, labels = drawn()
    made = catalogue(tmp_path, images, labels)
    seen = []

    def spied(given, its_labels, *rest):
        seen.append((np.array(given), np.array(its_labels)))
        return oversample(given, its_labels, *rest)

    oversample = loop.oversample
    monkeypatch.setattr(loop, "oversample", spied)
    train_runs(everything(training__epochs=1), made, "patient-cv", [0], runs=tmp_path / "runs", workers=1)
    split = folds("patient-cv", made.table, 0)
    assert len(seen) == len(split) == 5
    for fold, (given, its_labels) in zip(split, seen, strict=True):
        np.testing.assert_array_equal(given, images[fold.train])
        np.testing.assert_array_equal(its_labels, labels[fold.train])
