"""Search spaces: which fields of a recipe may change, and how far. Data beside the recipes, in recipes/spaces/."""

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tumorscope.config import Recipe, load_recipe
from tumorscope.errors import RecipeError


class Range(BaseModel):
    """Values of one field: from `low` to `high`, on a logarithmic scale or in steps where asked for; or `choices`.

    Whole numbers at both ends give whole numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None
    choices: tuple[Any, ...] = ()

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        ends = self.low is not None and self.high is not None
        if ends == bool(self.choices) or (self.low is None) != (self.high is None):
            raise ValueError("give low and high, or choices")
        if ends and not (self.low or 0) < (self.high or 0):
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and (self.step is not None or not (self.low or 0) > 0):
            raise ValueError("log needs low above 0 and no step")
        return self

    def suggest(self, trial: Any, key: str) -> Any:
        """A value from an Optuna trial; choices that are lists go through it as JSON text, which it can store."""
        if self.choices:
            return json.loads(trial.suggest_categorical(key, [json.dumps(choice) for choice in self.choices]))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log, step=int(self.step or 1))
        return trial.suggest_float(key, self.low, self.high, log=self.log, step=self.step)

    def grid(self) -> list[Any]:
        """Values for a grid, as Optuna stores them: every choice, or low, middle (geometric where logarithmic) and high."""
        if self.choices:
            return [json.dumps(choice) for choice in self.choices]
        low, high = float(self.low or 0), float(self.high or 0)
        middle = (low * high) ** 0.5 if self.log else (low + high) / 2
        if isinstance(self.low, int) and isinstance(self.high, int):
            return sorted({self.low, round(middle), self.high})
        return [low, middle, high]


Space = dict[str, Range]


def shipped_spaces() -> list[str]:
    """Recipes that a space is shipped for."""
    folder = resources.files("tumorscope") / "recipes" / "spaces"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_space(name: str) -> Space:
    """The space shipped for a recipe, or one of your own by path.

    Raises `RecipeError` naming the file, the field and what is allowed.
    """
    path = Path(name).expanduser()
    if path.suffix == ".toml" and path.is_file():
        text = path.read_text(encoding="utf-8")
    elif name in shipped_spaces():
        text = (resources.files("tumorscope") / "recipes" / "spaces" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        known = ", ".join(shipped_spaces())
        raise RecipeError(f"{name}: no search space. Shipped for {known}; or give the path of a .toml file.")
    try:
        content = tomllib.loads(text)
        return {key: Range.model_validate(value) for key, value in content.items()}
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name}: not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{name}: {first['msg'].removeprefix('Value error, ')}, not {first['input']!r}") from None


def first(recipe: str, space: Space) -> Recipe:
    """The recipe with every field at its first choice or lowest value. Raises what `suggested` raises."""
    from optuna.trial import FixedTrial

    return suggested(recipe, space, FixedTrial({key: values.grid()[0] for key, values in space.items()}), "first")


def suggested(recipe: str, space: Space, trial: Any, name: str) -> Recipe:
    """The recipe of a trial. Raises `RecipeError` for a field that the recipe lacks and for a value that it does not take."""
    return load_recipe(recipe, {**drawn(space, trial), "name": name})


def drawn(space: Space, trial: Any) -> dict[str, Any]:
    """A value of every field from a trial, which keeps them."""
    return {key: values.suggest(trial, key) for key, values in space.items()}
