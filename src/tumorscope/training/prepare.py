"""Slices that a fold makes for itself: enlarged by super-resolution, or reduced to the region that a region model finds.

What makes them has learnt on the fold's training part alone, so that they differ from fold to fold.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tumorscope.config import Recipe, RegionOfInterest, load_recipe
from tumorscope.data.cache import input_file, path_of, pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.data.decode import shrink
from tumorscope.errors import RecipeError
from tumorscope.files import replacing

if TYPE_CHECKING:
    from tumorscope.training.fold import Job

Say = Callable[[str, str], Callable[[int, int], None]]
#: Pixels a side of the slices that regions are cut from.
WHOLE = 128


@dataclass(frozen=True)
class Source:
    """Files of pixels, uint8 (n, s, s), that a fold makes its own of.

    Of super-resolution: the small slices and the real ones at full size. Of a region of interest: what the region model sees and
    the slices to cut, and `finder`, the run folder of that model.
    """

    first: Path
    second: Path
    finder: Path | None = None


def sources_of(
    recipe: Recipe, catalogue: Catalogue, seeds: Sequence[int], train: Callable[[Recipe], list[Path]]
) -> dict[int, Source | None]:
    """What the folds of each seed make their pixels of, None where they need not; region models are trained with `train` first.

    Raises `RecipeError` where a region model does not fit.
    """
    view, interest = recipe.input, recipe.region_of_interest
    if interest is None:
        if not recipe.pixels_of_fold:
            return dict.fromkeys(seeds)
        files = [pixels_file(catalogue, size, view.crop) for size in (view.enlarged_from, view.size)]
        return dict.fromkeys(seeds, Source(*files))
    finder = load_recipe(interest.recipe)
    if finder.model.name != "region_unet" or finder.pixels_of_fold:
        raise RecipeError(f"{recipe.name}: region_of_interest.recipe: {interest.recipe} is no region model")
    if finder.input.crop != view.crop:
        raise RecipeError(
            f"{recipe.name}: input.crop is {view.crop}, that of {finder.name} is {finder.input.crop}; set the same"
        )
    seen, whole = input_file(catalogue, finder.input), pixels_file(catalogue, WHOLE, view.crop)
    return {seed: Source(seen, whole, run) for seed, run in zip(seeds, train(finder), strict=True)}


def pixels_file(catalogue: Catalogue, size: int, crop: str) -> Path:
    """File of the pixel cache at `size`, made where it is not there."""
    pixels(catalogue, size, crop=crop)
    return path_of(catalogue, size, crop)


def fold_pixels(job: "Job", source: Source, say: Say) -> Path:
    """File of the fold's own slices, uint8 (n, size, size), beside those that it is made of; made where it is not there."""
    return _enlarged(job, source, say) if source.finder is None else _reduced(job, source, source.finder, say)


def _enlarged(job: "Job", source: Source, say: Say) -> Path:
    from tumorscope.training.superresolution import learn, sharpened

    settings, rows = job.recipe.super_resolution, np.sort(job.fold.train)
    facts = {
        **{"settings": settings.model_dump(mode="json"), "slices": [source.first.name, source.second.name]},
        **{
            "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
            "seed": job.seed,
            "threads": job.recipe.training.threads,
            "device": job.device,
        },
    }
    file = job.pixels.parent / f"pixels-mfcn-{_key(facts)}.npy"
    weights = file.with_suffix(".safetensors")
    enlarged, small, real = (np.load(one, mmap_mode="r") for one in (job.pixels, source.first, source.second))
    if not file.exists():
        if not weights.exists():
            progress = say(f"Super-resolution, {job.run.name} fold {job.fold.index}", "epochs")
            learn(job.recipe, enlarged[rows], real[rows], weights, seed=job.seed, device=job.device, progress=progress)
        _write(file, sharpened(weights, settings, enlarged, job.device))
    if len(job.fold.test):  # under `all` there are none
        _write_likeness(job, small, real, np.load(file, mmap_mode="r"))
    return file


