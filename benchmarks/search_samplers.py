"""TPE, random search and Hyperband on `improved_cnn`'s space at equal budget: benchmarks/results/search_samplers.json and .svg.

python benchmarks/search_samplers.py --data ARCHIVE [--epochs N] [--seeds N] [--out FOLDER]

The budget is trained epochs, the thing that costs time. A search draws trials until it has spent it; what counts is the best
balanced accuracy on the validation slices of one grouped fold by then. Searches that were cut off are gone on with.
"""

import argparse
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.figure import Figure

import tumorscope as ts
from tumorscope.audit.identify import with_pictures
from tumorscope.evaluation.figures import WIDTH, encoded, styled
from tumorscope.files import write_bytes, write_json
from tumorscope.training.identity import environment
from tumorscope.tuning.search import tune
from tumorscope.tuning.space import load_space
from tumorscope.tuning.trials import STUDY, Pruner, Sampler, storage_of

RESULTS = Path(__file__).parent / "results"
ARMS: dict[str, tuple[Sampler, Pruner]] = {
    "TPE": ("tpe", "none"),
    "random": ("random", "none"),
    "Hyperband": ("random", "hyperband"),
}
#: Trials added at a time until the budget is spent.
STEP = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=300, help="Budget of a search in trained epochs.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/search_samplers"), help="Where searches are kept.")
    arguments = parser.parse_args()
    catalogue = with_pictures(ts.load_catalogue(arguments.data, sizes=(30,)))
    curves: dict[str, list[Any]] = {arm: [] for arm in ARMS}
    for seed in range(arguments.seeds):
        for arm in ARMS:
            curves[arm].append(search(arm, seed, catalogue, arguments.epochs, arguments.out / f"{arm}-{seed}"))
            print(arm, seed, curves[arm][-1][-1], flush=True)
            keep(curves, arguments.epochs)


def search(arm: str, seed: int, catalogue: Any, budget: int, out: Path) -> list[tuple[int, float]]:
    """(epochs spent, best value so far) after every trial."""
    sampler, pruner = ARMS[arm]
    spent: list[tuple[int, float]] = []
    while not spent or spent[-1][0] < budget:
        tune(
            "improved_cnn",
            load_space("improved_cnn"),
            catalogue,
            trials=len(spent) + STEP,
            out=out,
            sampler=sampler,
            pruner=pruner,
            seed=seed,
        )
        study = optuna.load_study(study_name=STUDY, storage=storage_of(str(out / "journal.log")))
        trials = study.get_trials(deepcopy=False)
        epochs = accumulate(len(trial.intermediate_values) for trial in trials)
        best = accumulate((trial.value if trial.state.name == "COMPLETE" else 0.0 for trial in trials), max)
        spent = list(zip(epochs, best, strict=True))
    return [point for point in spent if point[0] <= budget] or spent[:1]


def keep(curves: dict[str, list[Any]], budget: int) -> None:
    ends = {arm: [one[-1][1] for one in several] for arm, several in curves.items() if several}
    rows = [
        {
            "search": arm,
            "seeds": len(values),
            "trials": [len(one) for one in curves[arm]],
            "best": values,
            "mean": float(np.mean(values)),
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
        for arm, values in ends.items()
    ]
    write_json(RESULTS / "search_samplers.json", {"epochs": budget, "rows": rows, "curves": curves, **environment()})
    write_bytes(RESULTS / "search_samplers.svg", encoded(drawn(curves), "svg"))


@styled
def drawn(curves: dict[str, list[Any]]) -> Figure:
    figure = Figure(figsize=(WIDTH * 1.4, 3.4))
    axes = figure.subplots()
    looks = (("#0072B2", "-"), ("#D55E00", "-"), ("#4D4D4D", "--"))
    for (arm, several), (colour, dash) in zip(curves.items(), looks, strict=True):
        for number, one in enumerate(several):
            epochs, best = zip(*one, strict=True)
            axes.step(epochs, best, where="post", color=colour, ls=dash, alpha=0.7, label=arm if number == 0 else None)
    axes.set_ylim(bottom=0.7)
    axes.set_xlabel("epochs trained in all")
    axes.set_ylabel("best balanced accuracy")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    main()
