"""Pictures: groups of slices that are the same image up to mirror, flip, half turn, re-encoding, resizing and contrast.

Three steps. (1) *Coarse*: 32x32 pixels, zero mean, unit norm; the correlation of every pair under every turn is a matrix
product. (2) *Fine*: pairs whose coarse correlation reaches `COARSE` are compared again on edges alone: 128x128 pixels,
band-passed (Gaussians of 1.25 and 3 pixels), divided by the local contrast and averaged 2x2. (3) Pairs at or above
`FINE`, and slices with the same decoded pixels, are joined; a picture is a connected component.

Why edges: neighbouring slices of one patient share everything smooth (coarse correlation up to 0.992), while a change of
brightness or contrast alters everything smooth and leaves edges where they are.

How the thresholds were set, on the Kaggle archive (7,023 slices), the figshare set and TCIA Brain-Tumor-Progression:

- strangers, fine: different figshare slices of one patient reach 0.907, of two patients 0.849 (names of one patient, most
  likely: MR024780D and MR024780E); neighbouring TCIA slices 0.835. A slice against its own mirror, flip or half turn: half
  of them below 0.29, 99 % below 0.80, the highest 0.883.
- twins, fine: one figshare slice stored twice (mirrored grey, unmirrored colour; 1,711 pairs) is never below 0.996.
  Copies of 1,500 slices made worse on purpose (JPEG quality 40, halved, both, contrast x1.3 and x1.5 with clipping, gamma
  1.4): 1 % lie below 0.964.
- `FINE` is the middle between 0.907 (strangers) and 0.964 (worsened twins). Below it fall 0.07 % of the copies at half
  size and quality 40, and 0.2 % of those with contrast x1.5; none of the others.
- `COARSE`: no worsened copy is below 0.946, no pair that the fine look joins in the archive below 0.925; 0.90 costs little.

Sets from thin slices (1 mm) may hold nearer strangers than these three: look at `weakest_links` and `Pictures.stranger`.

Chaining: a component may hold slices that match only through others. `weakest_links` gives for every picture the lowest
correlation that it hangs on.

Cost: time grows with the square of the number of slices (2 n^2 x 1024 multiplications); memory is 12 KB a slice and 24
bytes a pair looked at finely. Past `EXACT_UP_TO` slices an HNSW graph (faiss) over 16x16 pixels proposes the pairs, and
time grows as n log n; benchmarks/neighbours.py measures its recall.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from tumorscope import home
from tumorscope.errors import InputRejected

COARSE = 0.90
FINE = 0.935
#: Number of slices up to which every pair is compared.
EXACT_UP_TO = 50_000
#: Neighbours that the approximate index proposes for each slice and turn.
NEIGHBOURS = 32
#: Pairs below this fine correlation are forgotten: no twin, and no near stranger either.
_FORGET = 0.5

TURNS = ("same", "mirror", "flip", "half_turn")
QUARTER_TURNS = ("quarter_left", "quarter_right", "transpose", "antitranspose")
_TURN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda a: a,
    "mirror": lambda a: a[..., :, ::-1],
    "flip": lambda a: a[..., ::-1, :],
    "half_turn": lambda a: a[..., ::-1, ::-1],
    "quarter_left": lambda a: np.rot90(a, 1, (-2, -1)),
    "quarter_right": lambda a: np.rot90(a, -1, (-2, -1)),
    "transpose": lambda a: np.swapaxes(a, -2, -1),
    "antitranspose": lambda a: np.swapaxes(a[..., ::-1, ::-1], -2, -1),
}
#: Every turn undoes itself but the two quarter turns, which undo each other.
INVERSE = {name: name for name in _TURN} | {"quarter_left": "quarter_right", "quarter_right": "quarter_left"}

Method = Literal["auto", "exact", "faiss"]


def turn(array: np.ndarray, name: str) -> np.ndarray:
    """Turn the last two axes (rows, columns): mirror left-right, flip up-down, quarter_left anticlockwise."""
    if name not in _TURN:
        raise InputRejected("turn", name, f"one of {', '.join(_TURN)}", "Choose one of these.")
    return _TURN[name](array)


@dataclass(frozen=True)
class Descriptors:
    """What slices are compared by.

    coarse : float32 (n, 1024), 32x32 pixels, zero mean and unit norm, all zero for a constant slice
    fine : float16 (n, 64, 64), local edges, zero mean and unit norm, all zero for a constant slice
    """

    coarse: np.ndarray
    fine: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """Slices grouped by picture.

    group : int (n,), picture of every slice, numbered by first slice
    pairs : a row a pair of twins, i < j, with turn (what turns slice j into slice i), coarse and fine correlation
    stranger : float32 (n,), fine correlation of every slice with the nearest slice of another picture, or with its own
        mirror, flip or half turn where that is nearer
    coarse_threshold, fine_threshold : correlations from which a pair was compared again, and joined
    """

    group: np.ndarray
    pairs: pd.DataFrame
    stranger: np.ndarray
    coarse_threshold: float
    fine_threshold: float


def group_pictures(
    small: np.ndarray,
    confirm: np.ndarray,
    exact: Sequence[str],
    *,
    quarter_turns: bool = False,
    coarse: float = COARSE,
    fine: float = FINE,
    method: Method = "auto",
) -> Pictures:
    """Group slices that are the same image.

    small : uint8 (n, 32, 32); confirm : uint8 (n, 128, 128); exact : hash of the decoded pixels of each slice
    quarter_turns : look for quarter turns and transposes too, at twice the cost
    coarse, fine : thresholds, see the module's text
    method : "exact" compares every pair, "faiss" those of an approximate index, "auto" by the number of slices

    Raises `InputRejected` for arrays of another shape or type.
    """
    if not len(small) == len(confirm) == len(exact):
        raise InputRejected("slices", f"{len(small)}, {len(confirm)}, {len(exact)}", "must be as many", "Align them.")
    turns = TURNS + QUARTER_TURNS if quarter_turns else TURNS
    found = describe(small, confirm)
    pairs = compare(found, found, turns, coarse, method)
    twins = pairs[pairs["fine"] >= fine].reset_index(drop=True)
    group = _components(len(small), twins, exact)
    return Pictures(group, twins, _strangers(found, pairs, group, turns), coarse, fine)


def weakest_links(pictures: Pictures) -> pd.DataFrame:
    """For every picture held together by correlation the link that it hangs on: picture, i, j, fine, ascending by fine.

    The links are those of the maximum spanning tree, so a picture would fall apart at any threshold above its `fine`.
    """
    pairs, n = pictures.pairs, len(pictures.group)
    distance = coo_array((2.0 - pairs["fine"].clip(upper=1.0), (pairs["i"], pairs["j"])), shape=(n, n))
    tree = minimum_spanning_tree(distance.tocsr()).tocoo()
    i, j = np.minimum(tree.row, tree.col), np.maximum(tree.row, tree.col)
    links = pd.DataFrame({"picture": pictures.group[i], "i": i, "j": j, "fine": 2.0 - tree.data})
    return links.sort_values(["fine", "i", "j"]).drop_duplicates("picture").reset_index(drop=True)


def describe(small: np.ndarray, confirm: np.ndarray) -> Descriptors:
    """Descriptors of uint8 (n, 32, 32) and (n, 128, 128); raises `InputRejected` for another shape or type."""
    for array, size in ((small, 32), (confirm, 128)):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[1:] != (size, size):
            raise InputRejected(
                "pixels", f"{array.dtype} {array.shape}", f"uint8 (n, {size}, {size}) needed", "Use the pixel cache."
            )
    return Descriptors(_unit(small.reshape(len(small), 32 * 32)), _edges(confirm))


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) at zero mean and unit norm, float32; constant rows become zero and match nothing."""
    centred = rows.astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 1e-3)


