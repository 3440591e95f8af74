"""A package on labelled data: what a hospital does first with slices of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumorscope.data.catalogue import Catalogue
from tumorscope.evaluation.intervals import bootstrap
from tumorscope.evaluation.scores import PROBABILITIES, score
from tumorscope.inference.classifier import Classifier
from tumorscope.labels import TUMOUR
from tumorscope.training.runs import environment


def score_package(
    package: Path | None, catalogue: Catalogue, progress: Callable[[int, int], None] = lambda *_: None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Findings of every slice of the catalogue, a row each with path, label, status and probabilities; and their scores.

    A catalogue may hold tumours of an unknown kind; then there are scores of presence alone.
    What the gate refuses has no probabilities; it is counted, by class, and left out of the scores, which say so. Presence at
    the answer given: a tumour is found where the answer is a tumour.
    """
    classifier, source, table = Classifier.load(package), catalogue.source(), catalogue.table
    rows = []
    contents = (source.read(path) for path in table["path"])
    for number, one in enumerate(classifier.predict(contents)):
        chances = one.probabilities or dict.fromkeys(classifier.package.card["labels"], np.nan)
        rows.append(
            {
                **{"status": one.status, "answer": one.label, "reasons": "; ".join(one.reasons)},
                **{"set": " ".join(one.prediction_set)},
                **{f"p_{name}": value for name, value in chances.items()},
            }
        )
        progress(number + 1, len(table))
    facts = table[["path", "label", "source", "plane", "patient", "picture"]].reset_index(drop=True)
    found = pd.concat([facts, pd.DataFrame(rows)], axis=1)
    answered = found[found[PROBABILITIES[0]].notna()]
    refused = found["status"].isin(["refused", "error"])
    result: dict[str, Any] = {
        "package": classifier.package.card["name"],
        "data": {"name": catalogue.name, "digest": catalogue.digest, "slices": len(found)},
        "status": found["status"].value_counts().to_dict(),
        "refused by class": refused.groupby(found["label"]).mean().to_dict(),
        **environment(),
    }
    if len(answered):
        result |= {"presence": presence(answered), "presence by plane": _by(answered, "plane")}
        result["presence by source"] = _by(answered, "source")
    if len(answered) and (answered["label"] != TUMOUR).all():
        covered = [label in one.split() for label, one in zip(answered["label"], answered["set"], strict=True)]
        result |= {
            "scores": score(answered),
            "intervals": bootstrap(answered),
            "set coverage by class": pd.Series(covered).groupby(answered["label"].to_numpy()).mean().to_dict(),
        }
    return found, result


def presence(answered: pd.DataFrame) -> dict[str, Any]:
    """Tumour or none, whatever the kind: n, AUC, sensitivity and specificity, with 95 % intervals by patient where known."""
    # Any kind will do, since presence does not ask which.
    told = answered.assign(label=answered["label"].replace(TUMOUR, "glioma"))
    names = ("auc", "sensitivity", "specificity")
    intervals = bootstrap(told, metrics=[f"presence_{name}" for name in names])
    found = score(told)["presence"]
    return {
        **{"n": len(told), "tumours": int((told["label"] != "notumor").sum())},
        **{name: found[name] for name in names},
        "intervals": {name: intervals[f"presence_{name}"] for name in names},
    }


def _by(answered: pd.DataFrame, column: str) -> dict[str, Any]:
    """Presence for each value of a column that is known."""
    known = answered[answered[column].fillna("") != ""]
    return {str(name): presence(part) for name, part in known.groupby(column)}
