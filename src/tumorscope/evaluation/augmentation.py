"""A page of examples: what each random change does to slices, and all of a recipe's together, as training would see them."""

from pathlib import Path

import numpy as np
import torch

from tumorscope.config import Augment, Recipe
from tumorscope.data.cache import input_pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.data.masks import INSIDE
from tumorscope.errors import DataNotFound
from tumorscope.evaluation import figures
from tumorscope.evaluation.pages import Illustration, illustrate, template
from tumorscope.files import write_text
from tumorscope.labels import CLASSES, INDEX
from tumorscope.training.runs import masks_of
from tumorscope.transforms.augment import apply, draw
from tumorscope.transforms.counterfactual import apply_counterfactual, draw_counterfactual

#: Slices shown, two a class, and draws of all changes together.
SLICES, DRAWS = 8, 3
#: Strengths at which a change is shown that the recipe leaves off.
SHOWN_AT = {
    **{
        "mirror": 1.0,
        "rotate": 20.0,
        "scale": 0.2,
        "shift": 0.15,
        "bias_field": 0.5,
        "contrast": 0.3,
        "brightness": 0.2,
    },
    **{"gamma": 0.5, "curve": 0.3, "blur": 0.02, "resolution": 0.7, "noise": 0.1, "compression": 0.9},
    **{"cutout": 0.4, "mixup": 1.0},
}


def augmentation_page(recipe: Recipe, catalogue: Catalogue, folder: Path, seed: int = 0) -> Path:
    """Write augmentation.html and its figures into `folder`; the page's path."""
    rows = _rows(catalogue, seed)
    images = np.array(input_pixels(catalogue, recipe.input)[rows])
    captions = catalogue.table["label"].iloc[rows].tolist()
    generator = torch.Generator().manual_seed(seed)
    shown = [_shown(folder, "slices", images, captions, "The slices before any change.")]
    for name, default in SHOWN_AT.items():
        strength = getattr(recipe.augment, name)
        alone = Augment.model_validate({name: strength or default, "bicubic": recipe.augment.bicubic})
        state = f"{name} = {strength:g}" if strength else f"{name}: off in this recipe, shown at {default:g}"
        shown.append(_shown(folder, name, _changed(images, alone, generator), captions, state))
    shown += _counterfactuals(recipe, catalogue, rows, images, folder, seed)
    if any(recipe.augment.model_dump().values()):
        for number in range(1, DRAWS + 1):
            changed = _changed(images, recipe.augment, generator)
            shown.append(
                _shown(folder, f"all-{number}", changed, captions, f"All of the recipe's changes, draw {number}")
            )
    page = template("evaluation/augmentation.html.j2").render(
        recipe=recipe, catalogue=catalogue, shown=shown, seed=seed
    )
    write_text(folder / "augmentation.html", page)
    return folder / "augmentation.html"


def _counterfactuals(
    recipe: Recipe, catalogue: Catalogue, rows: list[int], images: np.ndarray, folder: Path, seed: int
) -> list[Illustration]:
    """Tumours pasted and removed and tumour-free patches laid in, where tumour masks are known."""
    try:
        masks = np.load(masks_of(recipe, catalogue), mmap_mode="r")[rows]
    except DataNotFound:
        return []
    inside = torch.from_numpy((masks == INSIDE)[:, None]).float()
    labels = torch.tensor([INDEX[name] for name in catalogue.table["label"].iloc[rows]])
    shown = []
    for name, text in (
        ("paste", "tumours pasted into tumour-free slices"),
        ("remove", "tumours removed"),
        ("seam", "tumour-free tissue laid in with the same seam, the label kept"),
    ):
        generator = torch.Generator().manual_seed(seed)
        drawn = draw_counterfactual(
            Augment.model_validate({name: 1.0}), labels, inside.sum(dim=(1, 2, 3)) > 0, generator
        )
        changed, _, named = apply_counterfactual(torch.from_numpy(images[:, None]).float(), inside, labels, drawn)
        grey = changed[:, 0].round().clamp(0, 255).byte().numpy()
        captions = [CLASSES[index] for index in named.tolist()]
        rate = getattr(recipe.augment, name)
        state = f"{name} = {rate:g}" if rate else f"{name}: off in this recipe"
        shown.append(_shown(folder, name, grey, captions, f"{state}; {text}, under their new labels"))
    return shown


def _rows(catalogue: Catalogue, seed: int) -> list[int]:
    """Rows of training slices, two of every class."""
    random = np.random.default_rng(seed)
    table = catalogue.table
    training = table["split"].ne("test").to_numpy()
    return [
        int(row)
        for name in CLASSES
        for row in random.permutation(np.flatnonzero(training & (table["label"] == name).to_numpy()))[: SLICES // 4]
    ]


def _changed(images: np.ndarray, augment: Augment, generator: torch.Generator) -> np.ndarray:
    drawn = draw(augment, len(images), images.shape[1], generator)
    changed = apply(torch.from_numpy(images[:, None]).float(), drawn)
    return changed[:, 0].round().clamp(0, 255).byte().numpy()


def _shown(folder: Path, name: str, images: np.ndarray, captions: list[str], caption: str) -> Illustration:
    figure = figures.labelled_grid(images, captions, SLICES // 2)
    return illustrate(folder / "figures", name, figure, f"{len(images)} slices. {caption}", caption, "png")
