"""What new patients would be worth if the collection may answer "tumour or none": benchmarks/results/presence_and_type.json.

tumorscope study run --rows compact --rows compact_bilinear --rows plain_96 --rows region_96 --rows region_lite_160 \\
    --protocol patient-cv --seeds 1
python benchmarks/presence_and_type.py runs/study/plain_96-patient-cv-s0 runs/study/region_96-patient-cv-s0
python benchmarks/presence_and_type.py runs/study/compact_bilinear-patient-cv-s0 runs/study/region_lite_160-patient-cv-s0
python benchmarks/presence_and_type.py runs/study/compact-patient-cv-s0 runs/study/region_lite_160-patient-cv-s0

Two runs on the same slices, scored alone and together: p(none) of the first, and what is left shared among the types of tumour as
the second shares it. Nothing is fitted, so nothing is chosen; each pair adds a line to the result, or takes the place of its own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from tumorscope.evaluation.intervals import bootstrap, paired_difference
from tumorscope.evaluation.scores import PROBABILITIES, flat, score
from tumorscope.files import write_json
from tumorscope.labels import CLASSES, NO_TUMOUR
from tumorscope.training.identity import environment
from tumorscope.training.runs import read_predictions

RESULT = Path(__file__).parent / "results" / "presence_and_type.json"
METRICS = ("accuracy", "balanced_accuracy", "presence_auc", "type_balanced_accuracy")
SLICE = ["fold", "path"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presence", type=Path, help="run that says tumour or none")
    parser.add_argument("type", type=Path, help="run that says which tumour")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    presence, kind = tested(arguments.presence), tested(arguments.type)
    together = combined(presence, kind)
    answers = {"presence alone": presence, "type alone": kind, "together": together}
    line = {
        "presence": arguments.presence.name,
        "type": arguments.type.name,
        "slices": len(together),
        "scores": {name: scored(answer) for name, answer in answers.items()},
        "together less": {
            name: {metric: paired_difference(together, answer, metric) for metric in METRICS}
            for name, answer in (("presence alone", presence), ("type alone", kind))
        },
    }
    before = json.loads(arguments.out.read_text())["pairs"] if arguments.out.exists() else []
    others = [one for one in before if (one["presence"], one["type"]) != (line["presence"], line["type"])]
    write_json(arguments.out, {"pairs": [*others, line], **environment()})
    for name, found in line["scores"].items():
        print(name, {metric: round(found[metric], 3) for metric in METRICS})
    print(line["together less"])


def tested(run: Path) -> pd.DataFrame:
    said = read_predictions(run)
    return said[said["part"] == "test"].set_index(SLICE, drop=False).rename_axis([None, None])


def combined(presence: pd.DataFrame, kind: pd.DataFrame) -> pd.DataFrame:
    """p(none) of one, the types' shares of the other; the same slices in the first's order."""
    if set(presence.index) != set(kind.index):
        raise SystemExit("The runs have other test slices; give two of one archive and protocol.")
    columns = list(PROBABILITIES)
    none = columns[NO_TUMOUR]
    types = kind.loc[presence.index, columns].assign(**{none: 0.0})
    shared = types.div(types.sum(axis=1), axis=0).mul(1 - presence[none], axis=0)
    return presence.assign(**shared.assign(**{none: presence[none]}))


def scored(said: pd.DataFrame) -> dict[str, Any]:
    told, ranges = flat(score(said)), bootstrap(said, metrics=METRICS)
    recalls = {f"recall_{name}": told[f"recall_{name}"] for name in CLASSES}
    return {metric: told[metric] for metric in METRICS} | {f"{m} 95 %": ranges[m] for m in METRICS} | recalls


if __name__ == "__main__":
    main()
