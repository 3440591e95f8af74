"""From predictions to scores.json: every score with its interval, its counts and the memoriser's beside it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumorscope.errors import DataNotFound, RunMismatch
from tumorscope.evaluation.intervals import bootstrap, bootstrap_over_seeds, paired_difference
from tumorscope.evaluation.regions import at_least
from tumorscope.evaluation.report import PARTS, Interval, Row, comparison_row, under
from tumorscope.evaluation.scores import PROBABILITIES, flat, score, summarise
from tumorscope.files import write_json
from tumorscope.protocols import ALL, PROTOCOLS
from tumorscope.training.identity import spelled_out
from tumorscope.training.runs import read_predictions, shapes_of


def evaluate_run(run: Path) -> dict[str, Any]:
    """Scores of a run folder by part ("validation", "test"), made from its predictions alone and written to scores.json.

    Raises `DataNotFound` where the folder holds none.
    """
    if why := why_unscored(run):
        raise DataNotFound(f"{run}: {why}")
    predictions = read_predictions(run)
    facts = _facts(run)
    facts["test_set"] = tested_on(run, predictions)
    scores = {**facts, **{part: _part(predictions[predictions["part"] == part]) for part in PARTS}}
    scores["presence_at_threshold"] = presence_at_threshold(predictions)
    floor = memoriser_of(run)
    if floor is not None:
        scores["memoriser"] = {part: flat(score(floor[floor["part"] == part])) for part in PARTS}
    write_json(run / "scores.json", scores)
    return scores


def why_unscored(run: Path) -> str:
    """Why a path holds no scores of a model; "" where it does."""
    if not run.is_dir():
        what = "no folder of a run" if run.exists() else "no such folder"
        return f"{what}. Give that of a run, or --package with --data to score a package."
    if not (run / "predictions.csv").exists():
        return "no predictions.csv; give the folder of a finished run, or finish it with --resume."
    if not (run / "environment.json").exists():
        return "no environment.json; this is no model's run. The memoriser's scores stand beside those of each run."
    if _facts(run)["protocol"] == ALL:
        return "trained on every picture, scored on none. Give a run of the same recipe under another protocol."
    return ""


def memoriser_of(run: Path) -> pd.DataFrame | None:
    """The memoriser's predictions under the run's protocol and seed, where they lie beside it and are of the same test slices."""
    facts = _facts(run)
    folder = run.parent / f"memoriser{run.name.removeprefix(facts['recipe'])}"
    if not (folder / "predictions.csv").exists():
        return None
    floor = read_predictions(folder)
    ours, theirs = (
        one.loc[one["part"] == "test", ["path", "label"]].sort_values("path").to_numpy().tolist()
        for one in (read_predictions(run), floor)
    )
    return floor if ours == theirs else None


def presence_at_threshold(predictions: pd.DataFrame) -> dict[str, Any]:
    """Tumour or none at each fold's threshold on 1 - p_notumor, which is best on its validation part: sensitivity and
    specificity of the test parts together, their 95 % intervals, and the mean threshold; None where a part lacks one of the two.

    Folds are other networks, and validation slices of one are test slices of another: so each has its own threshold.
    The intervals resample test patients; thresholds stay as chosen.
    """
    thresholds, called = _called(predictions)
    tumour = called["label"] != "notumor"
    said = called["p_notumor"] == 0
    return {
        "threshold": float(np.mean(thresholds)) if thresholds else None,
        "sensitivity": float(said[tumour].mean()) if tumour.any() else None,
        "specificity": float((~said)[~tumour].mean()) if (~tumour).any() else None,
        "intervals": _presence_intervals(called),
    }


def pooled_threshold_intervals(runs: Sequence[Path]) -> dict[str, Interval]:
    """Those of `presence_at_threshold` around the mean over seeds: patients are resampled with all their predictions."""
    return _presence_intervals(pd.concat([_called(read_predictions(run))[1] for run in runs], ignore_index=True))


def presence_by_size(tested: Sequence[pd.DataFrame], regions: Sequence[pd.DataFrame], pixels: int) -> dict[str, Any]:
    """Tumour or none for the tumours of a test set above each size, as `regions.at_least` has them.

    {size: tumours, auc, auc_sd, auc_low, auc_high}: mean and deviation over seeds, and the ends of the 95 % interval by patient.
    tested, regions : predictions and regions of the same test slices, a table a seed; pixels : of a slice, s * s
    """
    seeds = [
        at_least(one, one["path"].map(region.set_index("path")["mask_pixels"]) / pixels)
        for one, region in zip(tested, regions, strict=True)
    ]
    found = {}
    for size in seeds[0]:
        parts = [one[size] for one in seeds]
        auc = summarise([score(part) for part in parts])["presence_auc"]
        ends = bootstrap_over_seeds(parts, ["presence_auc"])["presence_auc"]
        tumours = int((parts[0]["label"] != "notumor").sum())
        low_and_high = dict(zip(("auc_low", "auc_high"), ends, strict=True))
        found[size] = {"tumours": tumours, "auc": auc["mean"], "auc_sd": auc["sd"], **low_and_high}
    return found


def _called(predictions: pd.DataFrame) -> tuple[list[float], pd.DataFrame]:
    """Thresholds by fold, and the test slices with what they were called at them as probabilities of 0 and 1; none of
    either where a validation part lacks tumours or tumour-free slices.
    """
    chance, tumour = 1 - predictions["p_notumor"], predictions["label"] != "notumor"
    held, tested = predictions["part"] == "validation", predictions["part"] == "test"
    thresholds, said = [], pd.Series(False, index=predictions.index)
    for _, rows in predictions.groupby("fold").groups.items():
        mine = predictions.index.isin(rows)
        if tumour[held & mine].nunique() < 2:
            return [], predictions.iloc[:0]
        thresholds.append(_best_threshold(chance[held & mine & tumour], chance[held & mine & ~tumour]))
        said[mine] = chance[mine] > thresholds[-1]
    # Which tumour is not asked, so that any kind will do.
    calls = dict.fromkeys(PROBABILITIES, 0.0) | {"p_glioma": said * 1.0, "p_notumor": ~said * 1.0}
    return thresholds, predictions.assign(**calls)[tested]


def _presence_intervals(called: pd.DataFrame) -> dict[str, Interval]:
    names = ("sensitivity", "specificity")
    if called.empty:
        return dict.fromkeys(names, (np.nan, np.nan))
    found = bootstrap(called, metrics=[f"presence_{name}" for name in names])
    return {name: found[f"presence_{name}"] for name in names}


def _best_threshold(ill: pd.Series, well: pd.Series) -> float:
    """The threshold with the largest mean of sensitivity and specificity; the middle of the gap where several have it."""
    values = np.unique(np.concatenate([ill, well]))
    edges = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [1.0]])
    found = 1 - np.searchsorted(np.sort(ill), edges, side="right") / len(ill)
    spared = np.searchsorted(np.sort(well), edges, side="right") / len(well)
    best = np.flatnonzero(found + spared >= (found + spared).max() - 1e-12)
    return float(edges[best[len(best) // 2]])


def tested_on(run: Path, predictions: pd.DataFrame) -> str | None:
    """Name of the other set that a run under external was tested on; None elsewhere, where the test is part of the data."""
    if _facts(run)["protocol"] != "external":
        return None
    return " and ".join(sorted(predictions.loc[predictions["part"] == "test", "source"].unique()))


def _part(predictions: pd.DataFrame) -> dict[str, Any]:
    return {**score(predictions), "intervals": bootstrap(predictions)}


def _facts(run: Path) -> dict[str, Any]:
    environment = json.loads((run / "environment.json").read_text())
    facts = {name: environment[name] for name in ("protocol", "seed", "leak")}
    return {"recipe": environment["recipe"]["name"], **facts}


#: Recipe, protocol, and under external the name of the set that was tested on: runs that have all three in common are seeds.
Key = tuple[str, str, str | None]
#: Scores of runs by `Key`, each a list over seeds with its folder under "run": what `by_model` makes, once a command.
Scored = Mapping[Key, Sequence[dict[str, Any]]]


def by_model(runs: Sequence[Path]) -> dict[Key, list[dict[str, Any]]]:
    """Every run scored, as `Scored`.

    Recipes come in the order of the runs, the protocols of each from the kindest to the strictest. Where runs are of several
    external sets of one name, the start of the run's data digest stands behind it.

    Raises `RunMismatch` where runs of one key are no seeds of one model: of other recipes, data or networks (of one recipe from
    before and after a change), masks or other files that they name, or of the same seed.
    """
    scored = [{**evaluate_run(run), "run": run} for run in runs]
    digests: dict[tuple[str | None, ...], set[str]] = {}
    for one in scored:
        data, tested = _digests(one["run"])
        digests.setdefault(_key(one), set()).add(data)
        # Of another recipe's data some may be other, and the test set the same.
        digests.setdefault((one["test_set"],), set()).update(tested)
    # Files are often of one name, as Kaggle's downloads are.
    several = {key[-1] for key, found in digests.items() if len(found) > 1} - {None}
    grouped: dict[Key, list[dict[str, Any]]] = {}
    for one in scored:
        if one["test_set"] in several:
            one["test_set"] += f" ({_digests(one['run'])[0][:8]})"
        grouped.setdefault(_key(one), []).append(one)
    for seeds in grouped.values():
        _need_one_model(seeds)
    recipes, protocols = list(dict.fromkeys(recipe for recipe, *_ in grouped)), list(PROTOCOLS)
    order = sorted(grouped, key=lambda key: (recipes.index(key[0]), protocols.index(key[1])))
    return {key: grouped[key] for key in order}


def _need_one_model(seeds: Sequence[dict[str, Any]]) -> None:
    """Raise `RunMismatch` where runs that would be averaged are more than seeds of one model apart."""
    told: list[tuple[Path, int, dict[str, Any]]] = []
    for run, seed in ((one["run"], one["seed"]) for one in seeds if len(seeds) > 1):
        facts = _shared_by_seeds(run)
        for other, taken, known in told:
            unlike = [_unlike(name, known[name], facts[name]) for name in facts if known[name] and facts[name]]
            if any(unlike) or seed == taken:
                why = "; ".join(filter(None, unlike)) or f"both are of seed {seed}"
                raise RunMismatch(
                    f"{other} and {run} would count as seeds of one model: {why}. Leave one out, or train one anew: with "
                    "--overwrite, or under another --name where it is to be another model."
                )
        told.append((run, seed, facts))


def _shared_by_seeds(run: Path) -> dict[str, Any]:
    """What is known of a run that its seeds have in common; empty values are not known."""
    stored = json.loads((run / "environment.json").read_text())
    recipe = spelled_out(stored["recipe"] | {"title": ""}, "")  # a title decides nothing
    files = {name: stored.get(name, "") for name in ("masks", "weights", "finder")}
    return {"data": stored["data"]["digest"], "recipe": recipe, "network": shapes_of(run), **files}


def _unlike(name: str, one: Any, other: Any) -> str:
    """In which of `_shared_by_seeds` two runs differ, in words; "" where they do not."""
    if one == other:
        return ""
    if name == "network":
        counts = [f"{sum(map(math.prod, shapes.values())):,}" for shapes in (one, other)]
        return f"networks of {' and '.join(counts)} stored values"
    if name == "recipe":
        return f"recipes with another {' and '.join(key for key in {**one, **other} if one.get(key) != other.get(key))}"
    return f"{name} {one} and {other}"


def _key(scores: dict[str, Any]) -> Key:
    return scores["recipe"], scores["protocol"], scores["test_set"]


def _digests(run: Path) -> tuple[str, list[str]]:
    """That of all the data of a run, the other set's too; and that of the set alone that it was tested on, where it says so."""
    environment = json.loads((run / "environment.json").read_text())
    # The main set stands first, and further ones of the recipe last.
    tested = environment.get("sets", [])[1:2] if environment["protocol"] == "external" else []
    return environment["data"]["digest"], [one["digest"] for one in tested]