def _write_likeness(job: "Job", small: np.ndarray, real: np.ndarray, made: np.ndarray) -> None:
    """likeness.csv and likeness.png of the fold's test slices, from uint8 (n, t, t) and twice (n, s, s)."""
    from PIL import Image

    from tumorscope.training.fold import write_csv
    from tumorscope.training.superresolution import likeness, sheet

    test = job.fold.test
    scores = likeness(small[test], real[test], made[test])
    write_csv(job.folder / "likeness.csv", scores.assign(row=test[scores.pop("slice")], fold=job.fold.index))
    shown = test[np.unique(job.labels[test], return_index=True)[1]]
    with replacing(job.folder / "likeness.png") as temporary:
        Image.fromarray(sheet(small[shown], real[shown], made[shown])).save(temporary)


def _reduced(job: "Job", source: Source, finder: Path, say: Say) -> Path:
    import torch

    from tumorscope.evaluation.regions import region_maps
    from tumorscope.training.loop import reproducible
    from tumorscope.training.network import load_network

    interest = job.recipe.region_of_interest
    assert interest is not None
    fold, found_by = finder / f"fold-{job.fold.index}", load_recipe(finder / "recipe.toml")
    size = job.recipe.input.size
    facts: dict[str, Any] = {
        **{
            "interest": interest.model_dump(mode="json"),
            "slices": [source.first.name, source.second.name],
            "size": size,
            "device": job.device,
        },
        "weights": hashlib.sha256((fold / "weights.safetensors").read_bytes()).hexdigest(),
    }
    # Only where they were made otherwise before, so that slices of others are found again.
    if found_by.training.mirror_average:
        facts["mirror_average"] = True
    if interest.use == "mask":
        facts["margin"] = "of each region"
    file = job.pixels.parent / f"pixels-{interest.use}-{_key(facts)}.npy"
    if file.exists():
        return file
    seen, whole = np.load(source.first, mmap_mode="r"), np.load(source.second, mmap_mode="r")
    progress = say(f"Regions, {job.run.name} fold {job.fold.index}", "slices")
    out = np.empty((len(whole), size, size), np.uint8)
    with reproducible(job.seed, job.recipe.training.threads, torch.device(job.device)):
        module = load_network(fold, found_by).to(job.device)
        for start in range(0, len(whole), 512):
            part = slice(start, start + 512)
            images = torch.from_numpy(np.array(seen[part])[:, None]).to(job.device)
            maps = region_maps(module, images, found_by.training.mirror_average).numpy()
            out[part] = [
                reduce_to(one, region > 0.5, interest, size) for one, region in zip(whole[part], maps, strict=True)
            ]
            progress(min(start + 512, len(whole)), len(whole))
    _write(file, out)
    return file


def reduce_to(whole: np.ndarray, region: np.ndarray, interest: RegionOfInterest, size: int) -> np.ndarray:
    """A slice uint8 (h, h) reduced to its region, bool (s, s) over the same square, as `interest` says: uint8 (size, size)."""
    from scipy import ndimage

    parts, count = ndimage.label(region)
    if interest.use == "mask":
        kept = np.zeros_like(region)
        for number, place in enumerate(ndimage.find_objects(parts), start=1):
            margin = max(1, round(interest.margin * max(axis.stop - axis.start for axis in place)))
            kept |= ndimage.binary_dilation(parts == number, iterations=margin)
        places = np.arange(whole.shape[0]) * region.shape[0] // whole.shape[0]
        return shrink(np.where(kept[np.ix_(places, places)], whole, 0).astype(np.uint8), size)
    if not count:
        return shrink(np.ascontiguousarray(whole), size)
    largest = int(np.bincount(parts.ravel())[1:].argmax())
    rows, columns = ndimage.find_objects(parts)[largest]
    scale = whole.shape[0] / region.shape[0]
    side = max(8, round(max(rows.stop - rows.start, columns.stop - columns.start) * (1 + 2 * interest.margin) * scale))
    top, left = (round((axis.start + axis.stop) / 2 * scale - side / 2) for axis in (rows, columns))
    framed = np.pad(whole, side)  # the square may leave the slice, and is black there
    return shrink(np.ascontiguousarray(framed[top + side : top + 2 * side, left + side : left + 2 * side]), size)


def _write(file: Path, images: np.ndarray) -> None:
    with replacing(file) as temporary:
        np.save(temporary, images)


def _key(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
