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

#: Study row -> {metric: value} on the official test; `validation_accuracy` is of the validation part. What focal loss changed is
#: given for glioma and meningioma.
ROWS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "baseline": {
            **SCORES["baseline_cnn", "test"],
            "validation_accuracy": SCORES["baseline_cnn", "validation"]["accuracy"],
        },
        "cross_entropy": {
            **{"accuracy": 0.8566, "accuracy_sd": 0.0037},
            **{"precision_glioma": 0.80, "f1_glioma": 0.81, "recall_meningioma": 0.69},
        },
        "focal": {
            **{"accuracy": 0.8741, "accuracy_sd": 0.0023},
            **{"precision_glioma": 0.84, "f1_glioma": 0.83, "recall_meningioma": 0.80},
        },
        "best": SCORES["improved_cnn", "test"],
        "vgg16_32": {"accuracy": 0.71, "accuracy_sd": 0.01},
        "vgg16_64": {"accuracy": 0.72, "accuracy_sd": 0.02},
        "vgg16_96": {"accuracy": 0.69},
        "vgg16_32_best": {"accuracy": 0.7628, "accuracy_sd": 0.0082},
        # 378 of 405 notumor slices right, 192 of 306 meningioma.
        "vgg16_128": {"accuracy": 0.8154, "recall_notumor": 378 / 405, "recall_meningioma": 192 / 306},
        "vgg16_128_energy": {"accuracy": 0.7796},
    }
)

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