def _edges(confirm: np.ndarray) -> np.ndarray:
    """Fine descriptors of (n, 128, 128), a few slices at a time on every core."""
    fine = np.empty((len(confirm), 64, 64), np.float16)

    def fill(start: int) -> None:
        fine[start : start + 64] = _edges_of(np.asarray(confirm[start : start + 64], np.float32))

    with ThreadPoolExecutor(home.cores()) as pool:
        list(pool.map(fill, range(0, len(confirm), 64)))
    return fine


def _edges_of(pixels: np.ndarray) -> np.ndarray:
    """Band-pass over local contrast; a tenth of the slice's own spread keeps noise on black from counting as edges."""

    def blur(array: np.ndarray, sigma: float) -> np.ndarray:
        return gaussian_filter(array, (0, sigma, sigma))

    n = len(pixels)
    band = blur(pixels, 1.25) - blur(pixels, 3)
    floor = np.maximum(0.1 * pixels.std(axis=(1, 2), keepdims=True), 1e-3)
    local = band / (np.sqrt(blur(band**2, 3)) + floor)
    return _unit(local.reshape(n, 64, 2, 64, 2).mean(axis=(2, 4)).reshape(n, -1)).reshape(n, 64, 64)


def compare(
    left: Descriptors, right: Descriptors, turns: Sequence[str], coarse: float = COARSE, method: Method = "auto"
) -> pd.DataFrame:
    """Pairs alike at 32x32, the best turn of each: columns i (row in left), j (row in right), turn, coarse, fine.

    `turn` turns slice j into slice i. Where left is right, only i < j. Pairs below 0.5 at the fine look are left out.
    """
    itself = left is right
    near = method == "faiss" or (method == "auto" and len(right.coarse) > EXACT_UP_TO)
    propose = _propose_near if near else _propose_all
    found = []
    for i, j, name, coarse_of in propose(left.coarse, right.coarse, turns, coarse, itself):
        fine_of = _correlate(left.fine, right.fine, i, j, name)
        kept = fine_of >= _FORGET
        part = {"i": i[kept], "j": j[kept], "turn": name, "coarse": coarse_of[kept], "fine": fine_of[kept]}
        found.append(pd.DataFrame(part))
    table = pd.concat(found, ignore_index=True)
    return table.sort_values(["i", "j", "fine"]).drop_duplicates(["i", "j"], keep="last").reset_index(drop=True)


