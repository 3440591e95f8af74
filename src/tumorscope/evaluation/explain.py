"""Are a network's heat maps about the tumour? Its own map and class activation methods of torch-cam, measured against masks.

Every map is of the class that the network answers, enlarged to the slice, and of the slice alone: a package of a recipe with
`mirror_average`, and a run's regions.csv, have the mean over slice and mirror. The own map of a region model is of any tumour,
whatever it answers; where that is none, methods of torch-cam find no gradient, and their map, zero all over, points
anywhere. Pointing game: see `regions.pointed`. Energy: the share of the map's sum that lies in the mask (Wang et al. 2020,
arXiv:1910.01279). Deletion and insertion: mean probability of the answer while the map's highest pixels are blurred, or brought
back into a blurred slice (Petsiuk et al. 2018, arXiv:1806.07421); a map that knows what the network uses has a low and a high
one. Beside them chance, and the same methods on the network with random weights (Adebayo et al. 2018, arXiv:1810.03292).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tumorscope.config import Recipe, load_recipe
from tumorscope.data.cache import input_pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.data.masks import INSIDE, UNKNOWN
from tumorscope.errors import InputRejected, RunMismatch
from tumorscope.evaluation.regions import SIZES, pointed
from tumorscope.files import replacing, write_json, write_text
from tumorscope.inference.batch import overlay
from tumorscope.models.backbones import BackboneNetwork
from tumorscope.models.heads import POOLING
from tumorscope.models.regions import RegionNetwork, evidence_of
from tumorscope.models.residual import ResidualNetwork
from tumorscope.training.identity import environment
from tumorscope.training.network import Members, SliceNetwork, load_network, untrained_network
from tumorscope.training.runs import facts_of, masks_of, read_predictions
from tumorscope.transforms.augment import blurred

Progress = Callable[[int, int], None]
#: Methods of torch-cam by name, and what a row without a network is called.
METHODS = {"Grad-CAM": "GradCAM", "Grad-CAM++": "GradCAMpp", "XGrad-CAM": "XGradCAM", "LayerCAM": "LayerCAM"}
OWN, CHANCE, RANDOM = "own map", "chance", " (random weights)"
#: Shares of a slice's pixels that are blurred or brought back; fine at first, since tumours are small.
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
#: Standard deviation of the blur in sides of the slice: what is left when a place tells nothing.
BLUR = 0.1
BATCH = 32


def explain_run(
    run: Path, catalogue: Catalogue, slices: int = 300, progress: Progress = lambda done, total: None
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """A row a tumour slice and method, of at most `slices` test slices spread over the run; and overlays of the first few.

    catalogue : that of the run; of an external run the joined one, of which the other set alone need have masks
    Columns: path, label, method, mask_share, pointing, energy, deletion, insertion.
    Raises `RunMismatch` for another set or a network without convolutions over places, `DataNotFound` without masks.
    """
    recipe = load_recipe(run / "recipe.toml")
    facts_of(run, catalogue)
    if recipe.pixels_of_fold:
        raise RunMismatch(f"{run}: its slices are made for each fold; maps over them are not maps over the slices.")
    chosen, images, masks = _tumours(run, recipe, catalogue, slices)
    frames: list[pd.DataFrame] = []
    sheets: list[np.ndarray] = []
    done = 0
    for fold, part in chosen.groupby("fold"):
        module = load_network(run / f"fold-{fold}", recipe)
        torch.manual_seed(0)
        blank = untrained_network(recipe).eval()
        blank.scale = module.scale
        for start in range(0, len(part), BATCH):
            rows = part.iloc[start : start + BATCH]
            pixels = torch.from_numpy(np.array(images[rows["row"]])[:, None]).float()
            inside = masks[rows["row"]] == INSIDE
            heats = dict(_maps(module, pixels)) | {f"{name}{RANDOM}": heat for name, heat in _maps(blank, pixels)}
            heats[CHANCE] = torch.rand(len(rows), *inside.shape[1:], generator=torch.Generator().manual_seed(0))
            frames += [_scored(module, pixels, inside, heat, name, rows) for name, heat in heats.items()]
            if not sheets:
                sheets = [_sheet(images[row], index, heats) for index, row in enumerate(rows["row"][:6])]
            done += len(rows)
            progress(done, len(chosen))
    return pd.concat(frames, ignore_index=True), sheets


def explanation(table: pd.DataFrame) -> dict[str, Any]:
    """Means over slices by method, with pointing by tumour size; of chance pointing and energy are the masks' share itself."""
    sizes = pd.cut(table["mask_share"], list(SIZES), labels=[f"to {high:.1%}" for high in SIZES[1:]])
    rows = []
    for method, part in table.groupby("method", sort=False):
        by_size = part.groupby(sizes.loc[part.index], observed=True)["pointing"].mean()
        one = {
            "method": method,
            **{name: float(part[name].mean()) for name in ("pointing", "energy")},
            **{
                name: float(part[name].mean()) if part[name].notna().all() else None
                for name in ("deletion", "insertion")
            },
        }
        if method == CHANCE:
            one |= dict.fromkeys(("pointing", "energy"), float(part["mask_share"].mean()))
            by_size = part.groupby(sizes.loc[part.index], observed=True)["mask_share"].mean()
        rows.append({**one, "pointing_by_size": {str(name): float(value) for name, value in by_size.items()}})
    counts = sizes[table["method"] == CHANCE].value_counts(sort=False)
    return {
        "slices": int((table["method"] == CHANCE).sum()),
        "slices_by_size": {str(name): int(count) for name, count in counts.items()},
        "rows": rows,
        **environment(),
    }


