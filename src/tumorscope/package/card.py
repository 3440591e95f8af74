"""A model package: one ONNX graph, its card, the gate's statistics and a model card for people, each with its sha256.

A package is a folder or a zip of it. Nothing in it can run code: ONNX, JSON, Markdown, and arrays without pickle. Loading
verifies every hash and the contract between card and graph, and refuses what is not as it was made.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from tumorscope.data.decode import CACHE_SIDES
from tumorscope.errors import DataNotFound, PackageMismatch
from tumorscope.files import write_bytes
from tumorscope.inference.gate import LAYOUT, WORDS, Likeness
from tumorscope.labels import CLASSES

PARTS = ("model.onnx", "card.json", "gate.npz", "MODEL_CARD.md")
SUMS = "SHA256SUMS"
#: Of a package; a small network is a hundredth of it.
MAX_BYTES = 512 * 2**20
FORMAT = 4
AGAIN = "Make the package again with tumorscope export."


def _number(value: Any) -> bool:
    # An integer of JSON may be larger than any float.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _numbers(count: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) == count and all(map(_number, value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


_BOUNDS = {"refuse": _numbers(2), "warn": _numbers(2)}
_LIMITS = {"refuse": _number, "warn": _number}
#: What answers are made with: the keys that a card must have, and what each holds.
CONTRACT: dict[str, Any] = {
    "name": _text,
    "input": {
        "size": lambda value: type(value) is int and CACHE_SIDES[0] <= value <= CACHE_SIDES[1],
        "crop": lambda value: value in ("none", "head"),
        "enlarged_from": lambda value: type(value) is int and (value == 0 or CACHE_SIDES[0] <= value <= CACHE_SIDES[1]),
        "filter": lambda value: value in ("nearest", "bilinear", "bicubic", "lanczos"),
    },
    "map": lambda value: value in ("activation", "regions"),
    "temperature": lambda value: _number(value) and value > 0,
    "offsets": dict.fromkeys(CLASSES, _number),
    "conformal": {"error_rate": _number, "rates": lambda value: isinstance(value, dict)},
    "gate": {
        "measures": dict.fromkeys(WORDS, _BOUNDS),
        "layout": _LIMITS,
        "distance": _LIMITS,
        "turned": _number,
        "ghosting": _number,
    },
    "data": {"digest": _text},
}
#: Of each error rate.
RATE: dict[str, Any] = {"thresholds": dict.fromkeys(CLASSES, _number)}


@dataclass(frozen=True)
class Package:
    """A verified package. card : card.json; graph : bytes of model.onnx; embeddings, layouts : of training slices.

    sha256 : of its list of sums, and so of everything in it
    """

    card: dict[str, Any]
    graph: bytes
    embeddings: Likeness
    layouts: Likeness
    model_card: str
    sha256: str

    def check_graph(self, takes: Mapping[str, Sequence[Any]], gives: Mapping[str, Sequence[Any]]) -> None:
        """Raise `PackageMismatch` unless the graph takes and gives what the card says; shapes by name, batches of any size."""
        size, classes = self.card["input"]["size"], len(self.card["labels"])
        needed = {
            **{"slices": [1, size, size], "logits": [classes], "maps": [classes, "h", "w"]},
            "embeddings": [self.embeddings.centres.shape[1]],
        }
        found = {**takes, **gives}
        if set(takes) != {"slices"} or set(found) != set(needed):
            raise PackageMismatch(
                f"card and graph differ: the graph takes {', '.join(takes)} and gives {', '.join(gives)}; slices, and logits, "
                f"maps and embeddings are needed. {AGAIN}"
            )
        for name, sides in needed.items():
            fits = len(found[name]) == 1 + len(sides) and not isinstance(found[name][0], int)
            if not fits or any(isinstance(a, int) and a != b for a, b in zip(sides, found[name][1:], strict=True)):
                said, there = ("x".join(map(str, shape)) for shape in (["n", *sides], found[name]))
                raise PackageMismatch(
                    f"card and graph differ: {name} of {said} by the card, {there} in the graph. {AGAIN}"
                )


def write_package(folder: Path, parts: Mapping[str, bytes]) -> Path:
    """Write the parts and their sums into `folder`, and beside it the same as one file; the file's path."""
    sums = "".join(f"{hashlib.sha256(parts[name]).hexdigest()}  {name}\n" for name in PARTS)
    for name, content in (*parts.items(), (SUMS, sums.encode())):
        write_bytes(folder / name, content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (*PARTS, SUMS):
            # A fixed time, so that the same parts make the same file.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), (folder / name).read_bytes())
    target = folder.with_name(f"{folder.name}.tumorscope")
    write_bytes(target, buffer.getvalue())
    return target


def load_package(path: str | Path | None = None) -> Package:
    """The package at `path`, a folder or a single file, the shipped one where None.

    Raises `DataNotFound` where there is none, `PackageMismatch` where a part is missing or not as it was made.
    """
    parts = _shipped() if path is None else _parts(Path(path).expanduser())
    if set(parts) != {*PARTS, SUMS}:
        missing = sorted({*PARTS, SUMS} - set(parts)) or sorted(set(parts) - {*PARTS, SUMS})
        raise PackageMismatch(f"{path or 'shipped package'}: {', '.join(missing)} missing or not known. Make it again.")
    said = dict(
        line.split("  ", 1)[::-1] for line in parts[SUMS].decode("utf-8", "replace").splitlines() if "  " in line
    )
    for name in PARTS:
        if hashlib.sha256(parts[name]).hexdigest() != said.get(name):
            raise PackageMismatch(f"{path or 'shipped package'}: {name} is not as it was made. Fetch or make it again.")
    card = _card(parts["card.json"], path or "shipped package")
    digest = hashlib.sha256(parts[SUMS]).hexdigest()
    embeddings, layouts = _clouds(parts["gate.npz"], path or "shipped package")
    return Package(
        card, parts["model.onnx"], embeddings, layouts, parts["MODEL_CARD.md"].decode("utf-8", "replace"), digest
    )


def _card(content: bytes, name: str | Path) -> dict[str, Any]:
    """card.json with everything that answers are made with; raises `PackageMismatch` with the first thing that is wrong."""
    try:
        card = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PackageMismatch(f"{name}: card.json: {error}; no JSON. Fetch or make it again.") from error
    if not isinstance(card, dict):
        raise PackageMismatch(f"{name}: card.json holds a {type(card).__name__}; an object is needed. {AGAIN}")
    if card.get("format") != FORMAT or card.get("labels") != list(CLASSES):
        raise PackageMismatch(
            f"{name}: format {card.get('format')} with labels {card.get('labels')}; format {FORMAT} "
            f"with {', '.join(CLASSES)} is needed. Make it again with this version."
        )
    wrong = _wrong(card, CONTRACT)
    if not wrong:
        rates = card["conformal"]["rates"]
        usual = f"{card['conformal']['error_rate']:g}"
        wrong = _wrong(rates, dict.fromkeys((usual, *rates), RATE), "conformal.rates")
    if wrong:
        raise PackageMismatch(f"{name}: card.json: {wrong}. {AGAIN}")
    return card


def _wrong(value: Any, needed: Any, place: str = "") -> str:
    """The first thing in `value` that is not as `needed`, a check or a mapping of them; "" where all is."""
    if not isinstance(needed, Mapping):
        return "" if needed(value) else f"{place} cannot be {value!r:.60}"
    if not isinstance(value, Mapping):
        return f"{place} cannot be {value!r:.60}"
    for name, inner in needed.items():
        inside = f"{place}.{name}".lstrip(".")
        if name not in value:
            return f"{inside} is missing"
        if wrong := _wrong(value[name], inner, inside):
            return wrong
    return ""


def _clouds(content: bytes, name: str | Path) -> tuple[Likeness, Likeness]:
    """Embeddings and layouts of training slices in gate.npz; raises `PackageMismatch` where they are not there."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            embeddings, layouts = (
                Likeness(*(arrays[f"{what}_{part}"].astype(np.float64) for part in ("centres", "precision")))
                for what in ("embeddings", "layouts")
            )
    except Exception as error:  # numpy and zipfile raise seven kinds
        raise PackageMismatch(f"{name}: gate.npz: {error}; not the gate's arrays. {AGAIN}") from error
    for cloud, sides in ((embeddings, embeddings.centres.shape[-1:]), (layouts, (LAYOUT**2,))):
        fits = cloud.centres.ndim == 2 and cloud.centres.shape[1:] == sides and cloud.precision.shape == sides * 2
        if (
            not fits
            or not len(cloud.centres)
            or not all(np.isfinite(a).all() for a in (cloud.centres, cloud.precision))
        ):
            shapes = f"{cloud.centres.shape} and {cloud.precision.shape}"
            raise PackageMismatch(f"{name}: gate.npz: {shapes}; finite (classes, d) and (d, d) are needed. {AGAIN}")
    return embeddings, layouts


def _shipped() -> dict[str, bytes]:
    folder = resources.files("tumorscope") / "package" / "shipped"
    if not folder.is_dir():
        raise DataNotFound("No model comes with this installation. Give one with --model PACKAGE.")
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}


def _parts(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        files = [item for item in path.iterdir() if item.is_file()]
        if sum(item.stat().st_size for item in files) > MAX_BYTES:
            raise PackageMismatch(f"{path}: more than {MAX_BYTES:,} bytes; not a model package.")
        return {item.name: item.read_bytes() for item in files}
    if not path.is_file():
        raise DataNotFound(f"{path}: no model package there. Make one with tumorscope export RUN.")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
                raise PackageMismatch(f"{path}: more than {MAX_BYTES:,} bytes; not a model package.")
            return {item.filename: archive.read(item) for item in archive.infolist()}
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise PackageMismatch(f"{path}: {error}; not a whole model package. Fetch or make it again.") from error
