"""The network of a run as one ONNX graph, checked against torch."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tumorscope.config import Recipe
from tumorscope.inference.classifier import calibrated
from tumorscope.training.network import SliceNetwork

#: Slices that graph and network are compared on.
CHECKED = 200


class Exported(nn.Module):
    """Network and mirror average as one graph: grey float (n, 1, s, s) in 0..255 to logits, maps and embeddings."""

    def __init__(self, module: SliceNetwork, mirror_average: bool) -> None:
        super().__init__()
        self.module, self.mirror_average = module, mirror_average

    def forward(self, slices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, classes), maps (n, classes, h, w), embeddings (n, d) of the slice as it lies."""
        logits, maps, embedding = self._one(slices)
        if self.mirror_average:
            mirrored, turned, _ = self._one(slices.flip(3))
            logits = ((logits.softmax(1) + mirrored.softmax(1)) / 2).clamp_min(1e-12).log()
            maps = (maps + turned.flip(3)) / 2
        return logits, maps, embedding

    def _one(self, slices: Tensor) -> Any:
        network: Any = self.module.network
        return network.explained(self.module.scale(slices))


def to_onnx(module: SliceNetwork, recipe: Recipe) -> bytes:
    """The graph as bytes of an ONNX file, batch of any size."""
    import contextlib
    import tempfile
    import warnings

    example = torch.zeros(2, 1, recipe.input.size, recipe.input.size)
    whole = Exported(module, recipe.training.mirror_average).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            whole,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=65536)},),
            input_names=["slices"],
            output_names=["logits", "maps", "embeddings"],
        )
        assert program is not None
        program.save(str(Path(folder) / "model.onnx"), include_initializers=True, external_data=False)
        return _without_notes((Path(folder) / "model.onnx").read_bytes())


def _without_notes(graph: bytes) -> bytes:
    """The graph without the exporter's notes, which name files of the machine that it was made on."""
    import onnx

    model = onnx.load_model_from_string(graph)
    whole = model.graph
    for part in (model, whole, *whole.node, *whole.input, *whole.output, *whole.value_info, *whole.initializer):
        for note in ("metadata_props", "doc_string"):
            part.ClearField(note)
    return bytes(model.SerializeToString())


def largest_difference(graph: bytes, module: SliceNetwork, recipe: Recipe, images: np.ndarray) -> float:
    """Between probabilities of graph and network on real slices spread over the set."""
    import onnxruntime

    rows = np.unique(np.linspace(0, len(images) - 1, CHECKED).astype(int))
    some = np.array(images[rows], np.float32)[:, None]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"slices": some})[0]
    with torch.inference_mode():
        ours = Exported(module, recipe.training.mirror_average)(torch.from_numpy(some))[0].softmax(1).numpy()
    return float(np.abs(calibrated(logits) - ours).max())
