"""From finished runs to a model package: the graph, checked against torch on real slices; calibration, limits and the card."""

import datetime
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tumorscope import __version__
from tumorscope.config import Recipe, load_recipe
from tumorscope.data.cache import input_pixels, pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import InputRejected, RunMismatch
from tumorscope.evaluation.evaluate import comparison_rows, evaluate_run
from tumorscope.evaluation.scores import calibration_error
from tumorscope.inference.classifier import calibrated
from tumorscope.inference.gate import LOOK, Likeness, layout, measures
from tumorscope.labels import CLASSES, INDEX
from tumorscope.models.heads import POOLING
from tumorscope.package.card import FORMAT, write_package
from tumorscope.package.model_card import model_card
from tumorscope.protocols import ALL
from tumorscope.training.fold import PROBABILITIES
from tumorscope.training.network import SliceNetwork, load_network
from tumorscope.training.runs import environment, facts_of, read_predictions

#: Error rate of prediction sets, and shares of genuine slices that the gate may refuse and warn of, over all its limits.
ERROR_RATE, REFUSED, WARNED = 0.10, 0.01, 0.05
#: Largest difference of probabilities between graph and network, and slices that it is checked on.
TOLERANCE, CHECKED = 1e-4, 200
CLASS_MAPS = {"compact_cnn": "activation", "region_unet": "regions", "backbone": "activation"}


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


