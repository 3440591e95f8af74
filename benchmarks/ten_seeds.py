"""`improved_cnn` under the official protocol with ten seeds: benchmarks/results/ten_seeds.json.

python benchmarks/ten_seeds.py --data ARCHIVE [--runs runs/protocols]
"""

import argparse
from pathlib import Path

import tumorscope as ts
from tumorscope.evaluation.evaluate import by_model, comparison_rows
from tumorscope.files import write_json
from tumorscope.training.identity import environment

RESULT = Path(__file__).parent / "results" / "ten_seeds.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/protocols"))
    arguments = parser.parse_args()
    catalogue = ts.load_catalogue(arguments.data, sizes=(30,))
    runs = ts.train("improved_cnn", catalogue, "official", range(10), runs=arguments.runs, resume=True)
    rows = comparison_rows(by_model(runs), reported=True)
    for row in rows:
        print(
            f"{row['part']}: accuracy {row['accuracy_mean']:.4f} ± {row['accuracy_sd']:.4f} over {row['seeds']} seeds, "
            f"memoriser {row['memoriser_accuracy']:.4f}"
        )
    write_json(RESULT, {"command": "python benchmarks/ten_seeds.py --data ARCHIVE", "rows": rows, **environment()})


if __name__ == "__main__":
    main()
