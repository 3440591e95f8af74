"""The main job: both networks of the student report, scored beside the memoriser, and the report of it all."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tumorscope.api import train
from tumorscope.data.catalogue import Catalogue
from tumorscope.evaluation.assemble import is_report_data, report_of
from tumorscope.evaluation.evaluate import by_model
from tumorscope.evaluation.report import write_report
from tumorscope.study.epochs import epoch_curve
from tumorscope.training.fold import Report

PHANTOM_NOTICE = "These slices are drawn, not patients: the scores say that the tool works, and nothing of real slices."


def run_main_job(
    catalogue: Catalogue, plan: Mapping[str, Sequence[int]], runs: Path, out: Path, report: Report
) -> Path:
    """Train the recipes of `plan` with their seeds, going on where an earlier call stopped, and write the report.

    The protocol is `official` where the set has a published split, else `picture-cv`.
    """
    protocol = "official" if (catalogue.table["split"] == "test").any() else "picture-cv"
    folders = [
        folder
        for recipe, seeds in plan.items()
        for folder in train(recipe, catalogue, protocol, seeds, runs=runs, resume=True, report=report)
    ]
    notices = [PHANTOM_NOTICE] if catalogue.name == "phantom" else []
    epochs: pd.DataFrame | None = None
    if is_report_data(catalogue):
        epochs = epoch_curve(catalogue, plan["baseline_cnn"], runs / "epochs.csv")
    return write_report(out, report_of(by_model(folders), catalogue, epochs=epochs, notices=notices))
