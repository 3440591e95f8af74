"""bfloat16 in the middle, 32 bits where it counts: what is learnt, what is stored, and what a stop leaves behind."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tests.training.tiny_set import everything, tiny_catalogue

from tumorscope.training.runs import train_runs

BF16 = {"training__precision": "bf16", "early_stopping__patience": 0}


def train(folder, changes=BF16, **options):
    (run,) = train_runs(
        everything(**changes), tiny_catalogue(folder), "official", [3], runs=folder, workers=1, **options
    )
    return run


@pytest.mark.slow
def test_mixed_precision_learns_and_stores_weights_of_32_bits(tmp_path, capfd):
    longer = {**BF16, "training__epochs": 20, "model__dropout": 0.0, "augment__rotate": 0.0}
    run = train(tmp_path / "half", longer)
    assert "precision" not in "".join(capfd.readouterr()).lower(), "every fold would say so"
    weights = load_file(run / "fold-0" / "weights.safetensors")
    assert {one.dtype for one in weights.values() if one.is_floating_point()} == {torch.float32}
    exact = train(tmp_path / "whole", {**longer, "training__precision": "32"})
    other = load_file(exact / "fold-0" / "weights.safetensors")
    assert any((weights[name] != other[name]).any() for name in weights), "nothing was computed in fewer bits"
    half, whole = (pd.read_csv(one / "fold-0" / "history.csv")["train_loss"].tolist() for one in (run, exact))
    assert whole[-1] < 0.6 * whole[0], "nothing was learnt to compare with"
    assert half[-1] == pytest.approx(whole[-1], rel=0.05)


@pytest.mark.slow
def test_mixed_precision_goes_on_with_the_same_bits(tmp_path):
    def stop(event):
        if not event.finished and event.row["epoch"] == 2:
            raise KeyboardInterrupt

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", report=stop)
    run = train(tmp_path / "stopped", resume=True)
    one, other = (load_file(one / "fold-0" / "weights.safetensors") for one in (whole, run))
    assert all(np.array_equal(one[name], other[name]) for name in one)
