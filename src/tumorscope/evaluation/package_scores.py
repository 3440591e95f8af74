"""A package on labelled data: what a hospital does first with slices of its own."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from tumorscope.data import known
from tumorscope.data.cards import CARDS
from tumorscope.data.catalogue import digest_of, nothing_found
from tumorscope.data.decode import decode_mask
from tumorscope.data.layout import Layout, Planned, plan, starts_as_dicom
from tumorscope.data.masks import need_proportions, tumour_of
from tumorscope.data.sources import Source, check, open_source, readable
from tumorscope.errors import InputRejected
from tumorscope.evaluation.intervals import bootstrap
from tumorscope.evaluation.regions import at_least, dice, pointed, summary
from tumorscope.evaluation.scores import PROBABILITIES, score, set_coverage
from tumorscope.inference.batch import counted
from tumorscope.inference.classifier import Classifier, Finding
from tumorscope.inference.reading import MAX_BYTES
from tumorscope.inference.reading.dicom import position
from tumorscope.inference.record import belongs, joined
from tumorscope.labels import TUMOUR
from tumorscope.training.identity import environment

#: What is known of each slice's region, NaN where it is not.
REGION = ("pixels", "region_pixels", "mask_pixels", "dice", "pointed")


def score_package(
    package: Path | None,
    data: Path,
    classes: dict[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Findings of every slice in the class folders of `data`, a row each with path, label, status and probabilities; scores.

    data : a folder or zip archive of images, DICOM, NIfTI or figshare's MATLAB files, laid out as `data.layout` says; a folder's
    class is that of every slice of its files. Tumours may be of an unknown kind: they have scores of presence alone, and are
    counted in "of unknown kind" beside scores of the others, where a tumour is of a known one
    classes : folder name to class name; progress : called with (files done, files in all)

    What the gate refuses and what cannot be read has no probabilities; it is counted, by class, and left out of the scores.
    Presence at the answer given: a tumour is found where the answer is a tumour. Slices of one volume or series count as one
    patient where none is named. Where the data have tumour masks and the package is of a region model, its regions are
    scored too, at the slices' own size, on images and single frames; a mask that cannot be read is named in the notices.

    "in training" counts slices whose files are in the package's training set, by sha256, and is None where the package does not
    say; in the table `in_training` says which. Where both kinds were answered, "not in training" has the scores of the others.

    DICOM objects without pixels are left out and counted by kind in the notices.

    Raises `DataNotFound` where no file lies in a class folder, or none but objects without pixels.
    """
    classifier, source = Classifier.load(package), open_source(data)
    planned, notices = plan(source, Layout.of(classes, kinds=False), medical=True)
    if not planned:
        raise nothing_found(source, [], notices)
    masked = classifier.package.card["map"] == "regions" and any(item.mask for item in planned)
    found, damaged = _answers(classifier, source, planned, masked, progress)
    if found.empty:
        raise nothing_found(source, [], (*notices, *damaged))
    read = found[found["status"] != "error"].drop_duplicates("file")
    digest = digest_of(read["sha256"], read["rules"])
    seen = _in_training(found, classifier.package.card["data"], digest)
    found = found.assign(patient=found["patient"].where(found["patient"] != "", found["together"]), in_training=seen)
    found = found.drop(columns=["file", "patient_group", "fold", "together", "sha256", "rules"])
    data_facts = {"name": readable(source.path.stem), "digest": digest, "slices": len(found)}
    return found, {
        "package": classifier.package.card["name"],
        "data": {**data_facts, "notices": (*notices, *damaged)},
        **_counts(found, seen),
        **environment(),
        **_all_scores(found, seen),
    }


