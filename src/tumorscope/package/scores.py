"""What a card says of how its model does: test scores under each protocol, and the commands of what is not measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumorscope.evaluation.evaluate import by_model, comparison_rows
from tumorscope.package.model_card import QUESTIONS
from tumorscope.training.fold import PROBABILITIES
from tumorscope.training.runs import read_predictions


def scores_of(scored: Sequence[Path]) -> list[dict[str, Any]]:
    """Test scores under each protocol with intervals, the memoriser's beside them."""
    models = by_model(scored)
    rows = [row for row in comparison_rows(models) if row["part"] == "test"]
    kept = ("accuracy", "balanced_accuracy", "f1_weighted", "presence_auc", "type_balanced_accuracy")
    found = []
    for row in rows:
        missed = [
            float((tumours["p_notumor"] >= tumours[PROBABILITIES].max(axis=1)).mean())
            for one in models[row["model"], row["protocol"], row["test_set"]]
            for tumours in [_test_tumours(one["run"])]
            if len(tumours)
        ]
        line = {
            name: row[name]
            for name in ("protocol", "test_set", "seeds", "slices", "pictures", "patients", "memoriser_accuracy")
        }
        for name in kept:
            line |= {
                name: row[f"{name}_mean"],
                f"{name}_low": row.get(f"{name}_low"),
                f"{name}_high": row.get(f"{name}_high"),
            }
        found.append({**line, "missed_tumours": float(np.mean(missed)) if missed else None})
    return found


def not_measured(name: str, measured: set[str]) -> dict[str, str]:
    """Protocols that nothing is known under, each with the command that would say it."""
    place = {"external": "--test-data OTHER"}
    return {
        protocol: f"tumorscope train {name} --data ARCHIVE {place.get(protocol, f'--protocol {protocol}')}"
        for protocol in QUESTIONS
        if protocol not in measured
    }


def _test_tumours(run: Path) -> pd.DataFrame:
    predictions = read_predictions(run)
    return predictions[(predictions["part"] == "test") & (predictions["label"] != "notumor")]
