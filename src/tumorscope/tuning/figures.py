"""The figures of a search, by Optuna, in files of their own."""

import warnings
from pathlib import Path
from typing import Any

from tumorscope.evaluation.figures import DPI
from tumorscope.files import replacing

#: Name of the file to Optuna's function.
FIGURES = {
    "history": "plot_optimization_history",
    "importance": "plot_param_importances",
    "slices": "plot_slice",
    "parallel": "plot_parallel_coordinate",
}
#: Completed trials from which importances and slices mean something.
ENOUGH = 4


def write_figures(study: Any, folder: Path) -> list[str]:
    """Draw what the study has enough trials for; the names written."""
    import matplotlib
    import numpy as np
    from optuna import visualization
    from optuna.trial import TrialState

    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < ENOUGH:
        return []
    matplotlib.use("Agg")
    for name, function in FIGURES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna marks its matplotlib figures as experimental
            axes = getattr(visualization.matplotlib, function)(study)
        figure = np.ravel(axes)[0].get_figure()
        figure.set_size_inches(9, 5)
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("png", "svg"):  # not in our style, whose layout engine cannot place Optuna's axes
            with replacing(folder / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, dpi=DPI, bbox_inches="tight")
        matplotlib.pyplot.close(figure)
    return list(FIGURES)