_Proposal = tuple[np.ndarray, np.ndarray, str, np.ndarray]


def _propose_all(
    left: np.ndarray, right: np.ndarray, turns: Sequence[str], threshold: float, itself: bool
) -> Iterator[_Proposal]:
    """Every pair at or above the threshold; of a set with itself only the upper triangle is computed."""
    for start in range(0, max(len(left), 1), 1024):
        first = start if itself else 0
        for name in turns:
            score = _turned(left[start : start + 1024], INVERSE[name]) @ right[first:].T
            i, j = np.nonzero(score >= threshold)
            kept = (i < j) if itself else np.ones(len(i), bool)
            i, j = i[kept], j[kept]
            yield i + start, j + first, name, score[i, j]


def _propose_near(
    left: np.ndarray, right: np.ndarray, turns: Sequence[str], threshold: float, itself: bool
) -> Iterator[_Proposal]:
    """Pairs at or above the threshold among the nearest by the approximate index."""
    search = _approximate(halved(right), NEIGHBOURS)
    for name in turns:
        turned = _turned(left, INVERSE[name])
        nearest, _ = search(halved(turned))
        i, j = np.repeat(np.arange(len(left)), nearest.shape[1]), nearest.ravel()
        score = _correlate(turned, right, i, j, "same")
        kept = (score >= threshold) & (j >= 0) & ((i != j) if itself else True)
        i, j, score = i[kept], j[kept], score[kept]
        if not itself:
            yield i, j, name, score
            continue
        swap = i > j  # the pair seen from its other end is turned the other way
        yield i[~swap], j[~swap], name, score[~swap]
        yield j[swap], i[swap], INVERSE[name], score[swap]


