"""Width, epochs and rate of `fast_cnn`, by validation accuracy and seconds: benchmarks/results/choose_fast_cnn.json.

python benchmarks/choose_fast_cnn.py --data ARCHIVE

The rule: the least time with a validation accuracy of 0.925 or more, since `improved_cnn` loses two points from validation to
test and 0.8871 is to be reached for certain. Test slices are not read.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

import tumorscope as ts
from tumorscope.files import write_json
from tumorscope.labels import INDEX
from tumorscope.training.identity import environment
from tumorscope.training.loop import fit

RESULT = Path(__file__).parent / "results" / "choose_fast_cnn.json"
FILTERS, EPOCHS, RATES, SEEDS = ([16, 32, 64], [24, 48, 96], [32, 64, 128]), (3, 4, 5), (4e-3, 8e-3), range(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    catalogue = ts.load_catalogue(parser.parse_args().data, sizes=(30,))
    images, labels = np.asarray(ts.pixels(catalogue, 30)), catalogue.table["label"].map(INDEX).to_numpy(np.int64)
    splits = {seed: ts.folds("official", catalogue.table, seed)[0] for seed in SEEDS}
    rows = []
    for filters, epochs, rate in itertools.product(FILTERS, EPOCHS, RATES):
        changes = {"model.filters": filters, "training.epochs": epochs, "optimiser.learning_rate": rate}
        recipe, ends = ts.load_recipe("fast_cnn", changes), []
        for seed, fold in splits.items():
            parts = [(images[part], labels[part]) for part in (fold.train, fold.validation)]
            _, history = fit(recipe, seed, *parts, fabric=Fabric(accelerator="cpu", devices=1))
            ends.append((history[-1]["val_accuracy"], sum(row["seconds"] for row in history)))
        accuracy, seconds = np.mean(ends, axis=0)
        spread = float(np.std([end[0] for end in ends], ddof=1))
        rows.append({**changes, "validation_accuracy": float(accuracy), "sd": spread, "seconds": float(seconds)})
        print(rows[-1], flush=True)
    write_json(RESULT, {"seeds": len(SEEDS), "rows": rows, **environment()})


if __name__ == "__main__":
    main()
