"""What the gate lets through, and what artefacts do to answers: benchmarks/results/gate.json and gate.svg.

python benchmarks/gate.py --data ARCHIVE --run PATIENT_CV_RUN [--model PACKAGE] [--slices N]

Part one asks the package about what is no axial, coronal or sagittal brain slice as it should lie: photographs and textures that
come with scikit-image, noise, text, a plot, drawn cross-sections of other body parts, and genuine slices turned, inverted or cut.
Part two puts MR artefacts of TorchIO (pip install 'tumorscope[benchmarks]') in five strengths into test slices of --run, and
scores the network of the fold that had not seen them; the gate's answer is the package's. Slices are taken at 128x128.
"""

import argparse
import importlib.metadata
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

import tumorscope as ts
from tumorscope.data.cache import pixels
from tumorscope.data.decode import as_input, crop_to_head, decode, shrink
from tumorscope.evaluation.figures import WIDTH, encoded, styled
from tumorscope.files import write_bytes, write_json
from tumorscope.labels import CLASSES, INDEX
from tumorscope.training.identity import environment
from tumorscope.training.loop import predict
from tumorscope.training.network import load_network
from tumorscope.training.runs import read_predictions

RESULTS = Path(__file__).parent / "results"
SIDE = 128
Change = Callable[[np.ndarray, int], np.ndarray]
STRENGTHS = (1, 2, 3, 4, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--run", type=Path, required=True, help="patient-cv run of the package's recipe.")
    parser.add_argument("--model", default=None, help="Model package; the shipped one by default.")
    parser.add_argument("--slices", type=int, default=300)
    arguments = parser.parse_args()
    catalogue = ts.load_catalogue(arguments.data)
    table = read_predictions(arguments.run)
    table = table[table["part"] == "test"].reset_index(drop=True)
    table = table.iloc[np.unique(np.linspace(0, len(table) - 1, arguments.slices).astype(int))]
    rows = table["path"].map({path: row for row, path in enumerate(catalogue.table["path"])}).to_numpy()
    slices = np.array(pixels(catalogue, SIDE)[rows])
    classifier = ts.Classifier.load(arguments.model)
    strangers = [asked(classifier, name, several) for name, several in others(slices).items()]
    for row in strangers:
        print(row, flush=True)
    artefacts = []
    networks = {
        fold: load_network(arguments.run / f"fold-{fold}", recipe_of(arguments.run)) for fold in table["fold"].unique()
    }
    for name, change in {"none": lambda one, _: one, **changes()}.items():
        for strength in STRENGTHS if name != "none" else (0,):
            changed = np.stack([change(one, strength) for one in slices])
            chances = answers(networks, recipe_of(arguments.run), changed, table["fold"].to_numpy())
            row = {"artefact": name, "strength": strength, **scores(chances, table["label"].map(INDEX).to_numpy())}
            artefacts.append({**row, **asked(classifier, name, list(changed))})
            print(artefacts[-1], flush=True)
    found = {"slices": len(slices), "other than slices": strangers, "artefacts": artefacts}
    versions = {name: importlib.metadata.version(name) for name in ("torchio", "scikit-image")}
    write_json(RESULTS / "gate.json", {**found, "benchmark versions": versions, **environment()})
    write_bytes(RESULTS / "gate.svg", encoded(drawn(artefacts), "svg"))


def recipe_of(run: Path) -> Any:
    return ts.load_recipe(run / "recipe.toml")


def asked(classifier: Any, what: str, several: list[np.ndarray]) -> dict[str, Any]:
    """Shares of pictures by what the package answers."""
    count = Counter(one.status for one in classifier.predict([encoded_png(one) for one in several]))
    return {
        "what": what,
        "n": len(several),
        **{name: count[name] / len(several) for name in ("accepted", "warned", "refused")},
    }


def encoded_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def others(slices: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Pictures that are no slices, or slices that lie otherwise, by what they are."""
    random = np.random.default_rng(0)
    photographs = [decode(file.read_bytes()).grey for file in _photographs()]
    return {
        "photographs and textures, grey": photographs,
        "the same as they are": [np.asarray(Image.open(file).convert("RGB")) for file in _photographs()],
        "noise": [random.integers(0, 256, (SIDE, SIDE)).astype(np.uint8) for _ in range(20)],
        "smooth noise": [_smooth(random, reach) for reach in (4, 8, 16, 32) for _ in range(5)],
        "text": [_text(random) for _ in range(20)],
        "plots": [_plot(random) for _ in range(10)],
        "other body parts, drawn": [draw(random) for draw in (_abdomen, _thorax, _legs, _knee) for _ in range(10)],
        "discs and ellipses": [_disc(random) for _ in range(20)],
        "turned by 90 degrees": [np.ascontiguousarray(np.rot90(one)) for one in slices],
        "upside down": [np.ascontiguousarray(one[::-1]) for one in slices],
        "mirrored (as good as genuine)": [np.ascontiguousarray(one[:, ::-1]) for one in slices],
        "inverted": [255 - one for one in slices],
        "upper half": [np.ascontiguousarray(one[: SIDE // 2]) for one in slices],
        "quarter": [np.ascontiguousarray(one[SIDE // 4 : SIDE * 3 // 4, SIDE // 4 : SIDE * 3 // 4]) for one in slices],
        "patches mixed": [_mixed(one, random) for one in slices],
        "genuine": list(slices),
    }


def _photographs() -> list[Path]:
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    # No brain among them: phantom.png is the Shepp-Logan head.
    names = sorted(item for item in folder.iterdir() if item.suffix in (".png", ".jpg") and item.stem != "phantom")
    return names


def _smooth(random: np.random.Generator, reach: int) -> np.ndarray:
    coarse = random.integers(0, 256, (reach, reach)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _text(random: np.random.Generator) -> np.ndarray:
    page = Image.new("L", (256, 256), 255)
    draw = ImageDraw.Draw(page)
    for line in range(8, 250, 14):
        draw.text((8, line), "".join(random.choice(list("abcdefghij klmnopqrst uvwxyz"), 40)), fill=0)
    return np.asarray(page)


def _plot(random: np.random.Generator) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = Figure(figsize=(3, 3))
    figure.subplots().plot(random.normal(size=50).cumsum())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("L"))


def _ellipse(canvas: np.ndarray, centre: tuple[float, float], radii: tuple[float, float], grey: float) -> None:
    axis = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    inside = ((axis[:, None] - centre[0]) / radii[0]) ** 2 + ((axis[None] - centre[1]) / radii[1]) ** 2 < 1
    canvas[inside] = grey


def _finished(canvas: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return (canvas + random.normal(0, 6, canvas.shape)).clip(0, 255).astype(np.uint8)


def _abdomen(random: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((SIDE, SIDE))
    for centre, radii, grey in (
        *(((0.0, 0.0), (0.6, 0.92), 200.0), ((0.0, 0.0), (0.5, 0.82), 90.0), ((0.35, 0.0), (0.14, 0.14), 150.0)),
        *(((-0.05, -0.4), (0.3, 0.32), 130.0), ((0.1, 0.5), (0.16, 0.12), 160.0), ((0.1, -0.1), (0.1, 0.16), 60.0)),
    ):
        _ellipse(canvas, centre, radii, grey * random.uniform(0.8, 1.2))
    return _finished(canvas, random)


def _thorax(random: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((SIDE, SIDE))
    for centre, radii, grey in (
        *(((0.0, 0.0), (0.62, 0.95), 170.0), ((0.0, -0.42), (0.42, 0.3), 15.0), ((0.0, 0.42), (0.42, 0.3), 15.0)),
        *(((0.1, 0.08), (0.25, 0.22), 120.0), ((0.45, 0.0), (0.12, 0.12), 190.0)),
    ):
        _ellipse(canvas, centre, radii, grey * random.uniform(0.8, 1.2))
    return _finished(canvas, random)


def _legs(random: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((SIDE, SIDE))
    for side in (-0.48, 0.48):
        for radius, grey in ((0.42, 190.0), (0.36, 100.0), (0.1, 20.0), (0.06, 210.0)):
            _ellipse(canvas, (0.0, side), (radius, radius), grey * random.uniform(0.8, 1.2))
    return _finished(canvas, random)


def _knee(random: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((SIDE, SIDE))
    canvas[:, SIDE // 5 : SIDE * 4 // 5] = 90
    for centre, radii, grey in (
        ((-0.55, 0.0), (0.5, 0.3), 180.0),
        ((0.6, 0.0), (0.5, 0.28), 170.0),
        ((-0.1, 0.45), (0.2, 0.1), 150.0),
    ):
        _ellipse(canvas, centre, radii, grey * random.uniform(0.8, 1.2))
    return _finished(canvas, random)


def _disc(random: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((SIDE, SIDE))
    _ellipse(canvas, (0.0, 0.0), tuple(random.uniform(0.6, 0.95, 2)), random.uniform(80, 250))
    return _finished(canvas, random)


def _mixed(one: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The slice's sixteenths in another order."""
    step = SIDE // 4
    parts = [one[i : i + step, j : j + step] for i in range(0, SIDE, step) for j in range(0, SIDE, step)]
    order = random.permutation(len(parts))
    return np.vstack([np.hstack([parts[order[4 * row + column]] for column in range(4)]) for row in range(4)])


def changes() -> dict[str, Change]:
    """TorchIO's artefacts by name, from strength 1, which one sees, to 5, which one would scan again."""

    def through(make: Callable[[float], Any]) -> Change:
        def change(one: np.ndarray, strength: int) -> np.ndarray:
            torch.manual_seed(int(one.astype(np.int64).sum()) + strength)
            image = torchio.ScalarImage(tensor=torch.from_numpy(one.astype(np.float32))[None, :, :, None])
            made = make(float(strength))(torchio.Subject(image=image))["image"].data[0, :, :, 0].numpy()
            return np.nan_to_num(made).clip(0, 255).round().astype(np.uint8)

        return change

    return {
        "motion": through(
            lambda s: torchio.RandomMotion(degrees=(2 * s, 2 * s), translation=(1.5 * s, 1.5 * s), num_transforms=2)
        ),
        "ghosting": through(
            lambda s: torchio.RandomGhosting(num_ghosts=(4, 4), axes=(0, 1), intensity=(0.2 * s, 0.2 * s))
        ),
        "spike": through(lambda s: torchio.RandomSpike(num_spikes=1, intensity=(0.1 * s, 0.1 * s))),
        "bias field": through(lambda s: torchio.RandomBiasField(coefficients=(0.15 * s, 0.15 * s))),
        "blur": through(lambda s: torchio.RandomBlur(std=(0.5 * s, 0.5 * s, 0.5 * s, 0.5 * s, 0, 0))),
        "noise": through(lambda s: torchio.RandomNoise(mean=0, std=(8 * s, 8 * s))),
        "downsampling": lambda one, s: shrink(shrink(one, SIDE // (1 + s)), SIDE),
    }


def answers(networks: dict[int, Any], recipe: Any, images: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Probabilities (n, classes) of each slice by the network of its fold."""
    seen = [crop_to_head(one) if recipe.input.crop == "head" else one for one in images]
    ready = torch.from_numpy(np.stack([as_input(one, recipe.input.size) for one in seen])[:, None])
    chances = np.empty((len(images), len(CLASSES)))
    for number, module in networks.items():
        rows = np.flatnonzero(fold == number)
        chances[rows] = predict(module, ready[rows], recipe.training.mirror_average).numpy()
    return chances


def scores(chances: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    right = chances.argmax(1) == labels
    free = labels == INDEX["notumor"]
    called_free = chances.argmax(1) == INDEX["notumor"]
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean([right[labels == k].mean() for k in np.unique(labels)])),
        "tumours_missed": float(called_free[~free].mean()),
        "false_alarms": float((~called_free)[free].mean()),
    }


@styled
def drawn(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(WIDTH * 1.8, 3.4))
    score, gate = figure.subplots(1, 2, sharex=True)
    start = rows[0]
    for number, name in enumerate(dict.fromkeys(row["artefact"] for row in rows[1:])):
        part = [start, *(row for row in rows if row["artefact"] == name)]
        style = {"marker": "osv^Dxp"[number], "markersize": 4, "label": name}
        score.plot([row["strength"] for row in part], [row["balanced_accuracy"] for row in part], **style)
        gate.plot([row["strength"] for row in part], [row["warned"] + row["refused"] for row in part], **style)
    score.set_ylabel("balanced accuracy, new patients")
    gate.set_ylabel("share warned of or refused")
    for axes in (score, gate):
        axes.set_xlabel("strength")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.25)
    figure.legend(*score.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    main()