def comparison_rows(scored: Scored, reported: bool = False) -> list[Row]:
    """A row for each `Key` and part: mean and deviation over seeds, interval over patients of all seeds, memoriser.

    reported : put the student report's figures beside ours; only where the runs are on its data
    """
    rows = []
    for (recipe, protocol, test_set), several in scored.items():
        for part in PARTS:
            floors = [one["memoriser"][part]["accuracy"] for one in several if "memoriser" in one]
            row = comparison_row(
                recipe,
                protocol,
                part,
                [one[part] for one in several],
                pooled_intervals(several, part),
                sum(floors) / len(floors) if floors else None,
                None if reported else {},
                test_set,
            )
            rows.append(row)
    return rows


def pooled_intervals(several: Sequence[dict[str, Any]], part: str) -> dict[str, Interval]:
    """95 % intervals around the mean over seeds: patients (else pictures) are resampled with all their predictions."""
    if len(several) == 1:
        found: dict[str, Interval] = several[0][part]["intervals"]
        return found
    tables = [read_predictions(one["run"]) for one in several]
    return bootstrap_over_seeds([table[table["part"] == part] for table in tables])


def differences(scored: Scored) -> list[Row]:
    """Test accuracy of every model less that of every later one and of the memoriser, under one protocol and on one test set.

    A row a pair: protocol, test_set, one, other, and `intervals.paired_difference` over all seeds (patients are resampled).
    """
    tables: dict[tuple[str, str | None], dict[str, pd.DataFrame]] = {}
    for (recipe, protocol, test_set), several in scored.items():
        known_as = tables.setdefault((protocol, test_set), {})
        known_as[recipe] = pooled_test([read_predictions(one["run"]) for one in several])
        floors = [memoriser_of(one["run"]) for one in several]
        known = [floor for floor in floors if floor is not None]
        if known and "memoriser" not in known_as:
            known_as["memoriser"] = pooled_test(known)
    rows = []
    for (protocol, test_set), known_as in tables.items():
        names = sorted(known_as, key=lambda name: name == "memoriser")
        rows += [
            {
                **{"protocol": protocol, "test_set": test_set, "one": one, "other": other},
                **paired_difference(known_as[one], known_as[other]),
            }
            for place, one in enumerate(names)
            for other in names[place + 1 :]
        ]
    return rows


def pooled_test(predictions: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The test slices of several runs in one table."""
    pooled = pd.concat(predictions, ignore_index=True)
    return pooled[pooled["part"] == "test"]


def leak_notes(scored: Scored) -> list[str]:
    """A sentence for each protocol and test set whose test slices, of all folds together, are in training again."""
    notes = {}
    for (_, protocol, test_set), several in scored.items():
        if not several[0]["leak"]:
            continue
        leak = {kind: sum(fold[kind] for fold in several[0]["leak"]) for kind in several[0]["leak"][0]}
        if leak["none"] == leak["test"]:
            continue
        kinds = ("bytes", "pixels", "picture", "patient")
        again = ", ".join(f"{leak[kind]} by {kind}" for kind in kinds if kind in leak)
        notes[protocol, test_set] = (
            f"Leak in {under(protocol, test_set)}: of {leak['test']} test slices, training and validation hold again: {again}. "
            f"{leak['none']} are new to them."
        )
    return list(notes.values())
