"""A recipe of ours with the same arrays and output as the peers. Run by benchmarks/training_speed.py."""

import json
import sys

import numpy as np
import torch
from lightning_fabric import Fabric

import tumorscope as ts
from tumorscope.training.loop import fit, predict


def main(arrays: str, epochs: int, seed: int, recipe_name: str, threads: int) -> None:
    data = np.load(arrays)
    length = {"training.epochs": epochs} if epochs else {}  # 0: as the recipe has it
    recipe = ts.load_recipe(recipe_name, {**length, "training.threads": threads})
    test = torch.from_numpy(data["test_x"][:, None])
    spent = [0.0]

    def note(row: dict[str, float]) -> None:
        spent.append(spent[-1] + row["seconds"])

    def show(epoch: int, network: torch.nn.Module) -> None:
        said = predict(network.eval(), test).numpy().argmax(1)
        line = {"epoch": epoch, "seconds": spent[-1], "test": float((said == data["test_y"]).mean())}
        print(json.dumps(line), flush=True)

    labels = data["train_y"].astype(np.int64)
    # The clock of an epoch includes scoring a validation part; here it is one batch, since the peers score none.
    held_out = data["train_x"][:32], labels[:32]
    fabric = Fabric(accelerator="cpu", devices=1)
    fit(recipe, seed, (data["train_x"], labels), held_out, fabric=fabric, report=note, after_epoch=show)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