def export_run(
    run: Path,
    scored: Sequence[Path],
    catalogue: Catalogue,
    out: Path,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Make a package of `run` (one fold, as under protocol `all`) in the folder `out` and beside it as one file; its path.

    scored : runs of the same recipe, among them patient-cv ones, whose held-out predictions give scores, temperature,
    prediction sets and the gate's limits

    Raises `RunMismatch` where the runs do not belong together, `InputRejected` where graph and network differ.
    """
    recipe, facts = load_recipe(run / "recipe.toml"), facts_of(run, catalogue)
    cv = _check(run, recipe, facts, scored, catalogue)
    module = load_network(run / "fold-0", recipe)
    images = input_pixels(catalogue, recipe.input)
    labels = catalogue.table["label"].map(INDEX).to_numpy()
    say("Writing the graph and checking it on real slices")
    graph = to_onnx(module, recipe)
    difference = largest_difference(graph, module, recipe, images)
    if not difference <= TOLERANCE:
        raise InputRejected("graph", f"{difference:g}", f"at most {TOLERANCE:g} from torch", "Report this as a bug.")
    say("Measuring slices for the gate")
    trained = _rows(facts, catalogue)
    layouts = np.stack([layout(head) for head in pixels(catalogue, LOOK, crop="head")])
    known = {
        "embeddings": statistics(embeddings_of(module, recipe, images[trained]), labels[trained]),
        "layouts": statistics(layouts[trained], labels[trained]),
    }
    held = _held_out(cv[0], recipe, catalogue, images, layouts, labels)
    predictions = pd.concat([read_predictions(one) for one in cv], ignore_index=True)
    card = {
        "format": FORMAT,
        "name": recipe.name,
        "title": recipe.title,
        "version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "labels": list(CLASSES),
        "input": {
            **{name: getattr(recipe.input, name) for name in ("size", "crop", "enlarged_from", "filter")},
            **{"range": [0, 255], "colour": "grey"},
        },
        "map": CLASS_MAPS[recipe.model.name],
        "graph_difference": difference,
        **_calibration(predictions[predictions["part"] == "test"]),
        "gate": _limits(catalogue, trained, held),
        "scores": _scores(scored),
        "data": {"name": catalogue.name, "digest": catalogue.digest, "slices": len(trained), "pictures": len(trained)},
        "recipe": recipe.model_dump(mode="json"),
        "environment": environment(),
        "licence": "Apache-2.0",
    }
    content = json.dumps(card, indent=2).encode()
    statistics_file = io.BytesIO()
    clouds = {
        f"{name}_{what}": getattr(cloud, what) for name, cloud in known.items() for what in ("centres", "precision")
    }
    np.savez(statistics_file, **{name: values.astype(np.float32) for name, values in clouds.items()})
    parts = {"model.onnx": graph, "card.json": content, "gate.npz": statistics_file.getvalue()}
    return write_package(out, {**parts, "MODEL_CARD.md": model_card(card).encode()})


def _check(
    run: Path, recipe: Recipe, facts: dict[str, Any], scored: Sequence[Path], catalogue: Catalogue
) -> list[Path]:
    """The patient-cv runs among `scored`, after everything is known to belong together."""
    backbone = recipe.model.backbone
    if recipe.model.name not in CLASS_MAPS or (backbone and backbone.head not in POOLING):
        kind = f"a {backbone.head} head" if backbone else recipe.model.name
        raise RunMismatch(
            f"{run}: {kind} has no map; a package is made of compact_cnn, region_unet or a backbone with a "
            f"{' or '.join(sorted(POOLING))} head."
        )
    if recipe.pixels_of_fold:
        raise RunMismatch(
            f"{run}: its slices are made by another network (super-resolution, regions), which a package does not hold."
        )
    if len(facts["folds"]) != 1:
        raise RunMismatch(f"{run}: {len(facts['folds'])} models; train one with --protocol {ALL}.")
    cv = []
    for one in scored:
        other = json.loads((one / "environment.json").read_text())
        mine = Recipe.model_validate(other["recipe"]).model_copy(update={"name": "", "title": ""})
        if mine != recipe.model_copy(update={"name": "", "title": ""}):
            raise RunMismatch(f"{one}: another recipe than {run}; its scores would not be this model's.")
        if other["protocol"] == "patient-cv" and other["data"]["digest"] == catalogue.digest:
            cv.append(one)
    if not cv:
        raise RunMismatch(
            f"{run}: no patient-cv run of the same recipe among --scores; without one nothing is known of a new patient. "
            f"Train it with tumorscope train {run / 'recipe.toml'} --protocol patient-cv"
        )
    return cv


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
    return float(np.abs(calibrated(logits, 1.0) - ours).max())


def embeddings_of(module: SliceNetwork, recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """Float64 (n, d) of uint8 (n, s, s)."""
    whole = Exported(module, False)
    with torch.inference_mode():
        made = [whole(torch.from_numpy(np.array(part, np.float32)[:, None]))[2] for part in _chunks(images)]
    return torch.cat(made).double().numpy()


def _chunks(images: np.ndarray, size: int = 256) -> list[np.ndarray]:
    return [images[start : start + size] for start in range(0, len(images), size)]


def statistics(values: np.ndarray, labels: np.ndarray) -> Likeness:
    """Centre of each class, and the inverse of the shrunk covariance within classes (Ledoit and Wolf 2004), of values (n, d)."""
    from sklearn.covariance import LedoitWolf

    centres = np.stack([values[labels == k].mean(axis=0) for k in range(len(CLASSES))])
    return Likeness(centres, LedoitWolf(assume_centered=True).fit(values - centres[labels]).precision_)


def _rows(facts: dict[str, Any], catalogue: Catalogue) -> np.ndarray:
    from tumorscope.protocols import folds

    return folds(facts["protocol"], catalogue.table, facts["seed"])[0].train


def _held_out(
    run: Path, recipe: Recipe, catalogue: Catalogue, images: np.ndarray, layouts: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Distances of every fold's test slices from its training slices, in its own network's embedding and in layout."""
    from tumorscope.protocols import folds

    facts = json.loads((run / "environment.json").read_text())
    found: dict[str, list[np.ndarray]] = {"distance": [], "layout": []}
    for fold in folds("patient-cv", catalogue.table, facts["seed"]):
        module = load_network(run / f"fold-{fold.index}", recipe)
        train, test = (embeddings_of(module, recipe, images[rows]) for rows in (fold.train, fold.test))
        found["distance"].append(statistics(train, labels[fold.train]).distances(test))
        found["layout"].append(statistics(layouts[fold.train], labels[fold.train]).distances(layouts[fold.test]))
    return {name: np.concatenate(several) for name, several in found.items()}


def _limits(catalogue: Catalogue, rows: np.ndarray, held: dict[str, np.ndarray]) -> dict[str, Any]:
    """Limits that together refuse at most `REFUSED` of genuine slices, and warn of `WARNED`; a little room beyond."""
    from tumorscope.data.decode import crop_to_head, decode

    source = catalogue.source()
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), 1500)).astype(int)]
    table = pd.DataFrame(
        [measures(crop_to_head(decode(source.read(catalogue.table["path"][row])).grey)) for row in some]
    )
    # Layout, which tells most strangers, has half of what may be refused; the other limits have equal parts of the rest.
    others = 2 * len(table.columns) + len(held) - 1
    part = {"layout": 0.5}
    refuse, warn = REFUSED * 0.5 / others, WARNED * 0.5 / others
    bounds = {}
    for name, values in table.items():
        room = 0.1 * (values.quantile(0.99) - values.quantile(0.01))
        bounds[name] = {
            "refuse": [float(values.quantile(refuse) - room), float(values.quantile(1 - refuse) + room)],
            "warn": [float(values.quantile(warn)), float(values.quantile(1 - warn))],
        }
    away = {
        name: {
            what: float(np.quantile(values, 1 - share * part.get(name, 0.5 / others)))
            for what, share in (("refuse", REFUSED), ("warn", WARNED))
        }
        for name, values in held.items()
    }
    return {
        "measures": bounds,
        **away,
        "slices": len(table),
        "refused_share": REFUSED,
        "warned_share": WARNED,
    }