def write(run: Path, table: pd.DataFrame, sheets: list[np.ndarray], result: dict[str, Any]) -> None:
    """explain.json, explain.csv and explain.png into the run folder."""
    with replacing(run / "explain.png") as temporary:
        Image.fromarray(np.vstack(sheets)).save(temporary)
    write_text(run / "explain.csv", table.to_csv(index=False))
    write_json(run / "explain.json", result)


def _tumours(
    run: Path, recipe: Recipe, catalogue: Catalogue, count: int
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Test slices with a known tumour mask, spread over the run (row, path, label, fold); pixels and masks of all rows.

    Rows are those of the catalogue, or of the set that a joined one tests on.
    """
    table = read_predictions(run)
    paths = catalogue.table["path"]
    if catalogue.parts:
        paths, catalogue = paths.iloc[-len(catalogue.parts[1].table) :], catalogue.parts[1]
    place = {path: row for row, path in enumerate(paths)}
    table = table[(table["part"] == "test") & (table["label"] != "notumor")]
    table = table.assign(row=table["path"].map(place)).reset_index(drop=True)
    masks = np.load(masks_of(recipe, catalogue), mmap_mode="r")
    known = [(masks[row] == INSIDE).any() and not (masks[row] == UNKNOWN).any() for row in table["row"]]
    table = table[known]
    if table.empty:
        raise InputRejected(
            str(run), "no test slice with a tumour mask", "one at least", "Score a run whose test has masks."
        )
    kept = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int))
    return table.iloc[kept][["row", "path", "label", "fold"]], input_pixels(catalogue, recipe.input), masks


def _maps(module: SliceNetwork, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and map float (n, s, s), not negative, of the network's own map where it has one, and of each method."""
    import torchcam.methods

    with torch.no_grad():
        answers = module(pixels).argmax(1)
    if _has_map(module.network):
        yield OWN, _own(module, pixels, answers)
    layer = _layer(module.network)
    for name, kind in METHODS.items():
        with getattr(torchcam.methods, kind)(module, layer) as extractor:
            # Slices that want gradients, so that they also flow where weights are frozen.
            found = extractor(answers.tolist(), module(pixels.clone().requires_grad_()))[0]
        module.zero_grad()
        yield name, _enlarged(torch.nan_to_num(found.detach()), pixels.shape[-1])


def _own(module: SliceNetwork, pixels: Tensor, answers: Tensor) -> Tensor:
    network: Any = module.network
    with torch.no_grad():
        _, maps, _ = network.explained(module.scale(pixels))
    if isinstance(_first(network), RegionNetwork):
        return evidence_of(maps).double().sigmoid()  # in float32 sure pixels would all be one
    return _enlarged(maps[torch.arange(len(maps)), answers].clamp_min(0), pixels.shape[-1])


def _first(network: nn.Module) -> nn.Module:
    return network.members[0] if isinstance(network, Members) else network


def _has_map(network: nn.Module) -> bool:
    """Whether the network has a map of its own; a backbone has one below a pooling head alone."""
    network = _first(network)
    if isinstance(network, BackboneNetwork):
        return network.backbone.head in POOLING
    return isinstance(network, RegionNetwork | ResidualNetwork)


def _layer(network: nn.Module) -> nn.Module:
    """Where methods look: the last features over places that the answer is made of, of members those of the first."""
    network = _first(network)
    if isinstance(network, RegionNetwork):
        return network.encoder.deepest
    if isinstance(network, ResidualNetwork):
        return network.features
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    if not convolutions:
        raise RunMismatch("The network has no convolutions, so that there is no map over places.")
    return convolutions[-1]


def _enlarged(maps: Tensor, side: int) -> Tensor:
    return F.interpolate(maps[:, None], size=(side, side), mode="bilinear")[:, 0]


def _scored(
    module: SliceNetwork, pixels: Tensor, inside: np.ndarray, heat: Tensor, method: str, rows: pd.DataFrame
) -> pd.DataFrame:
    flat, mask = heat.flatten(1).numpy(), inside.reshape(len(inside), -1)
    total = flat.sum(1)
    energy = np.where(total > 0, (flat * mask).sum(1) / np.where(total > 0, total, 1), 0.0)
    # A map of random weights knows nothing of this network's answer.
    nothing = np.full(len(flat), np.nan)
    deletion, insertion = (nothing, nothing) if method.endswith(RANDOM) else curves(module, pixels, heat)
    return pd.DataFrame(
        {
            **{"path": rows["path"].to_numpy(), "label": rows["label"].to_numpy(), "method": method},
            **{"mask_share": mask.mean(1), "pointing": pointed(heat.numpy(), inside)},
            **{"energy": energy, "deletion": deletion, "insertion": insertion},
        }
    )


def curves(module: nn.Module, pixels: Tensor, heat: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the answer's probability while pixels are blurred, and brought back, highest first; float (n,) each."""
    spread = blurred(pixels, torch.full((len(pixels),), BLUR * pixels.shape[-1]))
    places = (
        heat.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1).view(pixels.shape) / heat[0].numel()
    )
    with torch.no_grad():
        answers = module(pixels).argmax(1)
        gone = [_chance(module, torch.where(places < share, spread, pixels), answers) for share in SHARES]
        back = [_chance(module, torch.where(places < share, pixels, spread), answers) for share in SHARES]
    deletion, insertion = (np.trapezoid(np.stack(several), SHARES, axis=0) for several in (gone, back))
    return deletion, insertion


def _chance(module: nn.Module, pixels: Tensor, answers: Tensor) -> np.ndarray:
    chances: np.ndarray = module(pixels).softmax(1)[torch.arange(len(pixels)), answers].numpy()
    return chances


def _sheet(image: np.ndarray, index: int, heats: dict[str, Tensor]) -> np.ndarray:
    """The slice, and beside it every method's map over it, uint8 (s, s * n, 3)."""
    shown = [np.repeat(image[..., None], 3, axis=2)]
    for name, maps in heats.items():
        if name == CHANCE or name.endswith(RANDOM):
            continue
        values = maps[index].numpy()
        heat = np.round(values / max(float(values.max()), 1e-9) * 255).astype(np.uint8)
        shown.append(overlay(image, heat))
    return np.hstack(shown)
