"""MONAI's U-Net in the place of ours, at about as many parameters: benchmarks/results/monai_unet.json.

python benchmarks/monai_unet.py --data ARCHIVE [--epochs N] [--folds N] [--slices N]

`region_unet` and MONAI's BasicUNet (Falk et al. 2019, doi:10.1038/s41592-018-0261-2; norm, activation and upsampling as MONAI has
them) go through one training loop below the same slice head: the same slices, masks, patient-grouped folds, augmentation, loss,
epochs and seed, one after the other within each fold. Scored on the validation parts, since a network is chosen by it; test
slices are not read. The clock runs over the epochs. MONAI comes with `pip install 'tumorscope[benchmarks]'`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from lightning_fabric import Fabric
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

import tumorscope as ts
from tumorscope import home
from tumorscope.audit.identify import with_pictures
from tumorscope.config import Model, Recipe
from tumorscope.data.cache import input_pixels
from tumorscope.evaluation.regions import region_scores
from tumorscope.files import write_json
from tumorscope.labels import CLASSES, INDEX
from tumorscope.models.regions import Contraction, RegionNetwork, region_unet
from tumorscope.models.registry import build, register
from tumorscope.training.identity import environment
from tumorscope.training.loop import fit, predict
from tumorscope.training.runs import masks_of

RESULT = Path(__file__).parent / "results" / "monai_unet.json"
#: Of the folds and of training, apart from the seeds that results are reported with.
SEED = 1000
#: Widths of BasicUNet's first level that are looked through for the nearest number of parameters.
WIDTHS = range(4, 33)


class MonaiNetwork(RegionNetwork):
    """BasicUNet's pixels, and our slice head on its coarsest features and those of its first step up."""

    def __init__(self, width: int, dropout: float) -> None:
        levels = tuple(width * 2**level for level in range(5))
        super().__init__(Contraction(levels), levels[:-1], dropout)
        del self.encoder, self.up, self.pixels
        self.net = BasicUNet(2, in_channels=1, out_channels=len(CLASSES), features=(*levels, width))

    def explained(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ours; a way through the net as its own forward goes, which keeps no features."""
        net = self.net
        first = net.conv_0(images)
        second = net.down_1(first)
        third = net.down_2(second)
        fourth = net.down_3(third)
        deepest = net.down_4(fourth)
        up = net.upcat_4(deepest, fourth)
        pixels = net.final_conv(net.upcat_1(net.upcat_2(net.upcat_3(up, third), second), first))
        slices, embedding = self._slices(pixels, deepest, up)
        return slices, pixels, embedding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--folds", type=int, default=2, choices=range(1, 6))
    parser.add_argument("--slices", type=int, default=0, help="Of each part at most, drawn at random; 0: all.")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    changes = {"training.epochs": arguments.epochs, "training.threads": home.cores()}
    recipe = ts.load_recipe("region_unet", changes)
    catalogue = with_pictures(ts.load_catalogue(arguments.data, sizes=(recipe.input.size,)))
    stacks = (
        np.asarray(input_pixels(catalogue, recipe.input)),
        np.load(masks_of(recipe, catalogue)),
        catalogue.table["label"].map(INDEX).to_numpy(np.int64),
    )
    width = nearest_width(recipe)
    networks: dict[str, Callable[[Model, int, int], nn.Module]] = {
        "ours": region_unet,
        "monai": lambda model, size, classes: MonaiNetwork(width, model.dropout),
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in networks}
    for fold in ts.folds("patient-cv", catalogue.table, SEED)[: arguments.folds]:
        parts = [some(part, arguments.slices) for part in (fold.train, fold.validation)]
        for name, builder in networks.items():
            rows[name].append(trained(recipe, builder, *([stack[part] for stack in stacks] for part in parts)))
            print(fold.index, name, rows[name][-1], flush=True)
            result = {"seed": SEED, "epochs": arguments.epochs, "slices": [len(part) for part in parts]}
            result |= {"monai": monai.__version__, "monai_width": width, "folds": rows, "ratios": ratios(rows)}
            write_json(arguments.out, {**result, **environment()})
    print(result["ratios"])


def nearest_width(recipe: Recipe) -> int:
    """The width at which MONAI's network comes nearest to ours in parameters."""
    ours = count(build(recipe.model, recipe.input.size))
    return min(WIDTHS, key=lambda width: abs(count(MonaiNetwork(width, recipe.model.dropout)) - ours))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def some(rows: np.ndarray, most: int) -> np.ndarray:
    if not most or most >= len(rows):
        return rows
    return np.sort(np.random.default_rng(SEED).choice(rows, most, replace=False))


def trained(
    recipe: Recipe, builder: Callable[[Model, int, int], nn.Module], train: list[Any], held: list[Any]
) -> dict[str, float]:
    """Scores of the network that `builder` makes, trained and held out on images, masks and labels."""
    register("region_unet")(builder)
    try:
        fabric = Fabric(accelerator="cpu", devices=1)
        module, history = fit(recipe, SEED, (train[0], train[2]), (held[0], held[2]), masks=train[1], fabric=fabric)
    finally:
        register("region_unet")(region_unet)
    regions = region_scores(module, *held, torch.device("cpu"))
    said = (
        predict(module, torch.from_numpy(np.array(held[0]))[:, None], recipe.training.mirror_average).argmax(1).numpy()
    )
    free = held[2] == INDEX["notumor"]
    return {
        "parameters": count(module),
        "seconds": sum(row["seconds"] for row in history),
        "dice": float(regions["dice"].mean()),
        "dice_median": float(regions["dice"].median()),
        "hit": float((regions["dice"].dropna() > 0).mean()),
        "pointing": float(regions["pointed"].mean()),
        "false_regions": float((regions["region_pixels"][free] > 0).mean()),
        "balanced_accuracy": float(np.mean([(said == held[2])[held[2] == kind].mean() for kind in np.unique(held[2])])),
    }


def ratios(rows: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Means over the folds that both have, ours over MONAI's; of seconds MONAI's over ours."""
    pairs = list(zip(rows["ours"], rows["monai"], strict=False))
    mean = {
        name: np.mean([[one[name] for one in pair] for pair in pairs], axis=0) if pairs else np.full(2, np.nan)
        for name in ("dice", "seconds", "parameters")
    }
    return {
        "dice, ours over MONAI": float(mean["dice"][0] / mean["dice"][1]),
        "seconds, MONAI over ours": float(mean["seconds"][1] / mean["seconds"][0]),
        "parameters, ours over MONAI": float(mean["parameters"][0] / mean["parameters"][1]),
    }


if __name__ == "__main__":
    main()
