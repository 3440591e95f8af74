"""Pictures: planted twins of drawn heads are found and nothing else is joined; groups, turns and weakest links by hand."""

import hashlib
import io
import itertools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from threadpoolctl import threadpool_limits

from tumorscope.audit.pictures import (
    COARSE,
    FINE,
    INVERSE,
    QUARTER_TURNS,
    TURNS,
    Descriptors,
    Pictures,
    compare,
    describe,
    group_pictures,
    neighbours,
    turn,
    weakest_links,
)
from tumorscope.data.decode import decode, shrink
from tumorscope.data.phantom.archive import write_phantom
from tumorscope.errors import InputRejected

SIZE = 192
PATIENTS, SLICES = 5, 8


def jpeg(grey: np.ndarray, quality: int = 40) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(stream, "JPEG", quality=quality)
    return decode(stream.getvalue()).grey


def brighter(grey: np.ndarray) -> np.ndarray:
    """More contrast and brightness; what goes beyond white is cut off."""
    return np.clip(grey * 1.3 + 12, 0, 255).astype(np.uint8)


#: Kind of twin to how it is made, and the turn by which it becomes the original again.
KINDS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "mirrored": (np.fliplr, "mirror"),
    "flipped": (np.flipud, "flip"),
    "half turn": (lambda grey: np.rot90(grey, 2), "half_turn"),
    "re-encoded": (jpeg, "same"),
    "halved": (lambda grey: shrink(grey, SIZE // 2), "same"),
    "brighter": (brighter, "same"),
    "mirrored and re-encoded": (lambda grey: jpeg(np.fliplr(grey)), "mirror"),
}


def looks(slices: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """What `group_pictures` takes."""
    greys = [np.ascontiguousarray(grey) for grey in slices]
    small, confirm = (np.stack([shrink(grey, size) for grey in greys]) for size in (32, 128))
    return small, confirm, [hashlib.sha256(f"{grey.shape}".encode() + grey.tobytes()).hexdigest() for grey in greys]


@dataclass(frozen=True)
class Planted:
    """Drawn slices, then their twins of every kind, each kind in the same order."""

    patients: list[str]
    small: np.ndarray
    confirm: np.ndarray
    exact: list[str]
    found: Pictures

    def of(self, kind: str) -> range:
        """Rows of the twins of a kind."""
        start = (1 + list(KINDS).index(kind)) * len(self.patients)
        return range(start, start + len(self.patients))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    with threadpool_limits(1):
        path = write_phantom(tmp_path_factory.mktemp("phantom") / "phantom.zip", PATIENTS, SLICES, SIZE)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith("T")]
        slices = [decode(archive.read(name)).grey for name in names]
    twins = [make(grey) for make, _ in KINDS.values() for grey in slices]
    small, confirm, exact = looks([*slices, *twins])
    patients = [PurePosixPath(name).stem.rsplit("-", 1)[0] for name in names]
    return Planted(patients, small, confirm, exact, group_pictures(small, confirm, exact))


def test_the_set_is_large_enough_for_its_bar_and_its_slices_differ(planted):
    n = len(planted.patients)
    assert n == 4 * PATIENTS * SLICES == 160
    assert len(set(planted.patients)) == 4 * PATIENTS
    assert len(set(planted.exact[:n])) == n


def test_planted_twins_are_found_each_by_the_turn_that_it_was_made_with(planted):
    """A pair of its own for each twin, so that one twin's miss is not made good by another twin."""
    pairs = planted.found.pairs
    joined = {(i, j): turn for i, j, turn in zip(pairs["i"], pairs["j"], pairs["turn"], strict=True)}
    hits = {
        kind: [joined.get((i, j)) == name for i, j in enumerate(planted.of(kind))] for kind, (_, name) in KINDS.items()
    }
    shares = {kind: float(np.mean(found)) for kind, found in hits.items()}
    assert np.mean(list(shares.values())) >= 0.99, shares
    assert min(shares.values()) >= 0.97, shares


def test_twins_are_in_the_picture_of_their_original(planted):
    group, n = planted.found.group, len(planted.patients)
    for kind in KINDS:
        assert (group[list(planted.of(kind))] == group[:n]).mean() >= 0.97, kind


def test_no_two_slices_of_a_patient_or_of_two_patients_are_joined(planted):
    n = len(planted.patients)
    origin = np.arange(len(planted.found.group)) % n
    assert pd.Series(origin).groupby(planted.found.group).nunique().max() == 1
    assert len(set(planted.found.group[:n])) == n
    assert planted.found.stranger.max() < planted.found.fine_threshold == FINE
    assert planted.found.coarse_threshold == COARSE


def test_strangers_are_compared_with_the_slices_of_other_pictures(planted):
    """The figure for a drawn slice, by a literal search over the first look's candidates."""
    n = 24
    small, confirm = planted.small[:n], planted.confirm[:n]
    found = group_pictures(small, confirm, planted.exact[:n], coarse=-1.0)
    fine = describe(small, confirm).fine.astype(np.float32)
    for row in range(n):
        others = [float((fine[row] * turn(fine[j], name)).sum()) for j in range(n) for name in TURNS if j != row]
        itself = [float((fine[row] * turn(fine[row], name)).sum()) for name in TURNS[1:]]
        nearest = max(itself + [value for value in others if value >= 0.5])
        assert found.stranger[row] == pytest.approx(nearest, abs=1e-4)


def test_the_approximate_index_gives_the_groups_of_the_comparison_of_all_pairs(planted):
    near = group_pictures(planted.small, planted.confirm, planted.exact, method="faiss")
    np.testing.assert_array_equal(near.group, planted.found.group)
    columns = ["i", "j", "turn"]
    ours, theirs = (set(map(tuple, found.pairs[columns].to_numpy())) for found in (planted.found, near))
    assert theirs <= ours
    assert len(theirs) >= 0.99 * len(ours)


def test_every_pair_is_what_the_turned_slices_correlate_by(planted):
    """Turns of a pair apply to the second slice, whichever of the two came first in the set, for both methods."""
    rows = np.concatenate([planted.of("mirrored")[:12], planted.of("half turn")[12:20], np.arange(20)])
    small, confirm = planted.small[rows], planted.confirm[rows]
    for method in ("exact", "faiss"):
        pairs = compare(*[describe(small, confirm)] * 2, TURNS, method=method)
        twins = pairs[pairs["fine"] >= FINE]
        assert list(zip(twins["i"], twins["j"], strict=True)) == [(i, i + 20) for i in range(20)]
        assert list(twins["turn"]) == ["mirror"] * 12 + ["half_turn"] * 8
        for i, j, name in zip(twins["i"], twins["j"], twins["turn"], strict=True):
            assert np.corrcoef(confirm[i].ravel(), turn(confirm[j], name).ravel())[0, 1] > 0.95


def test_quarter_turns_are_found_only_when_asked_for(planted):
    slices = [planted.confirm[0]]
    slices += [turn(slices[0], name) for name in QUARTER_TURNS]
    small, confirm, exact = looks(slices)
    without = group_pictures(small, confirm, exact).group
    assert without[0] not in without[1:]
    found = group_pictures(small, confirm, exact, quarter_turns=True)
    assert found.group.tolist() == [0] * 5
    with_first = found.pairs[found.pairs["i"] == 0]
    assert list(with_first["turn"]) == [INVERSE[name] for name in QUARTER_TURNS]


def test_groups_are_numbered_by_their_first_slice(planted):
    a, b, c = planted.confirm[:3]
    small, confirm, exact = looks([b, a, np.fliplr(b), c, np.flipud(a), np.rot90(b, 2)])
    assert group_pictures(small, confirm, exact).group.tolist() == [0, 1, 0, 2, 1, 0]


def test_constant_slices_are_joined_only_where_their_pixels_are_the_same(planted):
    black, grey = np.zeros((128, 128), np.uint8), np.full((128, 128), 90, np.uint8)
    larger = np.zeros((256, 256), np.uint8)
    small, confirm, exact = looks([black, grey, planted.confirm[0], black.copy(), larger])
    for method in ("exact", "faiss"):
        found = group_pictures(small, confirm, exact, method=method)
        assert found.group.tolist() == [0, 1, 2, 0, 3]
        assert found.pairs.empty
        assert found.stranger[[0, 1, 3, 4]].tolist() == [0, 0, 0, 0]


def test_the_same_pixels_are_joined_whatever_the_thresholds():
    noise = np.random.default_rng(0).integers(0, 256, (3, 128, 128), np.uint8)
    small, confirm, _ = looks(list(noise))
    found = group_pictures(small, confirm, ["x", "y", "x"], coarse=1.1, fine=1.1)
    assert found.group.tolist() == [0, 1, 0]
    assert found.pairs.empty


def test_slices_are_joined_through_a_third_one(planted):
    """A twin of a slice that shares its pixels with another one: equal pixels and correlation join together."""
    a, b = planted.confirm[:2]
    small, confirm, _ = looks([a, b, np.fliplr(a)])
    assert group_pictures(small, confirm, ["a", "b", "b"]).group.tolist() == [0, 0, 0]


def chain(*links: tuple[int, int, float], n: int, group: list[int]) -> Pictures:
    pairs = pd.DataFrame(links, columns=["i", "j", "fine"]).assign(turn="same", coarse=1.0)
    return Pictures(np.array(group), pairs, np.zeros(n, np.float32), COARSE, FINE)


def test_the_weakest_link_of_a_chain_of_three_is_its_weaker_end():
    """0 and 1 at 0.99, 1 and 2 at 0.95; the direct pair of 0 and 2, at 0.94, holds nothing. 3 and 4 at 0.97."""
    found = chain((0, 1, 0.99), (0, 2, 0.94), (1, 2, 0.95), (3, 4, 0.97), n=6, group=[0, 0, 0, 1, 1, 2])
    links = weakest_links(found)
    assert links[["picture", "i", "j"]].to_numpy().tolist() == [[0, 1, 2], [1, 3, 4]]
    assert links["fine"].to_numpy() == pytest.approx([0.95, 0.97])


def test_the_weakest_link_of_a_ring_is_the_one_it_would_fall_apart_at():
    """Without the strong pair of 0 and 3 the chain would hang on 0.94."""
    found = chain((0, 1, 0.94), (0, 3, 0.99), (1, 2, 0.98), (2, 3, 0.96), n=4, group=[0, 0, 0, 0])
    assert weakest_links(found)[["i", "j"]].to_numpy().tolist() == [[2, 3]]


def test_a_correlation_above_one_by_rounding_is_still_a_link():
    links = weakest_links(chain((0, 1, 1.0005), n=2, group=[0, 0]))
    assert links[["picture", "i", "j", "fine"]].to_numpy().tolist() == [[0, 0, 1, 1.0]]


def test_without_twins_there_are_no_links_and_a_single_slice_is_a_picture(planted):
    small, confirm, exact = looks([planted.confirm[0]])
    found = group_pictures(small, confirm, exact)
    assert found.group.tolist() == [0]
    assert weakest_links(found).empty
    assert list(weakest_links(found).columns) == ["picture", "i", "j", "fine"]


@pytest.mark.parametrize("method", ["exact", "faiss"])
def test_no_slices_give_no_pictures(method):
    empty = np.empty((0, 32, 32), np.uint8), np.empty((0, 128, 128), np.uint8)
    found = group_pictures(*empty, [], method=method)
    assert found.group.tolist() == []
    assert found.pairs.empty
    assert weakest_links(found).empty


ARRAYS = np.zeros((2, 32, 32), np.uint8), np.zeros((2, 128, 128), np.uint8), ["a", "b"]


@pytest.mark.parametrize(
    ("small", "confirm", "exact", "says"),
    [
        (ARRAYS[0].astype(np.float32), ARRAYS[1], ARRAYS[2], r"float32 \(2, 32, 32\); uint8 \(n, 32, 32\) needed"),
        (np.zeros((2, 64, 64), np.uint8), ARRAYS[1], ARRAYS[2], r"uint8 \(2, 64, 64\); uint8 \(n, 32, 32\) needed"),
        (ARRAYS[0], np.zeros((2, 128, 96), np.uint8), ARRAYS[2], r"\(2, 128, 96\); uint8 \(n, 128, 128\) needed"),
        (ARRAYS[0], np.zeros((2, 128, 128, 3), np.uint8), ARRAYS[2], r"\(2, 128, 128, 3\); uint8"),
        (ARRAYS[0], ARRAYS[1][:1], ARRAYS[2], "slices: 2, 1, 2; must be as many"),
        (ARRAYS[0], ARRAYS[1], ["a"], "slices: 2, 2, 1; must be as many"),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused_with_what_is_needed(small, confirm, exact, says):
    with pytest.raises(InputRejected, match=says):
        group_pictures(small, confirm, exact)


def test_an_unknown_turn_is_refused_with_the_known_ones():
    with pytest.raises(InputRejected, match="turn: upside_down; one of same, mirror, flip, half_turn"):
        turn(np.zeros((2, 2)), "upside_down")


def test_turns_by_hand():
    """1 2 over 3 4."""
    array = np.array([[1, 2], [3, 4]])
    assert {name: turn(array, name).ravel().tolist() for name in TURNS + QUARTER_TURNS} == {
        "same": [1, 2, 3, 4],
        "mirror": [2, 1, 4, 3],
        "flip": [3, 4, 1, 2],
        "half_turn": [4, 3, 2, 1],
        "quarter_left": [2, 4, 1, 3],
        "quarter_right": [3, 1, 4, 2],
        "transpose": [1, 3, 2, 4],
        "antitranspose": [4, 2, 3, 1],
    }


@given(seed=st.integers(0, 10_000), name=st.sampled_from(TURNS + QUARTER_TURNS), several=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_inverse_undoes_every_turn_of_one_slice_and_of_many(seed, name, several):
    array = np.random.default_rng(seed).integers(0, 256, (3, 7, 7) if several else (5, 8))
    np.testing.assert_array_equal(turn(turn(array, name), INVERSE[name]), array)
    np.testing.assert_array_equal(turn(turn(array, INVERSE[name]), name), array)


@given(
    seed=st.integers(0, 10_000), name=st.sampled_from(TURNS + QUARTER_TURNS), method=st.sampled_from(("exact", "faiss"))
)
@settings(max_examples=30, deadline=None)
def test_turning_the_second_slice_of_a_pair_gives_the_first(seed, name, method):
    """Noise, so that a slice is like nothing but its own turned copy; copies lie before and behind their originals."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (4, 32, 32), np.uint8)
    blocks[3] = turn(blocks[0], name)
    blocks = blocks[random.permutation(4)]
    confirm = blocks.repeat(4, axis=1).repeat(4, axis=2)
    pairs = compare(*[describe(blocks, confirm)] * 2, TURNS + QUARTER_TURNS, method=method)
    assert len(pairs) == 1
    pair = pairs.iloc[0]
    assert pair["i"] < pair["j"]
    np.testing.assert_array_equal(turn(blocks[pair["j"]], pair["turn"]), blocks[pair["i"]])


def test_two_sets_are_compared_row_with_row():
    blocks = np.random.default_rng(3).integers(0, 256, (5, 32, 32), np.uint8)
    confirm = blocks.repeat(4, axis=1).repeat(4, axis=2)
    left, right = describe(blocks[:3], confirm[:3]), describe(blocks[[4, 2, 0]][:, ::-1], confirm[[4, 2, 0]][:, ::-1])
    for method in ("exact", "faiss"):
        pairs = compare(left, right, TURNS, method=method)
        assert pairs[["i", "j", "turn"]].to_numpy().tolist() == [[0, 2, "flip"], [2, 1, "flip"]]


def test_more_slices_than_one_block_of_the_comparison_are_all_compared():
    """2,100 slices are three blocks of 1,024; the planted pairs lie within one block and across blocks."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (2100, 32, 32), np.uint8)
    planted = [(3, 900), (1023, 1024), (5, 2099), (1500, 2050)]
    for i, j in planted:
        small[j] = small[i, :, ::-1]
    fine = np.zeros((2100, 64, 64), np.float16)
    fine[:, 0, 0] = 1
    fine[:, 0, -1] = 1
    coarse = small.reshape(2100, -1).astype(np.float32)
    coarse -= coarse.mean(axis=1, keepdims=True)
    both = Descriptors(coarse / np.linalg.norm(coarse, axis=1, keepdims=True), fine)
    pairs = compare(both, both, TURNS)
    assert pairs[["i", "j", "turn"]].to_numpy().tolist() == [[i, j, "mirror"] for i, j in sorted(planted)]


def test_neighbours_by_hand():
    rows = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)
    for method in ("exact", "faiss"):
        found, score = neighbours(rows, 3, method)
        assert found[0].tolist() == [0, 2, 1]
        assert score[0] == pytest.approx([1, 0.6, 0])
        asked, likeness = neighbours(rows, 1, method, np.array([[0, -1]], np.float32))
        assert (asked.tolist(), likeness.ravel().tolist()) in [([[k]], [0]) for k in (0, 3)]
    assert neighbours(rows, 9)[0].shape == (4, 4)


def test_exact_neighbours_equal_a_literal_search():
    rows = np.random.default_rng(1).normal(size=(1500, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found, score = neighbours(rows, 5)
    products = rows @ rows.T
    np.testing.assert_allclose(score, -np.sort(-products, axis=1)[:, :5], rtol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(products, found, 1), score, rtol=1e-5)
    assert all(len(set(row)) == 5 for row in itertools.islice(found, 100))
