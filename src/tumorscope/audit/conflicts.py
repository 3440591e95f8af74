"""Label conflicts: one picture under two classes; and labels that a trained run doubts. Lists to look at, never corrections."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import DataNotFound
from tumorscope.evaluation.scores import PROBABILITIES, probability_of, truth_of
from tumorscope.labels import CLASSES
from tumorscope.training.runs import facts_of, read_predictions


@dataclass(frozen=True)
class LabelIssues:
    """Labels that a run doubts.

    ranked : DataFrame, most doubtful first, a row a slice that is likely mislabelled: row (of the catalogue's table), path,
        label, suggested (the class that the run gives it), p_label and p_suggested (probabilities), quality in [0, 1] (0
        is certainly wrong), part ("validation" or "test")
    run : name of the run's folder
    protocol : what it was trained under
    judged : slices that were looked at
    note : what the list rests on, a sentence
    """

    ranked: pd.DataFrame
    run: str
    protocol: str
    judged: int
    note: str


def conflicts(table: pd.DataFrame) -> pd.DataFrame:
    """Slices of pictures that have more than one class: picture, row, path, label, split, patient, a picture together."""
    several = table.groupby("picture")["label"].transform("nunique") > 1
    found = table.loc[several & (table["picture"] != ""), ["picture", "path", "label", "split", "patient"]]
    found = found.assign(row=found.index).sort_values(["picture", "label", "path"], ignore_index=True)
    return found[["picture", "row", "path", "label", "split", "patient"]]


def label_issues(catalogue: Catalogue, run: Path) -> LabelIssues:
    """Rank the labels that a finished run doubts, by confident learning on its out-of-fold predictions.

    Of a cross-validated run these are the test rows, every slice once; of another run the validation and test rows.

    Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels", JAIR 2021.

    Validation slices of a further set that the run's recipe names are none of the catalogue's, and are not judged.

    Raises `DataNotFound` where the folder holds no finished run, `RunMismatch` where it was trained on other data.
    """
    protocol = _protocol(catalogue, run)
    predictions = read_predictions(run)
    predictions = predictions[predictions["path"].isin(catalogue.table["path"])]
    crossed = protocol.endswith("-cv")
    judged = predictions[predictions["part"] == "test"] if crossed else predictions
    judged = _one_a_slice(judged)
    return LabelIssues(_ranked(judged, catalogue.table), run.name, protocol, len(judged), _note(crossed, len(judged)))


def _ranked(judged: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The rows that confident learning doubts, worst first by normalised margin."""
    truth, chances = truth_of(judged), probability_of(judged)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "May not flag all label issues", UserWarning)  # a class may be absent
        doubted = find_label_issues(truth, chances, return_indices_ranked_by="normalized_margin", n_jobs=1)
    quality = get_label_quality_scores(truth, chances, method="normalized_margin")
    found = judged.iloc[doubted]
    return pd.DataFrame(
        {
            "row": pd.Index(table["path"]).get_indexer(found["path"]),
            "path": found["path"].to_numpy(),
            "label": found["label"].to_numpy(),
            "suggested": np.array(CLASSES)[chances[doubted].argmax(axis=1)],
            "p_label": chances[doubted, truth[doubted]],
            "p_suggested": chances[doubted].max(axis=1),
            "quality": quality[doubted],
            "part": found["part"].to_numpy(),
        }
    )


def _one_a_slice(predictions: pd.DataFrame) -> pd.DataFrame:
    """A row a slice; where it was predicted more than once, the mean."""
    how = {"label": "first", "part": "first", **dict.fromkeys(PROBABILITIES, "mean")}
    return predictions.groupby("path", sort=False).agg(how).reset_index()


def _protocol(catalogue: Catalogue, run: Path) -> str:
    """The run's protocol, once it is clear that it was trained on this data."""
    if not (run / "predictions.csv").exists() or not (run / "environment.json").exists():
        raise DataNotFound(f"{run}: no finished run; give a folder that `tumorscope train` made.")
    return str(facts_of(run, catalogue)["protocol"])


def _note(crossed: bool, judged: int) -> str:
    if crossed:
        return (
            f"All {judged:,} slices were judged by a model that had not seen them, nor their picture or known patient."
        )
    return (
        f"{judged:,} slices, those of the validation and test parts, were judged; the rest was trained on. A slice with a twin "
        "in training is judged by the twin's label. A run under patient-cv gives a fuller and fairer list."
    )
