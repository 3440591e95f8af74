"""The rows of the published student report as recipes, read from rows.toml, with what the report says of them."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from tumorscope.config import Recipe, load_recipe
from tumorscope.errors import RecipeError
from tumorscope.evaluation.student_report import ROWS


@dataclass(frozen=True)
class Row:
    """One row: a shipped recipe with what is changed in it, how many seeds, and the report's figures on the official test.

    said : what the report says of it in words; note : what it leaves open, and what ours is
    group : "report", or the further question that it belongs to
    """

    name: str
    title: str
    recipe: str
    set: dict[str, Any] = field(default_factory=dict)
    seeds: int = 5
    reported: Mapping[str, float] = field(default_factory=dict)
    said: str = ""
    note: str = ""
    group: str = "report"

    def build(self) -> Recipe:
        """The recipe, named after the row so that its runs have folders of their own."""
        return load_recipe(self.recipe, {**self.set, "name": self.name, "title": self.title})


def all_rows() -> list[Row]:
    """Every row in the report's order."""
    text = resources.files("tumorscope").joinpath("study/rows.toml").read_text(encoding="utf-8")
    return [Row(**row, reported=ROWS.get(row["name"], {})) for row in tomllib.loads(text)["row"]]


def chosen_rows(names: Sequence[str]) -> list[Row]:
    """The rows with these names or of these groups, the report's where none is given; raises `RecipeError` for an unknown one."""
    rows = all_rows()
    for name in names:
        if not any(name in (row.name, row.group) for row in rows):
            known = dict.fromkeys([*(row.group for row in rows), *(row.name for row in rows)])
            raise RecipeError(f"row {name}: unknown; choose among {', '.join(known)}")
    return [row for row in rows if {row.name, row.group} & set(names or ["report"])]
