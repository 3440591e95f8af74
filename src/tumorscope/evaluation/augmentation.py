"""A page of examples: what each random change does to slices, and all of a recipe's together, as training would see them."""

from pathlib import Path

import numpy as np
import torch

from tumorscope.config import Augment, Recipe
from tumorscope.data.cache import pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.evaluation import figures
from tumorscope.evaluation.pages import Illustration, illustrate, template
from tumorscope.files import write_text
from tumorscope.labels import CLASSES
from tumorscope.transforms.augment import apply, draw

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
    **{"gamma": 0.5, "noise": 0.1, "cutout": 0.4, "mixup": 1.0},
}


def augmentation_page(recipe: Recipe, catalogue: Catalogue, folder: Path, seed: int = 0) -> Path:
    """Write augmentation.html and its figures into `folder`; the page's path."""
    images, captions = _slices(recipe, catalogue, seed)
    generator = torch.Generator().manual_seed(seed)
    shown = [_shown(folder, "slices", images, captions, "The slices before any change.")]
    for name, default in SHOWN_AT.items():
        strength = getattr(recipe.augment, name)
        alone = Augment(**{name: strength or default})
        state = f"{name} = {strength:g}" if strength else f"{name}: off in this recipe, shown at {default:g}"
        shown.append(_shown(folder, name, _changed(images, alone, generator), captions, state))
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


def _slices(recipe: Recipe, catalogue: Catalogue, seed: int) -> tuple[np.ndarray, list[str]]:
    """Training slices of every class in turn: uint8 (n, s, s) and their class names."""
    random = np.random.default_rng(seed)
    table = catalogue.table
    training = table["split"].ne("test").to_numpy()
    rows = [
        row
        for name in CLASSES
        for row in random.permutation(np.flatnonzero(training & (table["label"] == name).to_numpy()))[: SLICES // 4]
    ]
    images = pixels(catalogue, recipe.input.size, crop=recipe.input.crop)
    return np.array(images[rows]), table["label"].iloc[rows].tolist()


def _changed(images: np.ndarray, augment: Augment, generator: torch.Generator) -> np.ndarray:
    drawn = draw(augment, len(images), images.shape[1], generator)
    changed = apply(torch.from_numpy(images[:, None]).float(), drawn)
    return changed[:, 0].round().clamp(0, 255).byte().numpy()


def _shown(folder: Path, name: str, images: np.ndarray, captions: list[str], caption: str) -> Illustration:
    figure = figures.labelled_grid(images, captions, SLICES // 2)
    return illustrate(folder / "figures", name, figure, f"{len(images)} slices. {caption}", caption, "png")