def _answers(
    classifier: Classifier,
    source: Source,
    planned: list[Planned],
    masked: bool,
    progress: Callable[[int, int], None],
) -> tuple[pd.DataFrame, list[str]]:
    """A row for each finding with what is known of its slice, and notices: masks that could not be used, files left out."""
    damaged: list[str] = []
    left: Counter[str] = Counter()
    rows = [
        _row(item, sha256, one, classifier.package.card["labels"])
        | (_region(one, source, item.mask if one.path == item.path else "", damaged) if masked else {})
        for item, sha256, one in _findings(classifier, source, planned, masked, progress, left)
    ]
    if left:
        damaged.append(f"Left out, of kinds that are not read: {counted(left.elements())}.")
    if not rows:
        return pd.DataFrame(), damaged
    volumes = {row["file"] for row in rows if row["path"] != readable(row["file"])}
    damaged += [
        f"{readable(item.mask)}: this mask was not used. Masks are read for images and single frames; give slices."
        for item in planned
        if masked and item.mask and item.path in volumes
    ]
    return known.fill(pd.DataFrame(rows)), damaged


def _row(item: Planned, sha256: str, one: Finding, labels: list[str]) -> dict[str, Any]:
    """What is known of a slice and what the package says of it."""
    return {
        **{"path": readable(one.path), "label": item.label, "source": item.source, "plane": item.plane or one.plane},
        **{"patient": item.patient, "patient_group": item.patient_group, "fold": item.fold, "picture": ""},
        **{"file": item.path, "together": _together(one), "sha256": sha256, "rules": one.rules},
        **{"status": one.status, "answer": one.label},
        **{"reasons": joined(one.reasons), "set": " ".join(one.prediction_set)},
        **{f"p_{name}": (one.probabilities or {}).get(name, np.nan) for name in labels},
    }


def _counts(found: pd.DataFrame, seen: "pd.Series[bool] | None") -> dict[str, Any]:
    """How many slices were answered, refused and not read, and how many are `seen` in training."""
    read = found["status"] != "error"
    counted = None if seen is None else {"n": int(seen[read].sum()), "of": int(read.sum())}
    refused = found["status"].isin(["refused", "error"])
    return {
        "trained on this": counted is not None and 0 < counted["n"] == counted["of"],
        "in training": counted,
        "status": found["status"].value_counts().to_dict(),
        "refused by class": refused.groupby(found["label"]).mean().to_dict(),
    }


def _all_scores(found: pd.DataFrame, seen: "pd.Series[bool] | None") -> dict[str, Any]:
    """Scores of what was answered; where only some of it is `seen` in training, those of the others beside them."""
    answered = found[found[PROBABILITIES[0]].notna()]
    scores = _scored(answered)
    if seen is not None and 0 < seen[answered.index].sum() < len(answered):
        scores["not in training"] = _scored(answered[~seen[answered.index]])
    return scores


def _in_training(found: pd.DataFrame, data: dict[str, Any], digest: str) -> "pd.Series[bool] | None":
    """Which slices are of files that the package was trained on; None where it does not say. data : what its card says of them"""
    if data["digest"] == digest:
        return found["status"] != "error"
    listed = data.get("sha256")
    if isinstance(listed, str):
        return found["sha256"].str[: known.DIGITS].isin(listed.split())
    # Packages from before files were listed; every file of this set is known, mirrored copies too.
    kaggle = data["digest"] == CARDS["nickparvar"].digest
    return found["sha256"].str[: known.DIGITS].isin(known.known().index) if kaggle else None


def _scored(answered: pd.DataFrame) -> dict[str, Any]:
    """Scores of answered slices: presence, regions where there are masks, kinds where they are known."""
    if not len(answered):
        return {}
    result: dict[str, Any] = {"presence": presence(answered), "presence by plane": _by(answered, "plane")}
    result["presence by source"] = _by(answered, "source")
    if "dice" in answered and answered["dice"].notna().any():
        result |= {"regions": region_summary(answered), "presence by tumour size": _by_size(answered)}
    named = answered[answered["label"] != TUMOUR]
    # Of tumour-free slices alone, beside tumours of unknown kinds, nothing is to be said of kinds.
    if len(named) == len(answered) or (named["label"] != "notumor").any():
        pairs = zip(named["label"], named["set"], strict=True)
        inside = np.array([label in one.split() for label, one in pairs])
        result |= {
            "scores": score(named),
            "intervals": bootstrap(named),
            "set coverage": set_coverage(inside, named["label"], named["source"]),
            "of unknown kind": len(answered) - len(named),
        }
    return result


