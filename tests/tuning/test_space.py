"""Search spaces: values by hand, errors that name the field, and that every shipped one builds."""

import pytest

from tumorscope.errors import RecipeError
from tumorscope.tuning.space import Range, first, load_space, shipped_spaces, suggested


class Fixed:
    """A trial that gives what it was told."""

    def __init__(self, **values) -> None:
        self.values = values

    def suggest_categorical(self, key, choices):
        return choices[-1]

    def suggest_int(self, key, low, high, log, step):
        return high

    def suggest_float(self, key, low, high, log, step):
        return low


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_gives_recipes_of_its_own_network(name):
    recipe = suggested(name, load_space(name), Fixed(), "trial-3")
    assert recipe.name == "trial-3"
    assert recipe.optimiser.learning_rate == 1e-4


def test_lists_among_choices_come_back_as_lists():
    recipe = suggested("improved_cnn", load_space("improved_cnn"), Fixed(), "x")
    assert recipe.model.filters == (48, 96, 192)
    assert recipe.training.batch_size == 64
    assert recipe.model.dense == 256


def test_the_first_recipe_has_first_choices_and_lowest_values():
    space = {
        "model.filters": Range(choices=([4, 8], [16])),
        "training.epochs": Range(low=3, high=9),
        "optimiser.learning_rate": Range(low=1e-4, high=1, log=True),
        "model.dropout": Range(low=0.1, high=0.5, step=0.2),
    }
    recipe = first("improved_cnn", space)
    assert (recipe.model.filters, recipe.training.epochs, recipe.model.dropout) == ((4, 8), 3, 0.1)
    assert recipe.optimiser.learning_rate == 1e-4


def test_a_grid_has_every_choice_or_low_middle_and_high():
    assert Range(choices=(1, "a")).grid() == ["1", '"a"']
    assert Range(low=1, high=5).grid() == [1, 3, 5]
    assert Range(low=0.01, high=1.0, log=True).grid() == pytest.approx([0.01, 0.1, 1.0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"a.b" = { low = 1 }', "give low and high, or choices"),
        ('"a.b" = { low = 2, high = 1 }', "low 2 must be below high 1"),
        ('"a.b" = { low = 0, high = 1, log = true }', "log needs low above 0"),
        ('"a.b" = { choices = [1], low = 0, high = 1 }', "give low and high, or choices"),
        ("a = [", "not valid TOML"),
    ],
)
def test_a_space_that_means_nothing_is_refused_with_the_reason(tmp_path, text, said):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        load_space(str(tmp_path / "space.toml"))


def test_a_recipe_without_a_space_lists_those_that_have_one():
    with pytest.raises(RecipeError, match="Shipped for baseline_cnn, compact_cnn, improved_cnn, lite0"):
        load_space("fast_cnn")


def test_a_field_that_the_recipe_does_not_have_is_refused_by_name():
    with pytest.raises(RecipeError, match="speed: unknown key"):
        suggested("baseline_cnn", {"optimiser.speed": Range(low=0.0, high=1.0)}, Fixed(), "x")
