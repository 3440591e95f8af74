"""`compact_cnn`'s family at several resolutions under patient-cv: benchmarks/results/resolution.json and .svg.

python benchmarks/resolution.py --data ARCHIVE [--sizes 30 64 96 128] [--epochs N] [--precision bf16] [--seeds N] [--runs FOLDER]

For every doubling of the side a stage of half the width is put before the others, so that a larger slice meets the same
network behind it. Everything else is the recipe's, but for epochs and precision, the same at every size. Finished folds are kept.
"""

import argparse
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import tumorscope as ts
from tumorscope.audit.identify import with_pictures
from tumorscope.evaluation.evaluate import comparison_rows
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
    for size in sorted(arguments.sizes):
        recipe = ts.load_recipe("compact_cnn", at(size, arguments.epochs) | {"training.precision": arguments.precision})
        runs = ts.train(recipe, catalogue, "patient-cv", range(arguments.seeds), runs=arguments.runs, resume=True)
        scored = next(row for row in comparison_rows(runs) if row["part"] == "test")
        seconds = [pd.read_csv(file)["seconds"].sum() for run in runs for file in run.glob("fold-*/history.csv")]
        # The largest of all so far; sizes come in rising order.
        memory = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        rows.append(
            {
                **{"epochs": recipe.training.epochs, "precision": recipe.training.precision},
                **{name: scored[name] for name in ("seeds", "accuracy_mean", "accuracy_low", "accuracy_high")},
                "balanced_accuracy_mean": scored["balanced_accuracy_mean"],
                **{"size": size, "filters": list(recipe.model.filters), "seconds_a_fold": float(np.mean(seconds))},
                **{"threads": recipe.training.threads, "largest_process_gb": memory / 2**20},
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
    return {"name": f"compact_{size}", "input.size": size, "model.filters": filters, "training.epochs": epochs}


@styled
def drawn(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(WIDTH * 1.8, 3.0))
    scores, cost = figure.subplots(1, 2)
    middle = table["accuracy_mean"]
    spread = [middle - table["accuracy_low"], table["accuracy_high"] - middle]
    scores.errorbar(table["size"], middle, yerr=spread, fmt="o-", color="#0072B2", label="accuracy")
    scores.plot(table["size"], table["balanced_accuracy_mean"], "s--", color="#D55E00", label="balanced accuracy")
    scores.set_ylabel("under patient-cv")
    scores.legend()
    cost.plot(table["size"], table["seconds_a_fold"], "o-", color="#4D4D4D")
    cost.set_ylabel("seconds a fold")
    cost.set_ylim(bottom=0)
    for axes in (scores, cost):
        axes.set_xlabel("pixels a side")
        axes.set_xticks(table["size"])
        axes.grid(alpha=0.25)
    return figure


if __name__ == "__main__":
    main()
