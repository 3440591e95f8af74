"""Recipes: what is refused and in which words, and that what is shipped loads, builds and comes back from its own TOML."""

import math
import tomllib

import pytest

from tumorscope.config import Recipe, load_recipe, parse_override, parse_recipe, shipped_recipes
from tumorscope.errors import RecipeError

TOP = (
    "name, title, input, model, imbalance, loss, optimiser, schedule, augment, early_stopping, training, regions, pretrain, "
    "super_resolution, region_of_interest, external"
)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_loads_builds_and_comes_back_from_its_toml(name, tmp_path):
    from tumorscope.models.registry import build, drawn_at_random

    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert parse_recipe(tomllib.loads(recipe.toml()), "again") == recipe
    copy = tmp_path / "recipe.toml"
    copy.write_text(recipe.toml(), encoding="utf-8")
    assert load_recipe(copy) == recipe
    build(drawn_at_random(recipe.model), recipe.input.size)


def test_the_student_reports_settings():
    baseline, improved = load_recipe("baseline_cnn"), load_recipe("improved_cnn")
    assert (baseline.input.size, baseline.training.epochs, baseline.training.batch_size) == (30, 5, 32)
    assert (baseline.loss.name, baseline.imbalance.method) == ("cross_entropy", "none")
    assert (improved.loss.name, improved.loss.gamma, improved.loss.alpha) == ("focal", 2.0, 0.25)
    assert (improved.model.dropout, improved.optimiser.learning_rate) == (0.07, 0.000319)
    assert improved.early_stopping.patience == 2
    assert improved.imbalance.method == "smote"
    assert {key: (to.share, to.of) for key, to in improved.imbalance.targets.items()} == {"glioma": (0.85, "notumor")}


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("colour", TOP),
        ("training.epoch", "epochs, batch_size, threads, members, mirror_average, precision"),
        ("imbalance.targets.glioma.number", "share, of, count"),
    ],
)
def test_an_unknown_key_names_file_key_and_what_is_allowed(key, allowed):
    with pytest.raises(RecipeError) as caught:
        load_recipe("improved_cnn", {key: 1})
    assert str(caught.value) == f"improved_cnn.toml: {key}: unknown key; allowed here: {allowed}"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("input.size", 7, "greater than or equal to 8, not 7"),
        ("input.size", 1025, "less than or equal to 1024, not 1025"),
        ("input.normalise", "z", "'unit', 'standard' or 'backbone', not 'z'"),
        ("model.dropout", 1.0, "less than 1, not 1.0"),
        ("model.filters", [32, 0], "greater than or equal to 1, not 0"),
        ("optimiser.learning_rate", 0, "greater than 0, not 0"),
        ("optimiser.learning_rate", math.nan, "not nan"),
        ("optimiser.learning_rate", math.inf, "not inf"),
        ("imbalance.targets.glioma.share", -1, "greater than 0, not -1"),
        ("imbalance.targets.cyst", {"share": 1.0, "of": "glioma"}, "'notumor' or 'pituitary', not 'cyst'"),
        ("training.epochs", 0, "greater than or equal to 1, not 0"),
        ("training.epochs", "many", "valid integer, not 'many'"),
        ("name", "Two Words", "not 'Two Words'"),
    ],
)
def test_a_value_out_of_range_names_file_key_limit_and_value(key, value, says):
    with pytest.raises(RecipeError) as caught:
        load_recipe("improved_cnn", {key: value})
    assert str(caught.value).startswith(f"improved_cnn.toml: {key}")
    assert str(caught.value).endswith(says)


@pytest.mark.parametrize(
    ("key", "value"),
    [("training.epochs", True), ("training.epochs", "30"), ("training.epochs", 2.5), ("model.batch_norm", "yes")],
)
def test_no_value_is_bent_into_the_type_that_was_asked_for(key, value):
    with pytest.raises(RecipeError, match=key):
        load_recipe("improved_cnn", {key: value})


def test_a_setting_that_would_change_nothing_is_refused():
    with pytest.raises(RecipeError, match=r"baseline_cnn\.toml: imbalance: smote without targets"):
        load_recipe("baseline_cnn", {"imbalance.method": "smote"})
    with pytest.raises(RecipeError, match=r"improved_cnn\.toml: loss: label_smoothing goes with cross_entropy"):
        load_recipe("improved_cnn", {"loss.label_smoothing": 0.1})
    assert load_recipe("improved_cnn", {"imbalance.method": "none"}).imbalance.targets  # an ablation is one override


