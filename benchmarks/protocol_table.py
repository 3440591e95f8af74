"""Both networks of the student report and the memoriser under every protocol: benchmarks/results/protocols.json.

python benchmarks/protocol_table.py --data ARCHIVE [--external OTHER] [--runs runs/protocols] [--seeds 5]

Runs that are there are kept, so that it goes on where it was stopped. The rows are what docs/explanation/protocols.md shows.
"""

import argparse
from pathlib import Path

import pandas as pd

import tumorscope as ts
from tumorscope.audit.identify import with_pictures
from tumorscope.audit.leakage import memorisers
from tumorscope.data.catalogue import join
from tumorscope.evaluation.evaluate import by_model, comparison_rows
from tumorscope.files import write_json
from tumorscope.training.identity import environment

PROTOCOLS = ("official", "clean", "picture-cv", "patient-cv")
RECIPES = ("baseline_cnn", "improved_cnn")
SHOWN = ("accuracy", "balanced_accuracy", "f1_weighted", "type_balanced_accuracy", "presence_auc")
RESULT = Path(__file__).parent / "results" / "protocols.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/protocols"))
    parser.add_argument("--external", help="another set, tested by models that were trained on all of ARCHIVE")
    arguments = parser.parse_args()
    catalogue = ts.load_catalogue(arguments.data, sizes=(30,))
    seeds = range(arguments.seeds)
    runs: list[Path] = []
    for recipe in RECIPES:
        for protocol in PROTOCOLS:
            runs += ts.train(recipe, catalogue, protocol, seeds, runs=arguments.runs, resume=True)
            print(f"{recipe} under {protocol}: done", flush=True)
    if arguments.external:
        both = with_pictures(join(catalogue, ts.load_catalogue(arguments.external, sizes=(30,))))
        for recipe in RECIPES:
            runs += ts.train(recipe, both, "external", seeds, runs=arguments.runs, resume=True)
            print(f"{recipe} under external: done", flush=True)
    rows = [row for row in comparison_rows(by_model(runs)) if row["part"] == "test"]
    floor = memorisers(catalogue.table, ts.pixels(catalogue, 30), seeds)
    floor = floor[floor["protocol"].isin(PROTOCOLS)]
    print(markdown(rows, floor))
    write_json(
        RESULT,
        {
            "command": "python benchmarks/protocol_table.py --data ARCHIVE",
            "seeds": len(seeds),
            "external": arguments.external and Path(arguments.external).name,
            "catalogue": catalogue.digest,
            "rows": rows,
            "memoriser": floor.to_dict("records"),
            **environment(),
        },
    )


def markdown(rows: list[dict], floor: pd.DataFrame) -> str:
    """The table of the docs: accuracy of each model by protocol, the memoriser beside it."""
    lines = [
        "| protocol | test slices | model | accuracy | 95 % | balanced | type, balanced | presence: AUC, sens., spec. |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for protocol in (*PROTOCOLS, "external"):
        for row in rows:
            if row["protocol"] == protocol:
                cells = [f"{row[f'{m}_mean']:.4f} ± {row[f'{m}_sd']:.4f}" for m in ("accuracy", "balanced_accuracy")]
                interval = f"{row['accuracy_low']:.3f} to {row['accuracy_high']:.3f}"
                kind = row["type_balanced_accuracy_mean"]
                cells += ["" if kind is None else f"{kind:.4f}"]
                presence = [row[f"presence_{name}_mean"] for name in ("auc", "sensitivity", "specificity")]
                cells += [", ".join("-" if value is None else f"{value:.3f}" for value in presence)]
                ours = f"{row['model']} | {cells[0]} | {interval} | {' | '.join(cells[1:])}"
                lines.append(f"| {protocol} | {row['slices']:,} | {ours} |")
        for _, row in floor[floor["protocol"] == protocol].iterrows():
            name = "memoriser with mirrors" if row["mirrors"] else "memoriser"
            interval = f"{row['accuracy_low']:.3f} to {row['accuracy_high']:.3f}"
            lines.append(
                f"| {protocol} | | {name} | {row['accuracy']:.4f} | {interval} | {row['balanced_accuracy']:.4f} | | |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
