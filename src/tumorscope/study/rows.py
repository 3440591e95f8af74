"""The rows of the published student report as recipes, read from rows.toml."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from tumorscope.config import Recipe, load_recipe
from tumorscope.errors import RecipeError


@dataclass(frozen=True)
class Row:
    """One row: a shipped recipe with what is changed in it, how many seeds, and what the report says of it."""

    name: str
    title: str
    recipe: str
    set: dict[str, Any] = field(default_factory=dict)
    seeds: int = 5
    reported: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def build(self) -> Recipe:
        """The recipe, named after the row so that its runs have folders of their own."""
        return load_recipe(self.recipe, {**self.set, "name": self.name, "title": self.title})


def all_rows() -> list[Row]:
    """Every row in the report's order."""
    text = resources.files("tumorscope").joinpath("study/rows.toml").read_text(encoding="utf-8")
    return [Row(**row) for row in tomllib.loads(text)["row"]]


def chosen_rows(names: Sequence[str]) -> list[Row]:
    """The rows with these names, all where none is given; raises `RecipeError` for an unknown one."""
    rows = {row.name: row for row in all_rows()}
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise RecipeError(f"row {unknown[0]}: unknown; choose among {', '.join(rows)}")
    return [rows[name] for name in names] if names else list(rows.values())
