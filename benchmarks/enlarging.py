"""Enlarging maps as region models do, forward and backward with the same result each time: F.interpolate beside our products.

python benchmarks/enlarging.py [--device cuda]

Maps are of the sizes that `region_unet` joins at 128 pixels, 32 slices at once, and one more. Prints milliseconds, the median of
rounds that take turns, and the ratio of the first to the second.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tumorscope.models.regions import enlarged_by_products

BATCH, ROUNDS = 32, 7
#: Channels and side before, by join.
JOINS = ((192, 8), (96, 16), (48, 32), (24, 64), (48, 64))
CONTENDERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "interpolate": lambda maps, side: F.interpolate(maps, size=(side, side), mode="bilinear"),
    "products": lambda maps, side: enlarged_by_products(maps, side, side),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=device == "cuda")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as in training
    print(torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread", f"torch {torch.__version__}")
    for channels, side in JOINS:
        maps = torch.randn(BATCH, channels, side, side, device=device).contiguous(memory_format=torch.channels_last)
        times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(ROUNDS):
            for name, enlarge in CONTENDERS.items():
                times[name].append(milliseconds(enlarge, maps.requires_grad_(), 2 * side))
        first, second = (statistics.median(times[name][1:]) for name in CONTENDERS)
        print(
            f"{channels:4} x {side} to {2 * side}: {first:8.2f} ms, {second:8.2f} ms, interpolate / products {first / second:.2f}"
        )


def milliseconds(enlarge: Callable[[Tensor, int], Tensor], maps: Tensor, side: int) -> float:
    toward = torch.ones(*maps.shape[:2], side, side, device=maps.device).contiguous(memory_format=torch.channels_last)
    wait(maps)
    started = time.perf_counter()
    torch.autograd.grad(enlarge(maps, side), maps, toward)
    wait(maps)
    return (time.perf_counter() - started) * 1e3


def wait(maps: Tensor) -> None:
    if maps.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
