"""Choose the filter counts of `improved_cnn`, which the student report does not give, on validation data alone.

    python benchmarks/choose_improved_cnn.py --data brain-tumor-mri-dataset.zip

Trains every candidate with the report's other settings under `official` and writes the mean validation accuracy and loss
over seeds to benchmarks/results/choose_improved_cnn.json. Test predictions are made by every run but never read here.
"""

import argparse
from pathlib import Path

import pandas as pd

import tumorscope as ts
from tumorscope.evaluation.scores import score
from tumorscope.files import write_json
from tumorscope.training.identity import environment
from tumorscope.training.runs import train_runs

CANDIDATES = {
    "32-64, dense 128": {"filters": [32, 64], "dense": 128},
    "32-64-128, dense 128": {"filters": [32, 64, 128], "dense": 128},
    "32-64-128-256, dense 128": {"filters": [32, 64, 128, 256], "dense": 128},
    "48-96-192, dense 128": {"filters": [48, 96, 192], "dense": 128},
    "64-128-256, dense 128": {"filters": [64, 128, 256], "dense": 128},
}
RESULT = Path(__file__).parent / "results" / "choose_improved_cnn.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/choose_improved_cnn"))
    arguments = parser.parse_args()
    catalogue = ts.load_catalogue(arguments.data, sizes=(30,))
    rows = []
    for index, (title, model) in enumerate(CANDIDATES.items()):
        changes = {f"model.{key}": value for key, value in model.items()}
        recipe = ts.load_recipe("improved_cnn", {**changes, "name": f"candidate-{index}"})
        folders = train_runs(recipe, catalogue, "official", range(arguments.seeds), runs=arguments.runs, resume=True)
        rows.append({"candidate": title, **validation_of(folders)})
        print(rows[-1], flush=True)
        write_json(RESULT, {"protocol": "official, validation part", "rows": rows, **environment()})


def validation_of(folders: list[Path]) -> dict[str, float]:
    scores, epochs, seconds = [], [], []
    for folder in folders:
        predictions = ts.read_run(folder)
        scores.append(score(predictions[predictions["part"] == "validation"])["accuracy"])
        history = pd.read_csv(folder / "fold-0" / "history.csv")
        epochs.append(len(history))
        seconds.append(history["seconds"].sum())
    values = pd.Series(scores)
    return {
        "seeds": len(scores),
        "validation_accuracy": values.mean(),
        "sd": values.std(),
        "epochs": pd.Series(epochs).mean(),
        "seconds": pd.Series(seconds).mean(),
    }


if __name__ == "__main__":
    main()
