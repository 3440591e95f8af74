"""Training speed of the same baseline CNN: ours, Keras on TensorFlow, and a plain PyTorch DataLoader loop, in one run.

    python benchmarks/training_speed.py --data brain-tumor-mri-dataset.zip

Each contender trains on the same 4,569 slices (training part of `official`, seed 0), batch 32, Adam 1e-3, with both cores,
in a process of its own, one after another; rounds are interleaved, so that a slow minute of the machine hits all. The clock
runs over training alone. Keras lives in its own environment (.venv-keras, made on first use), as it would on a laptop.
`fast_cnn` is a recipe of ours for the time to the student report's best accuracy. Test accuracy against time is an analysis:
nothing is chosen by it. Writes benchmarks/results/training_speed.json.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import tumorscope as ts
from tumorscope import home
from tumorscope.files import write_json
from tumorscope.labels import INDEX
from tumorscope.protocols import folds
from tumorscope.training.identity import environment

HERE = Path(__file__).parent
RESULT = HERE / "results" / "training_speed.json"
KERAS_VENV = HERE.parent / ".venv-keras"
KERAS = "tensorflow-cpu==2.21.0"
TARGETS = (0.75, 0.8871)
#: Multiplications and additions of baseline_cnn, forward and backward, for one slice (first layer without input gradient).
CONV1, CONV2, DENSE = 900 * 9 * 32, 169 * 288 * 32, 1152 * 32 + 32 * 4
OPERATIONS = 2 * (2 * CONV1 + 3 * CONV2 + 3 * DENSE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    threads = home.cores()
    with tempfile.TemporaryDirectory() as folder:
        arrays, slices = store_arrays(arguments.data, Path(folder))
        rounds: dict[str, list[list[dict[str, float]]]] = {}
        for seed in range(arguments.rounds):
            for name, command in contenders(arrays, arguments.epochs, seed, threads).items():
                print(f"round {seed}: {name}", flush=True)
                rounds.setdefault(name, []).append(run(command))
    rows = {name: summary(several, slices) for name, several in rounds.items()}
    peak = matrix_peak(threads)
    result = {"slices": slices, "rounds": arguments.rounds, "rows": rows, "ratios": ratios(rows), "peak_gflops": peak}
    result["fraction_of_peak"] = rows["ours"]["slices_per_second"] * OPERATIONS / 1e9 / peak
    write_json(RESULT, {**result, "keras": KERAS, **environment()})
    print(json.dumps({key: result[key] for key in ("rows", "ratios", "peak_gflops", "fraction_of_peak")}, indent=2))


def store_arrays(data: str, folder: Path) -> tuple[Path, int]:
    catalogue = ts.load_catalogue(data, sizes=(30,))
    images, labels = np.asarray(ts.pixels(catalogue, 30)), catalogue.table["label"].map(INDEX).to_numpy()
    fold = folds("official", catalogue.table, 0)[0]
    parts = {"train": fold.train, "test": fold.test}
    arrays = {
        f"{part}_{axis}": values[rows]
        for part, rows in parts.items()
        for axis, values in (("x", images), ("y", labels))
    }
    np.savez(folder / "arrays.npz", **arrays)
    return folder / "arrays.npz", len(fold.train)


def contenders(arrays: Path, epochs: int, seed: int, threads: int) -> dict[str, list[str]]:
    peers, settings = HERE / "peers", [str(arrays), str(epochs)]
    return {
        "ours": [sys.executable, f"{peers}/ours.py", *settings, str(seed), "baseline_cnn", str(threads)],
        "keras": [keras_python(), f"{peers}/keras_baseline.py", *settings, "32", str(seed)],
        "dataloader": [sys.executable, f"{peers}/dataloader_baseline.py", *settings, "32", str(seed)],
        "ours, fast_cnn": [sys.executable, f"{peers}/ours.py", str(arrays), "0", str(seed), "fast_cnn", str(threads)],
    }


def keras_python() -> str:
    python = KERAS_VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(KERAS_VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", KERAS], check=True)
    return str(python)


def run(command: list[str]) -> list[dict[str, float]]:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def summary(rounds: list[list[dict[str, float]]], slices: int) -> dict[str, float | None]:
    """Median slices a second over all epochs but the first of each round; median seconds to each target."""
    epochs = [b["seconds"] - a["seconds"] for rows in rounds for a, b in itertools.pairwise(rows)]
    row: dict[str, float | None] = {"slices_per_second": slices / float(np.median(epochs))}
    for target in TARGETS:
        reached = [next((line["seconds"] for line in rows if line["test"] >= target), None) for rows in rounds]
        found = [seconds for seconds in reached if seconds is not None]
        row[f"seconds_to_{target}"] = float(np.median(found)) if len(found) == len(rounds) else None
        row[f"rounds_that_reach_{target}"] = len(found)
    return row


def ratios(rows: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    def ratio(above: float | None, below: float | None) -> float | None:
        return above / below if above and below else None

    speed = {name: row["slices_per_second"] for name, row in rows.items()}
    best = {name: row["seconds_to_0.8871"] for name, row in rows.items()}
    return {
        "slices a second, ours over Keras": ratio(speed["ours"], speed["keras"]),
        "slices a second, ours over DataLoader": ratio(speed["ours"], speed["dataloader"]),
        "time to 0.8871, Keras over ours with the same network": ratio(best["keras"], best["ours"]),
        "time to 0.8871, Keras over fast_cnn": ratio(best["keras"], best["ours, fast_cnn"]),
    }


def matrix_peak(threads: int, side: int = 3072, repeats: int = 8) -> float:
    """GFLOP/s of the best of some large float32 matrix products."""
    torch.set_num_threads(threads)
    a, b = torch.rand(side, side), torch.rand(side, side)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds) / 1e9


if __name__ == "__main__":
    main()
