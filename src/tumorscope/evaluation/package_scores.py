"""A package on labelled data: what a hospital does first with slices of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from tumorscope.data.catalogue import Catalogue
from tumorscope.data.decode import decode
from tumorscope.data.sources import Source
from tumorscope.evaluation.intervals import bootstrap
from tumorscope.evaluation.regions import SIZES, dice, summary
from tumorscope.evaluation.scores import PROBABILITIES, score
from tumorscope.inference.classifier import Classifier
from tumorscope.labels import TUMOUR
from tumorscope.training.identity import environment


def score_package(
    package: Path | None, catalogue: Catalogue, progress: Callable[[int, int], None] = lambda *_: None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Findings of every slice of the catalogue, a row each with path, label, status and probabilities; and their scores.

    A catalogue may hold tumours of an unknown kind; then there are scores of presence alone.
    What the gate refuses has no probabilities; it is counted, by class, and left out of the scores, which say so. Presence at
    the answer given: a tumour is found where the answer is a tumour. Where the data have tumour masks and the package is of a
    region model, its regions are scored too, at the slices' own size.
    """
    classifier, source, table = Classifier.load(package), catalogue.source(), catalogue.table
    rows = []
    contents = (source.read(path) for path in table["path"])
    masked = classifier.package.card["map"] == "regions" and bool((table["mask"] != "").any())
    for number, one in enumerate(classifier.predict(contents, heat=masked)):
        chances = one.probabilities or dict.fromkeys(classifier.package.card["labels"], np.nan)
        rows.append(
            {
                **{"status": one.status, "answer": one.label, "reasons": "; ".join(one.reasons)},
                **{"set": " ".join(one.prediction_set)},
                **{f"p_{name}": value for name, value in chances.items()},
                **(_region(one.heat, source, table["mask"][number]) if masked else {}),
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
        "trained on this": classifier.package.card["data"]["digest"] == catalogue.digest,
        "status": found["status"].value_counts().to_dict(),
        "refused by class": refused.groupby(found["label"]).mean().to_dict(),
        **environment(),
    }
    if len(answered):
        result |= {"presence": presence(answered), "presence by plane": _by(answered, "plane")}
        result["presence by source"] = _by(answered, "source")
    if masked and len(answered):
        result |= {"regions": region_summary(answered), "presence by tumour size": _by_size(answered)}
    if len(answered) and (answered["label"] != TUMOUR).all():
        covered = [label in one.split() for label, one in zip(answered["label"], answered["set"], strict=True)]
        result |= {
            "scores": score(answered),
            "intervals": bootstrap(answered),
            "set coverage by class": pd.Series(covered).groupby(answered["label"].to_numpy()).mean().to_dict(),
        }
    return found, result


def _region(heat: np.ndarray | None, source: Source, mask: str) -> dict[str, float]:
    """Of one slice: its and its region's pixels; of a tumour with a known mask also the mask's, Dice and pointing."""
    if heat is None:
        return {}
    region = heat > 127
    found = {"pixels": float(heat.size), "region_pixels": float(region.sum())}
    inside = decode(source.read(mask)).grey > 127 if mask else np.zeros_like(region)
    if not inside.any():
        return found
    if inside.shape != heat.shape:
        grown = Image.fromarray(inside).resize(heat.shape[::-1], Image.Resampling.NEAREST)
        inside = np.asarray(grown)
    highest = heat == heat.max()
    return {
        **found,
        **{"mask_pixels": float(inside.sum()), "dice": float(dice(region[None], inside[None])[0])},
        "pointed": float(inside[highest].mean()),
    }


def region_summary(answered: pd.DataFrame) -> dict[str, Any]:
    """As `evaluation.regions.summary`, sizes being shares of each slice."""
    shares = answered.assign(mask_pixels=answered["mask_pixels"] / answered["pixels"])
    return summary(shares, 1)


def _by_size(answered: pd.DataFrame) -> dict[str, Any]:
    """AUC of tumours of each size and above against all tumour-free slices; sizes as shares of the slice."""
    share, free = answered["mask_pixels"] / answered["pixels"], answered["label"] == "notumor"
    found = {}
    for low in SIZES[:-1]:
        part = answered[free | (share > low)]
        found[f"above {low:.1%}"] = {name: presence(part)[name] for name in ("n", "tumours", "auc")}
    return found


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
