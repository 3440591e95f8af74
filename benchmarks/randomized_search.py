"""RandomizedSearchCV of scikit-learn over `improved_cnn`'s space, by `ts.SliceClassifier`: results/randomized_search.json.

python benchmarks/randomized_search.py --data ARCHIVE [--draws N] [--folds N]

The slices are the training and validation parts of one fold under patient-cv; the inner folds, and the slices that early
stopping waits for, are grouped by patient (metadata routing). What it finds is the study's row `random_search`, whose own folds
test slices that were looked at here, as with any choice made on the set that is then scored.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from scipy import stats
from sklearn.model_selection import RandomizedSearchCV, StratifiedGroupKFold

import tumorscope as ts
from tumorscope import home
from tumorscope.audit.identify import with_pictures
from tumorscope.data.cache import pixels
from tumorscope.files import write_json
from tumorscope.protocols import folds, groups
from tumorscope.training.identity import environment
from tumorscope.tuning.space import Range, load_space

RESULTS = Path(__file__).parent / "results"
#: Seed of the outer fold, apart from the seeds that results are reported with.
SEED = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--folds", type=int, default=2)
    arguments = parser.parse_args()
    catalogue = with_pictures(ts.load_catalogue(arguments.data, sizes=(30,)))
    fold = folds("patient-cv", catalogue.table, SEED)[0]
    rows = np.concatenate([fold.train, fold.validation])
    labels = catalogue.table["label"].to_numpy()[rows]
    slices = np.asarray(pixels(catalogue, 30))[rows].reshape(len(rows), -1)
    sklearn.set_config(enable_metadata_routing=True)
    search = RandomizedSearchCV(
        ts.SliceClassifier("improved_cnn").set_fit_request(groups=True),
        {key.replace(".", "__"): distribution(values) for key, values in load_space("improved_cnn").items()},
        n_iter=arguments.draws,
        scoring="balanced_accuracy",
        cv=StratifiedGroupKFold(arguments.folds, shuffle=True, random_state=SEED),
        n_jobs=home.cores(),
        random_state=SEED,
        refit=False,
        verbose=2,
    )
    search.fit(slices, labels, groups=groups(catalogue.table, by_patient=True)[rows])
    found = search.cv_results_
    trials: list[dict[str, Any]] = [
        {"params": plain(params), "balanced_accuracy": float(mean), "sd": float(sd), "seconds": float(seconds)}
        for params, mean, sd, seconds in zip(
            found["params"], found["mean_test_score"], found["std_test_score"], found["mean_fit_time"], strict=True
        )
    ]
    best = max(trials, key=lambda trial: trial["balanced_accuracy"])
    print(json.dumps(best, indent=1))
    write_json(
        RESULTS / "randomized_search.json",
        {"slices": len(rows), "folds": arguments.folds, "best": best, "trials": trials, **environment()},
    )


def distribution(values: Range) -> Any:
    """A range of a search space as scikit-learn draws from it: a list of choices or a distribution of scipy."""
    if values.choices:
        return list(values.choices)
    low, high = values.low or 0, values.high or 0
    if isinstance(low, int) and isinstance(high, int):
        # scipy has no logarithmic whole numbers; a hundred even quantiles stand for them.
        drawn = stats.loguniform(low, high) if values.log else stats.uniform(low, high - low)
        return sorted({round(float(value)) for value in drawn.ppf(np.linspace(0.005, 0.995, 100))})
    return stats.loguniform(low, high) if values.log else stats.uniform(low, high - low)


def plain(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters under the recipe's own names."""
    return {key.replace("__", "."): getattr(value, "tolist", lambda v=value: v)() for key, value in params.items()}


if __name__ == "__main__":
    main()