def _calibration(held: pd.DataFrame) -> dict[str, Any]:
    """Temperature and conformal thresholds of out-of-fold predictions, and how they do on folds that they were not set on."""
    logits = np.log(held[PROBABILITIES].to_numpy().clip(1e-12))
    truth, fold = held["label"].map(INDEX).to_numpy(), held["fold"].to_numpy()
    errors, inside, sizes = [], np.zeros(len(held), bool), np.zeros(len(held))
    crossed = np.zeros_like(logits)
    for one in np.unique(fold):
        rest, mine = fold != one, fold == one
        heat = fit_temperature(logits[rest], truth[rest])
        limits = np.array(list(thresholds(calibrated(logits[rest], heat), truth[rest]).values()))
        crossed[mine] = calibrated(logits[mine], heat)
        sets = 1 - crossed[mine] <= limits
        inside[mine], sizes[mine] = sets[np.arange(mine.sum()), truth[mine]], sets.sum(axis=1)
        errors.append(heat)
    temperature = fit_temperature(logits, truth)
    return {
        "temperature": temperature,
        "calibration": {
            "expected_calibration_error": _error_of(crossed, truth),
            "uncalibrated": _error_of(calibrated(logits, 1.0), truth),
            "temperatures_of_folds": errors,
        },
        "conformal": {
            "error_rate": ERROR_RATE,
            "thresholds": thresholds(calibrated(logits, temperature), truth),
            "coverage": {name: float(inside[truth == k].mean()) for k, name in enumerate(CLASSES)},
            "mean_size": float(sizes.mean()),
        },
    }


def _error_of(chances: np.ndarray, truth: np.ndarray) -> float:
    return calibration_error(chances.max(axis=1), chances.argmax(axis=1) == truth)


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature with the least negative log-likelihood of the true classes."""
    from scipy.optimize import minimize_scalar

    def loss(log_heat: float) -> float:
        chances = calibrated(logits, float(np.exp(log_heat)))
        return -float(np.log(chances[np.arange(len(truth)), truth].clip(1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def thresholds(chances: np.ndarray, truth: np.ndarray, error_rate: float = ERROR_RATE) -> dict[str, float]:
    """By class, the score 1 - p below which it stays in the set: the ceil((n + 1)(1 - rate))-th smallest of its n slices."""
    found = {}
    for k, name in enumerate(CLASSES):
        scores = np.sort(1 - chances[truth == k, k])
        rank = int(np.ceil((len(scores) + 1) * (1 - error_rate)))
        found[name] = float(scores[rank - 1]) if rank <= len(scores) else 1.0
    return found


def _scores(scored: Sequence[Path]) -> list[dict[str, Any]]:
    """Test scores under each protocol with intervals, the memoriser's beside them."""
    rows = [row for row in comparison_rows(scored) if row["part"] == "test"]
    kept = ("accuracy", "balanced_accuracy", "f1_weighted", "presence_auc", "type_balanced_accuracy")
    found = []
    for row in rows:
        missed = [
            float((tumours["p_notumor"] >= tumours[PROBABILITIES].max(axis=1)).mean())
            for run in scored
            if evaluate_run(run)["protocol"] == row["protocol"]
            for tumours in [_test_tumours(run)]
            if len(tumours)
        ]
        line = {
            name: row[name] for name in ("protocol", "seeds", "slices", "pictures", "patients", "memoriser_accuracy")
        }
        for name in kept:
            line |= {
                name: row[f"{name}_mean"],
                f"{name}_low": row.get(f"{name}_low"),
                f"{name}_high": row.get(f"{name}_high"),
            }
        found.append({**line, "missed_tumours": float(np.mean(missed)) if missed else None})
    return found


def _test_tumours(run: Path) -> pd.DataFrame:
    predictions = read_predictions(run)
    return predictions[(predictions["part"] == "test") & (predictions["label"] != "notumor")]
