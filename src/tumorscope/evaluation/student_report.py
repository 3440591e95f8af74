"""The figures of the published student report, for comparison. Plain data: what it states, nothing of ours.

Precision, recall and F1 are weighted by class support; AUC is one-vs-rest. Keys are the flat names of `scores.flat`.
"""

from collections.abc import Mapping
from types import MappingProxyType

_TEST_AUC = {
    "baseline_cnn": {"auc_glioma": 0.95, "auc_meningioma": 0.83, "auc_notumor": 0.96, "auc_pituitary": 0.97},
    "improved_cnn": {"auc_glioma": 0.98, "auc_meningioma": 0.96, "auc_notumor": 0.99, "auc_pituitary": 0.99},
}

#: (model, part) -> {metric: value}; `accuracy_sd` is the report's own spread over repeated runs.
SCORES: Mapping[tuple[str, str], Mapping[str, float]] = MappingProxyType(
    {
        ("baseline_cnn", "validation"): {
            "accuracy": 0.8110,
            "precision_weighted": 0.8098,
            "recall_weighted": 0.8110,
            "f1_weighted": 0.8077,
        },
        ("baseline_cnn", "test"): {
            "accuracy": 0.7529,
            "precision_weighted": 0.7463,
            "recall_weighted": 0.7529,
            "f1_weighted": 0.7430,
            **_TEST_AUC["baseline_cnn"],
        },
        ("improved_cnn", "test"): {
            "accuracy": 0.8871,
            "accuracy_sd": 0.0053,
            "precision_weighted": 0.8859,
            "recall_weighted": 0.8871,
            "f1_weighted": 0.8860,
            **_TEST_AUC["improved_cnn"],
        },
    }
)

#: What focal loss changed in the report: test accuracy as (mean, standard deviation).
FOCAL_LOSS = MappingProxyType({"without": (0.8566, 0.0037), "with": (0.8741, 0.0023)})

#: The two accuracies drawn as reference lines: label -> test accuracy.
REFERENCE_LINES = MappingProxyType(
    {
        "student report, baseline": SCORES["baseline_cnn", "test"]["accuracy"],
        "student report, improved": SCORES["improved_cnn", "test"]["accuracy"],
    }
)

#: The protocol all of these figures belong to.
PROTOCOL = "official"


def reported(model: str, part: str, protocol: str = PROTOCOL) -> Mapping[str, float]:
    """The report's figures for a model and part; empty where it gives none, as for every protocol but `official`."""
    return SCORES.get((model, part), {}) if protocol == PROTOCOL else {}