_Found = tuple[np.ndarray, np.ndarray]


def neighbours(
    descriptors: np.ndarray, k: int, method: Literal["exact", "faiss"] = "exact", queries: np.ndarray | None = None
) -> _Found:
    """The k nearest rows by inner product: indices int64 and correlations float32, both (m, k), best first.

    descriptors : float32 (n, d) of unit norm; queries : float32 (m, d), the descriptors themselves by default
    method : "exact" by matrix products, "faiss" by an HNSW graph (Malkov and Yashunin 2018), -1 where it found fewer
    """
    queries = descriptors if queries is None else queries
    k = min(k, len(descriptors))
    if method == "faiss":
        return _approximate(descriptors, k)(queries)
    blocks = [_nearest(queries[start : start + 1024] @ descriptors.T, k) for start in range(0, len(queries), 1024)]
    return np.concatenate([found for found, _ in blocks]), np.concatenate([score for _, score in blocks])


def _approximate(descriptors: np.ndarray, k: int) -> Callable[[np.ndarray], _Found]:
    """Build the HNSW graph; the search that it allows."""
    import faiss

    index = faiss.IndexHNSWFlat(descriptors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 100, 128
    index.add(np.ascontiguousarray(descriptors))

    def search(queries: np.ndarray) -> _Found:
        score, found = index.search(np.ascontiguousarray(queries), k)
        return found, score

    return search


def _nearest(score: np.ndarray, k: int) -> _Found:
    found = np.argpartition(-score, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(score, found, 1), axis=1, kind="stable")
    found = np.take_along_axis(found, order, 1)
    return found, np.take_along_axis(score, found, 1)


def halved(coarse: np.ndarray) -> np.ndarray:
    """Coarse descriptors at 16x16, float32 (n, 256): what the approximate index holds, a quarter of the memory."""
    return _unit(coarse.reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4)).reshape(len(coarse), 16 * 16))


def _turned(coarse: np.ndarray, name: str) -> np.ndarray:
    return turn(coarse.reshape(-1, 32, 32), name).reshape(coarse.shape)


def _correlate(left: np.ndarray, right: np.ndarray, i: np.ndarray, j: np.ndarray, name: str) -> np.ndarray:
    """Inner products of left[i] with right[j] turned, float32 (len(i),), a few thousand at a time."""
    score = np.empty(len(i), np.float32)
    for start in range(0, len(i), 2048):
        part = slice(start, start + 2048)
        a, b = left[i[part]].astype(np.float32, copy=False), right[j[part]].astype(np.float32, copy=False)
        score[part] = np.einsum("nd,nd->n", a.reshape(len(a), -1), turn(b, name).reshape(len(b), -1))
    return score


def _components(n: int, twins: pd.DataFrame, exact: Sequence[str]) -> np.ndarray:
    """Picture of every slice: components over twins and equal pixels, numbered by first slice."""
    codes, _ = pd.factorize(np.asarray(exact, dtype=object))
    first = np.unique(codes, return_index=True)[1][codes]
    i, j = np.concatenate([twins["i"], np.arange(n)]), np.concatenate([twins["j"], first])
    links = coo_array((np.ones(len(i), bool), (i, j)), shape=(n, n))
    return pd.factorize(connected_components(links.tocsr(), directed=False)[1])[0]


def _strangers(found: Descriptors, pairs: pd.DataFrame, group: np.ndarray, turns: Sequence[str]) -> np.ndarray:
    """Nearest stranger of every slice: its own turned self, or a nearer slice of another picture."""
    rows = np.arange(len(group))
    nearest = np.full(len(group), -1, np.float32)
    for name in turns[1:]:
        np.maximum(nearest, _correlate(found.fine, found.fine, rows, rows, name), out=nearest)
    others = pairs[group[pairs["i"]] != group[pairs["j"]]]
    for end in ("i", "j"):
        np.maximum.at(nearest, others[end].to_numpy(), others["fine"].to_numpy())
    return nearest