def test_settings_that_would_teach_wrong_targets_together_are_refused():
    with pytest.raises(RecipeError, match="labels as stored"):
        load_recipe("region_unet", {"loss.class_weights": "balanced"})
    with pytest.raises(RecipeError, match="masks cannot be"):
        load_recipe("region_unet", {"augment.mixup": 0.2})
    with pytest.raises(RecipeError, match="a region model has a head of its own"):
        load_recipe("region_lite", {"model.backbone.head": "pooled"})


def test_the_memorisers_folders_are_not_a_recipes():
    with pytest.raises(RecipeError, match="kept for the memoriser"):
        load_recipe("baseline_cnn", {"name": "memoriser"})


def test_every_mistake_is_named_at_once():
    with pytest.raises(RecipeError) as caught:
        load_recipe("baseline_cnn", {"training.epochs": 0, "input.size": 3, "nothing": 1})
    assert len(str(caught.value).splitlines()) == 3


def test_overrides_reach_any_field_and_leave_the_rest():
    plain = load_recipe("improved_cnn")
    changed = load_recipe(
        "improved_cnn",
        {"training.epochs": 3, "model.filters": [8, 16], "imbalance.targets.meningioma": {"share": 1, "of": "notumor"}},
    )
    assert changed.training.epochs == 3
    assert changed.training.batch_size == plain.training.batch_size
    assert changed.model.filters == (8, 16)
    assert set(changed.imbalance.targets) == {"glioma", "meningioma"}
    assert load_recipe("improved_cnn") == plain  # nothing of an override stays behind


def test_an_override_below_a_value_is_refused():
    with pytest.raises(RecipeError, match=r"model\.name\.x: name holds a value"):
        load_recipe("baseline_cnn", {"model.name.x": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.epochs=30", ("training.epochs", 30)),
        ("optimiser.learning_rate = 1e-4", ("optimiser.learning_rate", 1e-4)),
        ("model.filters=[8, 16]", ("model.filters", [8, 16])),
        ("model.batch_norm=true", ("model.batch_norm", True)),
        ("loss.name=focal", ("loss.name", "focal")),
        ("title=a = b", ("title", "a = b")),
        ('name="x"', ("name", "x")),
    ],
)
def test_an_override_is_read_as_toml_or_else_as_text(text, expected):
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["training.epochs", "=30", " = 30", ""])
def test_an_override_without_key_or_value_is_refused(text):
    with pytest.raises(RecipeError, match="expected key=value"):
        parse_override(text)


def test_a_recipe_of_ones_own_is_named_by_its_file_unless_it_says(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[model]\nname = "baseline_cnn"\n', encoding="utf-8")
    assert load_recipe(file).name == "mine"
    file.write_text('name = "other"\n[model]\nname = "baseline_cnn"\n', encoding="utf-8")
    assert load_recipe(str(file)).name == "other"


def test_files_that_are_no_recipe(tmp_path):
    broken, latin, empty = (tmp_path / name for name in ("broken.toml", "latin.toml", "empty.toml"))
    broken.write_text("[model", encoding="utf-8")
    latin.write_bytes(b'title = "\xe9"')
    empty.write_text("", encoding="utf-8")
    for file, says in ((broken, "not valid TOML"), (latin, "utf-8"), (empty, "model: Field required")):
        with pytest.raises(RecipeError) as caught:
            load_recipe(file)
        assert str(caught.value).startswith(str(file))
        assert says in str(caught.value)


@pytest.mark.parametrize("name", ["resnet", "missing.toml", "."])
def test_a_name_that_is_no_recipe_lists_the_shipped_ones(name):
    with pytest.raises(RecipeError, match=f"no such recipe. Shipped: {', '.join(shipped_recipes())}"):
        load_recipe(name)


def test_a_recipe_cannot_be_changed_in_place():
    recipe = load_recipe("baseline_cnn")
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]
    assert isinstance(recipe, Recipe)


def test_a_model_that_does_not_exist_or_fit_is_refused_with_what_does():
    from tumorscope.models.registry import build

    with pytest.raises(
        RecipeError, match=r"model\.name: 'vgg' is unknown; allowed: .*baseline_cnn, compact_cnn, improved_cnn"
    ):
        build(load_recipe("baseline_cnn", {"model.name": "vgg"}).model, 30)
    deep = load_recipe("improved_cnn", {"model.filters": [8] * 5})
    with pytest.raises(RecipeError, match="30x30 input; give one to 4 blocks"):
        build(deep.model, 30)
    build(deep.model, 32)
