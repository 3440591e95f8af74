"""`compact_cnn`'s family at several resolutions under patient-cv: benchmarks/results/resolution.json and .svg.

python benchmarks/resolution.py --data ARCHIVE [--sizes 30 64 96 128] [--epochs N] [--precision bf16] [--seeds N] [--runs FOLDER]

For every doubling of the side a stage of half the width is put before the others, so that a larger slice meets the same
network behind it. Everything else is the recipe's, but for epochs, precision and batches of 32 (more steps in fewer epochs), all
of which are the same at every size. Finished folds are kept. Seconds and memory are measured apart, on one core with nothing else
on the machine.
"""

import argparse
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import tumorscope as ts
from tumorscope.audit.identify import with_pictures
from tumorscope.evaluation.evaluate import by_model, comparison_rows
from tumorscope.evaluation.figures import WIDTH, encoded, styled
from tumorscope.files import write_bytes, write_json
from tumorscope.training.identity import environment

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[30, 64, 96, 128])
    parser.add_argument("--epochs", type=int, default=ts.load_recipe("compact_cnn").training.epochs)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/resolution"))
    arguments = parser.parse_args()
    catalogue = with_pictures(ts.load_catalogue(arguments.data, sizes=(30,)))
    rows: list[dict[str, Any]] = []
    precision = {"training.precision": arguments.precision}
    for size in sorted(arguments.sizes):
        recipe = ts.load_recipe("compact_cnn", at(size, arguments.epochs) | precision)
        runs = ts.train(recipe, catalogue, "patient-cv", range(arguments.seeds), runs=arguments.runs, resume=True)
        scored = next(row for row in comparison_rows(by_model(runs)) if row["part"] == "test")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            seconds, memory = pool.submit(cost, at(size, 2) | precision, arguments.data).result()
        rows.append(
            {
                **{"epochs": recipe.training.epochs, "precision": recipe.training.precision},
                **{name: scored[name] for name in ("seeds", "accuracy_mean", "accuracy_low", "accuracy_high")},
                "balanced_accuracy_mean": scored["balanced_accuracy_mean"],
                **{
                    "size": size,
                    "filters": list(recipe.model.filters),
                    "seconds_a_fold": seconds * recipe.training.epochs,
                },
                **{"threads": recipe.training.threads, "memory_gb": memory},
            }
        )
        print(rows[-1], flush=True)
        write_json(RESULTS / "resolution.json", {"rows": rows, **environment()})
        write_bytes(RESULTS / "resolution.svg", encoded(drawn(pd.DataFrame(rows)), "svg"))


def at(size: int, epochs: int) -> dict[str, Any]:
    """What is changed in the recipe for slices of `size`."""
    filters = list(ts.load_recipe("compact_cnn").model.filters)
    for _ in range(round(np.log2(size / 30))):
        filters = [filters[0] // 2, *filters]
    changes = {"name": f"compact_{size}", "input.size": size, "model.filters": filters}
    # As it was measured; what bicubic turns change is in interpolation.json.
    return {**changes, "training.epochs": epochs, "training.batch_size": 32, "augment.bicubic": False}


def cost(changes: dict[str, Any], data: str) -> tuple[float, float]:
    """Seconds of an epoch on one fold's slices, the second of two, and GB of this process, which does nothing else."""
    from tumorscope.data.cache import input_pixels
    from tumorscope.labels import INDEX
    from tumorscope.training.fold import open_fabric
    from tumorscope.training.loop import fit

    recipe = ts.load_recipe("compact_cnn", changes)
    catalogue = with_pictures(ts.load_catalogue(data, sizes=(30,)))
    images, labels = input_pixels(catalogue, recipe.input), catalogue.table["label"].map(INDEX).to_numpy(np.int64)
    fold = ts.folds("patient-cv", catalogue.table, 0)[0]
    train, validation = ((np.asarray(images[rows]), labels[rows]) for rows in (fold.train, fold.validation))
    _, history = fit(recipe, 0, train, validation, fabric=open_fabric("cpu", recipe.training.precision))
    return history[-1]["seconds"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@styled
def drawn(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(WIDTH * 2.2, 3.0))
    scores, cost, memory = figure.subplots(1, 3)
    middle = table["accuracy_mean"]
    spread = [middle - table["accuracy_low"], table["accuracy_high"] - middle]
    scores.errorbar(table["size"], middle, yerr=spread, fmt="o-", color="#0072B2", label="accuracy")
    scores.plot(table["size"], table["balanced_accuracy_mean"], "s--", color="#D55E00", label="balanced accuracy")
    scores.set_ylabel("under patient-cv")
    scores.legend(loc="lower right")
    cost.plot(table["size"], table["seconds_a_fold"], "o-", color="#4D4D4D")
    cost.set_ylabel("seconds a fold")
    memory.plot(table["size"], table["memory_gb"], "o-", color="#4D4D4D")
    memory.set_ylabel("GB of a process that trains")
    for axes in (cost, memory):
        axes.set_ylim(bottom=0)
    for axes in (scores, cost, memory):
        axes.set_xlabel("pixels a side")
        axes.set_xticks(table["size"])
        axes.grid(alpha=0.25)
    return figure


if __name__ == "__main__":
    main()
