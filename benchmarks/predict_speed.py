"""Speed and memory of `predict`: one slice from process start, a folder, and the graph beside eager torch.

python benchmarks/predict_speed.py --data ARCHIVE [--model PACKAGE] [--files N] [--run RUN]

One slice and folder are timed as a user runs them, in a process of their own, decoding included. The graph and the
torch network of --run (the run that the package was made of) answer the same batch in turn, in this process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import tumorscope as ts
from tumorscope.files import write_json
from tumorscope.training.identity import environment

RESULT = Path(__file__).parent / "results" / "predict_speed.json"
ONCE = "import sys; from tumorscope.cli.main import main; sys.argv[0] = 'tumorscope'; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default=None)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--run", type=Path, help="Run of protocol all that the package was made of.")
    arguments = parser.parse_args()
    catalogue = ts.load_catalogue(arguments.data)
    source, paths = catalogue.source(), catalogue.table["path"]
    some = np.unique(np.linspace(0, len(paths) - 1, arguments.files).astype(int))
    model = ["--model", arguments.model] if arguments.model else []
    with tempfile.TemporaryDirectory() as folder:
        for row in some:
            Path(folder, f"{row:05d}.jpg").write_bytes(source.read(paths[row]))
        one = str(Path(folder, f"{some[0]:05d}.jpg"))
        singles = [timed([one, *model]) for _ in range(6)][1:]
        seconds, memory = timed([folder, "--format", "csv", *model])
    result = {
        "one_slice_seconds": float(np.median([single[0] for single in singles])),
        "one_slice_mb": float(np.median([single[1] for single in singles])),
        "folder_files": len(some),
        "folder_slices_per_second": len(some) / seconds,
        "folder_mb": memory,
        **(beside_torch(arguments.model, arguments.run) if arguments.run else {}),
        **environment(),
    }
    print(json.dumps({key: value for key, value in result.items() if isinstance(value, float)}, indent=2))
    write_json(RESULT, result)


def timed(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and largest memory in MB of `tumorscope predict`."""
    started = time.perf_counter()
    watch = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], *sys.argv[2:]], "
        "stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    # The memory is the child's alone, so a watcher stands between.
    answer = subprocess.run(
        [sys.executable, "-S", "-c", watch, ONCE, "predict", *arguments], stdout=subprocess.PIPE, check=True
    )
    return time.perf_counter() - started, int(answer.stdout) / 1024


def beside_torch(model: str | None, run: Path) -> dict[str, float]:
    """Slices per second of graph and network on batches as `predict` asks, in turn."""
    import torch

    from tumorscope.config import load_recipe
    from tumorscope.inference.classifier import BATCH
    from tumorscope.package.graph import Exported
    from tumorscope.training.network import load_network

    recipe = load_recipe(run / "recipe.toml")
    network = Exported(load_network(run / "fold-0", recipe), recipe.training.mirror_average).eval()
    session = ts.Classifier.load(model)._session
    batch = (
        np.random.default_rng(0).integers(0, 256, (BATCH, 1, recipe.input.size, recipe.input.size)).astype(np.float32)
    )
    spent = {"onnx": 0.0, "torch": 0.0}
    for turn in range(84):
        for name in spent:
            started = time.perf_counter()
            if name == "onnx":
                session.run(None, {"slices": batch})
            else:
                with torch.inference_mode():
                    network(torch.from_numpy(batch))
            spent[name] += (time.perf_counter() - started) if turn >= 4 else 0.0
    rates = {f"{name}_slices_per_second": 80 * BATCH / seconds for name, seconds in spent.items()}
    return {**rates, "onnx_over_torch": spent["torch"] / spent["onnx"]}


if __name__ == "__main__":
    main()
