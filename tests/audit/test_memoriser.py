"""The memoriser: nearest slices by hand and by a literal search, mirrors, and what it may know."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from tumorscope.audit.memoriser import SIZE, memorise, memoriser_run, nearest
from tumorscope.data.cache import write_pixels
from tumorscope.data.catalogue import COLUMNS, Catalogue
from tumorscope.labels import CLASSES
from tumorscope.protocols import Fold
from tumorscope.training.runs import read_predictions


def rows(*several: list[int]) -> np.ndarray:
    """Slices of 2 x 2 pixels."""
    return np.array(several, np.uint8).reshape(-1, 2, 2)


def test_nearest_by_hand():
    train = rows([0, 0, 0, 0], [100, 100, 0, 0], [0, 200, 0, 200])
    query = rows([60, 60, 0, 0], [40, 40, 0, 0], [0, 201, 0, 199], [255, 255, 255, 255])
    assert nearest(train, query).tolist() == [1, 0, 2, 2]


def test_mirrors_by_hand():
    train = rows([0, 0, 0, 0], [0, 200, 0, 200], [90, 0, 90, 0])
    mirrored = rows([200, 0, 200, 0])
    assert nearest(train, mirrored).tolist() == [2]
    assert nearest(train, mirrored, mirrors=True).tolist() == [1]
    upside_down = rows([0, 0, 200, 200])
    assert nearest(train, upside_down, mirrors=True).tolist() == nearest(train, upside_down).tolist()


def test_of_equally_near_ones_the_first_counts():
    train = rows([10, 10, 10, 10], [10, 10, 10, 10], [30, 30, 30, 30])
    assert nearest(train, rows([20, 20, 20, 20])).tolist() == [0]


@given(seed=st.integers(0, 1000), spread=st.sampled_from((1, 2, 20, 255)), bright=st.booleans())
@settings(max_examples=40, deadline=None)
def test_equals_a_literal_search_also_where_distances_differ_by_one_grey_level(seed, spread, bright):
    random = np.random.default_rng(seed)
    low = 255 - spread if bright else 0
    train, query = (random.integers(low, low + spread + 1, (n, SIZE, SIZE)).astype(np.uint8) for n in (40, 20))
    train[7] = query[3]
    train[8] = query[3]
    train[8, 0, 0] ^= 1
    distances = cdist(query.reshape(20, -1).astype(float), train.reshape(40, -1).astype(float), "sqeuclidean")
    np.testing.assert_array_equal(nearest(train, query), distances.argmin(axis=1))


def test_nothing_asked_nothing_found():
    assert nearest(rows([0, 0, 0, 0]), np.empty((0, 2, 2), np.uint8)).tolist() == []


def test_answers_by_hand_and_what_it_knows():
    """For validation it knows the training slice alone, at 0; for the test part the validation slice at 80 as well."""
    images = rows([0] * 4, [80] * 4, [100] * 4, [10] * 4)
    labels = np.array([0, 3, 2, 1])
    fold = Fold("picture-cv", 4, np.array([0]), np.array([1]), np.array([2, 3]))
    said = memorise(images, labels, fold)
    assert said[["row", "part", "fold"]].to_numpy().tolist() == [
        [1, "validation", 4],
        [2, "test", 4],
        [3, "test", 4],
    ]
    assert said[[f"p_{name}" for name in CLASSES]].to_numpy().tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Eighty slices of noise, twenty a class; every slice of the test part is the mirror of one in training."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (80, SIZE, SIZE), np.uint8)
    images[40:] = images[:40, :, ::-1]
    table = pd.DataFrame({name: [""] * 80 for name in COLUMNS})
    table["path"] = [f"{i}.png" for i in range(80)]
    table["label"] = [CLASSES[i % 4] for i in range(80)]
    table["split"] = ["train"] * 40 + ["test"] * 40
    table["sha256"] = [f"{i:064d}" for i in range(80)]
    table["picture"] = [f"k{i}" for i in range(80)]
    made = Catalogue("mirrors", table, pd.DataFrame(columns=["path", "reason"]), tmp_path, tmp_path)
    write_pixels(made, SIZE, images)
    return made


def test_a_run_of_the_memoriser_finds_mirrored_copies_only_with_mirrors(catalogue, tmp_path):
    shares = []
    for mirrors in (False, True):
        folder = memoriser_run(catalogue, "official", 0, tmp_path / "runs", mirrors)
        said = read_predictions(folder)
        test = said[said["part"] == "test"]
        assert list(test["path"]) == [f"{i}.png" for i in range(40, 80)]
        answers = np.array(CLASSES)[test[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(1)]
        shares.append((answers == test["label"]).mean())
    assert shares[0] < 0.7
    assert shares[1] == 1


def test_a_run_is_made_once_for_the_same_data_and_split_and_again_for_others(catalogue, tmp_path):
    folder = memoriser_run(catalogue, "picture-cv", 0, tmp_path / "runs")
    written = (folder / "predictions.csv").stat().st_mtime_ns
    memoriser_run(catalogue, "picture-cv", 0, tmp_path / "runs")
    assert (folder / "predictions.csv").stat().st_mtime_ns == written
    catalogue.table.loc[40:, "picture"] = [f"k{i}" for i in range(40)]  # as the audit finds them
    memoriser_run(catalogue, "picture-cv", 0, tmp_path / "runs")
    assert len(read_predictions(folder).query("part == 'test'")) == 40