def _findings(
    classifier: Classifier,
    source: Source,
    planned: list[Planned],
    heat: bool,
    progress: Callable[[int, int], None],
    left: Counter[str],
) -> Iterator[tuple[Planned, str, Finding]]:
    """Each file's findings with the file and its sha256; of files that cannot be read too. left : gets kinds without pixels"""
    names: list[str] = []
    read: list[tuple[Planned, str]] = []
    unread: list[tuple[Planned, str, Finding]] = []

    def contents() -> Iterator[bytes]:
        for number, item in enumerate(planned):
            progress(number, len(planned))
            try:
                # An image is held to be a slice; in a volume the reader sets its own limits, as it does for `predict`.
                if item.image:
                    check(item.member)
                    content = source.read(item.path)
                else:
                    check(item.member, MAX_BYTES, math.inf)
                    content = source.read(item.path, MAX_BYTES)
            except InputRejected as error:
                unread.append((item, "", Finding(item.path, "error", reasons=(str(error),))))
                continue
            if kind := position(content).kind if starts_as_dicom(content) else "":
                left[kind] += 1
                continue
            names.append(item.path)
            read.append((item, hashlib.sha256(content).hexdigest()))
            yield content
        progress(len(planned), len(planned))

    place = 0
    for one in classifier.predict(contents(), names=names, heat=heat):
        while not belongs(one.path, names[place]):
            place += 1
        yield *read[place], one
    yield from unread


def _together(one: Finding) -> str:
    """The series or volume that a slice is of, "" for a slice of its own."""
    if one.series:
        return f"series {one.series.partition('-')[0]}"  # its stacks show the same head
    volume, hash_sign, number = one.path.rpartition("#")
    return readable(volume) if hash_sign and number.isdecimal() else ""


def _region(one: Finding, source: Source, mask: str, damaged: list[str]) -> dict[str, float]:
    """`REGION` of one slice: its and its region's pixels; of a tumour mask its pixels, Dice, and `regions.pointed`.

    mask : name of the mask, "" where there is none; one that cannot be read is added to `damaged` with the reason
    """
    found = dict.fromkeys(REGION, np.nan)
    if one.heat is None or one.highest is None:
        return found
    region = one.heat > 127
    found |= {"pixels": float(region.size), "region_pixels": float(region.sum())}
    inside = _inside(source, mask, damaged)
    if inside is None or not inside.any():
        return found
    try:
        need_proportions(mask, inside.shape, one.stored.shape if one.stored else region.shape)
    except InputRejected as error:
        damaged.append(_unused(mask, error))
        return found
    if one.stored:  # a mask lies as the slice's pixels are stored
        inside = one.stored.shown(inside)
    if inside.shape != region.shape:
        grown = Image.fromarray(inside).resize(region.shape[::-1], Image.Resampling.NEAREST)
        inside = np.asarray(grown)
    return {
        **found,
        **{"mask_pixels": float(inside.sum()), "dice": float(dice(region[None], inside[None])[0])},
        "pointed": float(pointed(one.highest[None], inside[None])[0]),
    }


def _inside(source: Source, mask: str, damaged: list[str]) -> np.ndarray | None:
    """Where a slice's mask shows a tumour, bool (h, w); None where there is none, or a damaged one, which is told of."""
    if not mask:
        return None
    try:
        return tumour_of(decode_mask(source.read(mask)))
    except InputRejected as error:
        damaged.append(_unused(mask, error))
        return None


def _unused(mask: str, error: InputRejected) -> str:
    return f"{readable(mask)}: this mask was not used. {readable(str(error))}"


def region_summary(answered: pd.DataFrame) -> dict[str, Any]:
    """As `evaluation.regions.summary`, sizes being shares of each slice."""
    shares = answered.assign(mask_pixels=answered["mask_pixels"] / answered["pixels"])
    return summary(shares, 1)


def _by_size(answered: pd.DataFrame) -> dict[str, Any]:
    """AUC with interval of tumours of each size and above against all tumour-free slices; sizes as shares of the slice."""
    found = {}
    for size, part in at_least(answered, answered["mask_pixels"] / answered["pixels"]).items():
        scored = presence(part)
        told = {name: scored[name] for name in ("n", "tumours", "auc")}
        found[size] = told | {"intervals": {"auc": scored["intervals"]["auc"]}}
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
