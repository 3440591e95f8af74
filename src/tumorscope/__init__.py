"""tumorscope: brain-tumour MRI classification whose numbers hold up on a new patient. For research and teaching."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tumorscope.api import read_run, scores, train
    from tumorscope.config import load_recipe
    from tumorscope.data.cache import pixels
    from tumorscope.data.catalogue import load_catalogue
    from tumorscope.estimator import SliceClassifier
    from tumorscope.inference.classifier import Classifier
    from tumorscope.protocols import folds

#: Public name to its home, imported on first use, so that `import tumorscope` costs nothing.
_HOMES = {
    "load_catalogue": "tumorscope.data.catalogue",
    "pixels": "tumorscope.data.cache",
    "load_recipe": "tumorscope.config",
    "folds": "tumorscope.protocols",
    "train": "tumorscope.api",
    "read_run": "tumorscope.api",
    "scores": "tumorscope.api",
    "SliceClassifier": "tumorscope.estimator",
    "Classifier": "tumorscope.inference.classifier",
}
__all__ = [
    "Classifier",
    "SliceClassifier",
    "folds",
    "load_catalogue",
    "load_recipe",
    "pixels",
    "read_run",
    "scores",
    "train",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tumorscope' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
