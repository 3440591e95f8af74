"""Run folders written by hand, without training: recipe, environment and predictions."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from tumorscope.config import load_recipe
from tumorscope.labels import CLASSES


def made_run(
    folder: Path,
    recipe: str,
    protocol: str,
    tested: pd.DataFrame,
    *,
    right: int | None = None,
    seed: int = 0,
    **facts: Any,
) -> Path:
    """A run of the shipped `recipe` that names the first `right` slices of `tested` as they are and others as the next class.

    tested : path, label and source of the test slices, which are the validation slices too
    facts : what else environment.json says, or says instead
    """
    run = folder / f"{recipe}-{protocol}-{'-'.join(tested['source'].unique()) or 'own'}-s{seed}"
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text(load_recipe(recipe).toml())
    usual = {"recipe": load_recipe(recipe).model_dump(mode="json"), "protocol": protocol, "seed": seed, "leak": []}
    usual["data"] = {"name": "set", "digest": "0"}
    (run / "environment.json").write_text(json.dumps(usual | facts))
    said = [
        label if place < (len(tested) if right is None else right) else CLASSES[(CLASSES.index(label) + 1) % 4]
        for place, label in enumerate(tested["label"])
    ]
    answers = {f"p_{name}": [0.7 if one == name else 0.1 for one in said] for name in CLASSES}
    rows = tested[["path", "label", "source"]].reset_index(drop=True)
    rows = rows.assign(**answers, plane="", patient="", picture=rows["path"], fold=0)
    pd.concat([rows.assign(part=part) for part in ("validation", "test")]).to_csv(run / "predictions.csv", index=False)
    return run
