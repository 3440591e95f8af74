"""Approximate against exact neighbours on synthetic descriptors with planted twins: benchmarks/results/neighbours.json.

python benchmarks/neighbours.py [--n 300000]

Every other descriptor is a noisy copy of the one before it (correlation about 0.98, as a slice stored anew), the bases lie in
clusters, as slices of one collection do. Exact search is timed on a sample of queries and scaled; recall is measured on it.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from tumorscope.audit.pictures import NEIGHBOURS, neighbours
from tumorscope.files import write_json
from tumorscope.training.identity import environment

RESULT = Path(__file__).parent / "results" / "neighbours.json"
#: Numbers of a 16x16 descriptor, clusters, and queries that the exact search answers.
SIDE, CLUSTERS, SAMPLE = 256, 500, 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=300_000)
    n = parser.parse_args().n
    random = np.random.default_rng(0)
    rows = descriptors(n, random)
    sample = random.choice(n, SAMPLE, replace=False)
    sizes = [n // 8, n // 4, n // 2, n]
    grown = {size: timed(lambda size=size: neighbours(rows[:size], NEIGHBOURS, "faiss")) for size in sizes}
    approximate = grown[n][1]
    seconds, (exact, _) = timed(lambda: neighbours(rows, NEIGHBOURS, "exact", queries=rows[sample]))
    found = approximate[0][sample]
    twin = sample ^ 1
    result = {
        "command": "python benchmarks/neighbours.py",
        "n": n,
        "neighbours": NEIGHBOURS,
        "approximate_seconds_by_n": {size: took for size, (took, _) in grown.items()},
        "exact_seconds_scaled": seconds * n / SAMPLE,
        "ratio": seconds * n / SAMPLE / grown[n][0],
        "recall_of_twins": float((found == twin[:, None]).any(axis=1).mean()),
        "recall_of_twins_exact": float((exact == twin[:, None]).any(axis=1).mean()),
        "recall_at_10": float(
            np.mean([len(set(a[:10]) & set(b[:10])) / 10 for a, b in zip(found, exact, strict=True)])
        ),
    }
    print(*(f"{key}: {value}" for key, value in result.items()), sep="\n")
    write_json(RESULT, {**result, **environment()})


def descriptors(n: int, random: np.random.Generator) -> np.ndarray:
    """float32 (n, 256) of unit norm; rows 2k and 2k + 1 are twins."""
    centres = random.standard_normal((CLUSTERS, SIDE), np.float32)
    bases = centres[random.integers(0, CLUSTERS, n // 2)] + 0.7 * random.standard_normal((n // 2, SIDE), np.float32)
    rows = np.repeat(bases, 2, axis=0)
    rows[1::2] += 0.25 * random.standard_normal((n // 2, SIDE), np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def timed(work):
    """Seconds and what came out."""
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


if __name__ == "__main__":
    main()
