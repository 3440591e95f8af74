"""A frozen VGG16's head trained on stored features, beside the same training through the network: results/feature_cache.json.

python benchmarks/feature_cache.py --data ARCHIVE [--size 128] [--slices 256] [--epochs 20]

Both trainings see the same `--slices` slices, epochs and seed, in one process one after the other. Then the features of the
whole set are computed and a head is trained on all of its training slices. Weights are random: time does not depend on them.
Through the network every slice passes once an epoch, for its features once in all, so that the ratio cannot be much above the
number of epochs. It falls short of them by the head's own training and by drawing the network, which counts less the more slices
there are.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

import tumorscope as ts
from tumorscope import home
from tumorscope.data.cache import input_file
from tumorscope.files import write_json
from tumorscope.labels import INDEX
from tumorscope.training.features import stored_features
from tumorscope.training.identity import environment
from tumorscope.training.loop import fit

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    catalogue = ts.load_catalogue(arguments.data)
    recipe = ts.load_recipe(
        "vgg16",
        {
            **{"input.size": arguments.size, "model.backbone.weights": "none", "augment.mirror": 0.0},
            **{"early_stopping.patience": 0, "training.epochs": arguments.epochs, "training.threads": home.cores()},
        },
    )
    fabric = Fabric(accelerator="cpu", devices=1)
    labels = catalogue.table["label"].map(INDEX).to_numpy().astype(np.int64)
    training = np.flatnonzero(catalogue.table["split"] == "train")
    some = np.random.default_rng(0).permutation(training)[: arguments.slices]
    file = input_file(catalogue, recipe.input)
    slices = np.load(file, mmap_mode="r")
    nothing = np.empty(0, np.int64)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.npy"
        np.save(part, slices[some])
        found = {}
        started = time.perf_counter()
        stored = stored_features(recipe, part, Path(folder), "cpu")
        made = stored.rows(np.arange(len(some)))
        fit(recipe, 0, (made, labels[some]), (made[:0], nothing), features=stored.shape, fabric=fabric)
        found["cached"] = time.perf_counter() - started
        started = time.perf_counter()
        fit(recipe, 0, (slices[some], labels[some]), (slices[:0], nothing), fabric=fabric)
        found["through the network"] = time.perf_counter() - started
        started = time.perf_counter()
        stored = stored_features(recipe, file, Path(folder), "cpu")
        whole = time.perf_counter() - started
        started = time.perf_counter()
        made = stored.rows(training)
        fit(recipe, 0, (made, labels[training]), (made[:0], nothing), features=stored.shape, fabric=fabric)
        head = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ratio = found["through the network"] / found["cached"]
    result = {
        **{"size": arguments.size, "slices": len(some), "epochs": arguments.epochs, "seconds": found, "ratio": ratio},
        **{"whole_set": {"slices": len(labels), "features_s": whole, "head_s": head}, "largest_process_gb": memory},
    }
    write_json(RESULTS / "feature_cache.json", {**result, **environment()})
    print(f"{len(some)} slices, {arguments.epochs} epochs: {found['through the network']:.1f} s through the network, ")
    print(f"{found['cached']:.1f} s with stored features, computing them included: {ratio:.1f}x")
    print(f"All {len(labels):,} slices: features {whole:.0f} s, then a head in {head:.0f} s; {memory:.1f} GB at most")


if __name__ == "__main__":
    main()
