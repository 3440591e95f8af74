"""The baseline CNN in a plain PyTorch loop: DataLoader, one Python transform an image. Run by benchmarks/training_speed.py.

The slices are decoded and lie in memory as 30x30 Pillow images, so that no file is read while the clock runs.
"""

import json
import sys
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Slices(Dataset):
    """Decoded slices as Pillow images."""

    def __init__(self, images, labels):
        self.images = [Image.fromarray(image) for image in images]
        self.labels = labels.tolist()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        pixels = torch.from_numpy(np.array(self.images[index], dtype=np.float32)) / 255
        return pixels[None], self.labels[index]


def main(arrays: str, epochs: int, batch_size: int, seed: int) -> None:
    data = np.load(arrays)
    torch.manual_seed(seed)
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1152, 32), nn.ReLU(), nn.Linear(32, 4)),
    )
    optimiser, loss_of = torch.optim.Adam(network.parameters(), 1e-3), nn.CrossEntropyLoss()
    loader = DataLoader(Slices(data["train_x"], data["train_y"]), batch_size, shuffle=True)
    test = torch.from_numpy(data["test_x"][:, None]).float() / 255
    spent = 0.0
    for epoch in range(1, epochs + 1):
        network.train()
        start = time.perf_counter()
        for images, labels in loader:
            optimiser.zero_grad()
            loss_of(network(images), labels).backward()
            optimiser.step()
        spent += time.perf_counter() - start
        with torch.no_grad():
            said = network.eval()(test).argmax(1).numpy()
        print(
            json.dumps({"epoch": epoch, "seconds": spent, "test": float((said == data["test_y"]).mean())}), flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:5]))
