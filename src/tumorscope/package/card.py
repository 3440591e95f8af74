"""A model package: one ONNX graph, its card, the gate's statistics and a model card for people, each with its sha256.

A package is a folder or a zip of it. Nothing in it can run code: ONNX, JSON, Markdown, and arrays without pickle. Loading
verifies every hash and the contract between card and graph, and refuses what is not as it was made.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from tumorscope.errors import DataNotFound, PackageMismatch
from tumorscope.files import write_bytes
from tumorscope.inference.gate import Likeness
from tumorscope.labels import CLASSES

PARTS = ("model.onnx", "card.json", "gate.npz", "MODEL_CARD.md")
SUMS = "SHA256SUMS"
#: Of a package; a small network is a hundredth of it.
MAX_BYTES = 512 * 2**20
FORMAT = 3


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

    def check_graph(self, sides: list[Any], classes: Any) -> None:
        """Raise `PackageMismatch` unless the graph takes and gives what the card says."""
        size = self.card["input"]["size"]
        if sides != [size, size] or classes != len(self.card["labels"]):
            raise PackageMismatch(
                f"card and graph differ: the card says {size}x{size} and {len(self.card['labels'])} classes, the graph "
                f"{sides[0]}x{sides[1]} and {classes}. Make the package again with tumorscope export."
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
    card = json.loads(parts["card.json"])
    if card.get("format") != FORMAT or tuple(card.get("labels", ())) != CLASSES:
        raise PackageMismatch(
            f"{path or 'shipped package'}: format {card.get('format')} with labels {card.get('labels')}; format {FORMAT} "
            f"with {', '.join(CLASSES)} is needed. Make it again with this version."
        )
    digest = hashlib.sha256(parts[SUMS]).hexdigest()
    with np.load(io.BytesIO(parts["gate.npz"]), allow_pickle=False) as arrays:
        embeddings, layouts = (
            Likeness(*(arrays[f"{name}_{what}"].astype(np.float64) for what in ("centres", "precision")))
            for name in ("embeddings", "layouts")
        )
    return Package(card, parts["model.onnx"], embeddings, layouts, parts["MODEL_CARD.md"].decode(), digest)


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
