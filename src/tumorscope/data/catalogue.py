"""The catalogue: the table of a data set, a row a slice, and the list of files that were refused, each with its reason."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import pandas as pd

from tumorscope import home
from tumorscope.data.decode import check_side, crop_to_head, decode, shrink
from tumorscope.data.known import fill
from tumorscope.data.layout import PLANNING, Layout, Planned, plan
from tumorscope.data.sources import Source, check, fingerprint, open_source, readable
from tumorscope.errors import DataNotFound, InputRejected, TumorscopeError
from tumorscope.files import replacing, write_json

COLUMNS = (
    *("path", "label", "split", "source", "patient", "picture", "sha256", "pixels_sha256", "width", "height"),
    *("mode", "format", "bytes", "quantisation", "mask", "mask_sha256", "plane", "patient_group", "fold"),
    "rules",
)
#: Raised when a row or a pixel would come out differently, so that older caches are not taken for new ones.
FORMAT = 2
#: What is known of a slice beside its bytes; where one of these changes, a joined catalogue is another.
FACTS = ["path", "label", "split", "source", "patient", "patient_group", "fold", "plane", "mask", "mask_sha256"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Catalogue:
    """Slices of one data set.

    table : DataFrame with `COLUMNS`, a row a slice in path order, RangeIndex; mask is the path of a tumour mask, or ""
    rejected : DataFrame with path and reason, a row a file that was left out
    folder : where the catalogue and its pixel caches lie
    origin : the archive or folder that the slices are read from
    parts : for a catalogue joined of two, those two
    planning : number of the rules that its files were planned by
    """

    name: str
    table: pd.DataFrame
    rejected: pd.DataFrame
    folder: Path
    origin: Path
    notices: tuple[str, ...] = field(default=())
    parts: tuple["Catalogue", ...] = field(default=())
    planning: int = PLANNING

    @property
    def digest(self) -> str:
        """16 hex digits over the bytes of every slice in order: what pixel caches and runs are bound to."""
        return digest_of(self.table["sha256"], self.table["rules"])

    @property
    def sets(self) -> tuple["Catalogue", ...]:
        """The sets that it is joined of, one by one; itself where it is one."""
        return tuple(one for part in self.parts for one in part.sets) or (self,)

    def source(self) -> Source:
        """The archive or folder, opened."""
        return open_source(self.origin)


def digest_of(hashes: Iterable[str], rules: Iterable[str]) -> str:
    """16 hex digits of a set whose slices have these sha256 and `Decoded.rules`, in order."""
    # What slices under such a rule come out as has changed once; that of others has not.
    read = "/".join([str(FORMAT), *sorted({rule for one in rules for rule in one.split()})])
    return hashlib.sha256(f"{''.join(hashes)}/{read}".encode()).hexdigest()[:16]


def load_catalogue(
    path: str | os.PathLike[str],
    *,
    classes: dict[str, str] | None = None,
    sizes: Sequence[int] = (),
    progress: Progress | None = None,
) -> Catalogue:
    """Catalogue the archive or folder at `path`, or open the stored one when no byte has changed.

    classes : folder name to class name for other people's data, e.g. {"no": "notumor"}
    sizes : resolutions whose pixel caches are made in the same pass, so that nothing is decoded twice
    progress : called with (files done, files in all)

    Raises `DataNotFound` or `InputRejected` where nothing can be read.
    """
    for size in sizes:
        check_side(size)
    source = open_source(path)
    layout = Layout.of(classes)
    folder = home.datasets() / f"{_slug(source.path)}-{_key(source, layout)}"
    stored = _stored(folder, source.path)
    if stored is not None and stored.planning >= PLANNING:
        return stored
    planned, notices = plan(source, layout)
    # Earlier versions knew fewer folder names, so that they found other slices or labels in the same files.
    if stored is not None and _as_planned(stored, planned):
        stored = replace(stored, notices=notices, planning=PLANNING)
        _write_card(stored)
        return stored
    return _build(source, planned, notices, folder, sizes, progress)


def _as_planned(stored: Catalogue, planned: list[Planned]) -> bool:
    labels = dict(zip(stored.table["path"], stored.table["label"], strict=True))
    refused = set(stored.rejected["path"])
    whole = len(planned) == len(labels) + len(refused)
    return whole and all(labels.get(item.path) == item.label or readable(item.path) in refused for item in planned)


def _key(source: Source, layout: Layout) -> str:
    joined = f"{source.path}|{fingerprint(source)}|{layout}|{FORMAT}"
    return hashlib.sha256(joined.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _slug(path: Path) -> str:
    return "".join(c if c.isalnum() else "-" for c in path.stem).strip("-").lower()[:40] or "data"


def _stored(folder: Path, origin: Path) -> Catalogue | None:
    """The catalogue in `folder`; None where it is missing or damaged, so that it is made again."""
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        tables = _read(folder / "catalogue.csv"), _read(folder / "rejected.csv")
        catalogue = Catalogue(
            card["name"], *tables, folder, origin, tuple(card["notices"]), planning=int(card.get("planning", 0))
        )
        whole = (card["digest"], card["rejected"]) == (catalogue.digest, len(catalogue.rejected))
        whole = whole and set(COLUMNS) <= set(catalogue.table)  # earlier versions knew fewer
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return catalogue if whole else None


def _read(file: Path) -> pd.DataFrame:
    kinds = {"width": int, "height": int, "bytes": int, "quantisation": float}
    text = {name: str for name in (*COLUMNS, "reason") if name not in kinds}
    return pd.read_csv(file, keep_default_na=False, na_values={"quantisation": [""]}, dtype=cast(Any, text | kinds))


def _build(
    source: Source,
    planned: list[Planned],
    notices: tuple[str, ...],
    folder: Path,
    sizes: Sequence[int],
    progress: Progress | None,
) -> Catalogue:
    from tumorscope.data.cache import write_pixels

    rows, rejected, pixels = _scan(source, planned, tuple(sizes), progress)
    if not rows:
        raise nothing_found(source, rejected, notices)
    name = readable(source.path.stem)
    table = fill(pd.DataFrame(rows, columns=list(COLUMNS)))
    catalogue = Catalogue(name, table, pd.DataFrame(rejected, columns=["path", "reason"]), folder, source.path, notices)
    save(catalogue)
    for size, array in zip(sizes, pixels, strict=True):
        write_pixels(catalogue, size, array)
    return catalogue


def nothing_found(source: Source, rejected: list[tuple[str, str]], notices: tuple[str, ...]) -> DataNotFound:
    """That no file of `source` is a slice of a known class.

    rejected : path and reason of those that claimed to be one; notices : what is said of the others
    """
    found = f"{source.path}: no readable slice of a known class among {len(source.members)} files. "
    if rejected:
        path, reason = rejected[0]
        return DataNotFound(f"{found}{len(rejected)} were refused, the first: {path}: {reason}")
    return DataNotFound(
        f"{found}Expected Training/<class>/ and Testing/<class>/, or <class>/ folders; "
        f"map other names with --classes no=notumor. {' '.join(notices)}".rstrip()
    )


def join(one: Catalogue, other: Catalogue) -> Catalogue:
    """Two sets as one: `one` marked "train", `other` marked "test", paths with the set's name before a colon.

    Raises `InputRejected` where both are the same set.
    """
    if one.digest == other.digest:
        raise InputRejected(other.name, other.digest, f"the same bytes as {one.name}", "Give another set.")
    names = (one.name, _name_beside(one, other))
    tables = [
        part.table.assign(path=f"{name}:" + part.table["path"], split=split, source=name)
        for part, name, split in zip((one, other), names, ("train", "test"), strict=True)
    ]
    return _together(one, other, tables, f"{names[0]} with {names[1]}")


def extend(one: Catalogue, other: Catalogue) -> Catalogue:
    """`one` as it is, its rows first, with the slices of `other` behind them, which belong to no split.

    Raises `InputRejected` where both are the same set.
    """
    if one.digest == other.digest:
        raise InputRejected(other.name, other.digest, f"the same bytes as {one.name}", "Give another set.")
    name = _name_beside(one, other)
    added = other.table.assign(path=f"{name}:" + other.table["path"], split="", source=name)
    return _together(one, other, [one.table, added], f"{one.name} and {name}")


def _name_beside(one: Catalogue, other: Catalogue) -> str:
    return other.name if other.name != one.name else f"{other.name}-{other.digest[:4]}"


def _together(one: Catalogue, other: Catalogue, tables: list[pd.DataFrame], title: str) -> Catalogue:
    """One catalogue of both tables; pictures are to be found anew, so that shared ones are."""
    facts = "".join(part[FACTS].to_csv(index=False) for part in tables)
    key = hashlib.sha256(f"{one.digest}|{other.digest}|{title}|{facts}".encode()).hexdigest()[:12]
    folder = home.datasets() / f"{_slug(Path(title))}-{key}"
    stored = _stored(folder, one.origin)
    if stored is not None:
        return replace(stored, parts=(one, other))
    table = pd.concat(tables, ignore_index=True).assign(picture="")
    rejected = pd.concat([one.rejected, other.rejected], ignore_index=True)
    return Catalogue(title, table, rejected, folder, one.origin, (), (one, other))


def save(catalogue: Catalogue) -> None:
    """Write the catalogue into its folder; the card comes last, so that a half-written one is never opened."""
    for frame, name in ((catalogue.table, "catalogue.csv"), (catalogue.rejected, "rejected.csv")):
        with replacing(catalogue.folder / name) as temporary:
            frame.to_csv(temporary, index=False)
    _write_card(catalogue)


def _write_card(catalogue: Catalogue) -> None:
    card = {
        "name": catalogue.name,
        "origin": str(catalogue.origin),
        "slices": len(catalogue.table),
        "rejected": len(catalogue.rejected),
        "digest": catalogue.digest,
        "notices": list(catalogue.notices),
        "planning": catalogue.planning,
    }
    write_json(catalogue.folder / "card.json", card)


def _scan(
    source: Source, planned: list[Planned], sizes: tuple[int, ...], progress: Progress | None
) -> tuple[list[dict[str, object]], list[tuple[str, str]], list[np.ndarray]]:
    """Rows, refusals and pixels of every planned file, read by one process a core."""
    rows: list[dict[str, object]] = []
    rejected: list[tuple[str, str]] = []
    pixels: list[list[np.ndarray]] = [[] for _ in sizes]
    for done, (item, outcome) in enumerate(zip(planned, read_all(source, planned, sizes), strict=True), start=1):
        if isinstance(outcome, str):
            rejected.append((readable(item.path), outcome))
        else:
            facts, images = outcome
            rows.append({**item.columns(), **facts})
            for kept, image in zip(pixels, images, strict=True):
                kept.append(image)
        if progress and (done % 50 == 0 or done == len(planned)):
            progress(done, len(planned))
    stacked = [
        np.stack(kept) if kept else np.empty((0, size, size), np.uint8)
        for kept, size in zip(pixels, sizes, strict=True)
    ]
    return rows, rejected, stacked


Outcome = str | tuple[dict[str, object], list[np.ndarray]]


def read_all(
    source: Source, planned: Sequence[Planned], sizes: tuple[int, ...], crop: str = "none"
) -> Iterable[Outcome]:
    """For every planned file its facts and pixels at `sizes`, or the reason why it was refused; in order."""
    chunks = [planned[start : start + 32] for start in range(0, len(planned), 32)]
    read = partial(_read_chunk, sizes=sizes, crop=crop)
    workers = min(home.cores(), len(chunks))
    if workers < 2 or threaded():
        # Pillow and zlib let other threads run.
        _start(source.path)
        with ThreadPoolExecutor(max(1, workers)) as threads:
            for outcomes in threads.map(read, chunks):
                yield from outcomes
        return
    try:
        with ProcessPoolExecutor(workers, initializer=_start, initargs=(source.path,)) as pool:
            for outcomes in pool.map(read, chunks):
                yield from outcomes
    except BrokenProcessPool as error:
        raise TumorscopeError(
            f"{source.path}: a process that reads slices was stopped, most often for want of memory. Free some and try again."
        ) from error


def threaded() -> bool:
    """Whether a library with threads of its own is loaded: a fork of them may wait for ever, and a new process needs a script
    whose top can run again.
    """
    return not {"torch", "onnxruntime"}.isdisjoint(sys.modules)


_source: Source


def _start(path: Path) -> None:
    """Each worker opens the archive once."""
    global _source
    _source = open_source(path)


def _read_chunk(chunk: Sequence[Planned], sizes: tuple[int, ...], crop: str) -> list[Outcome]:
    return [_read_slice(item, sizes, crop) for item in chunk]


def _read_slice(item: Planned, sizes: tuple[int, ...], crop: str) -> Outcome:
    try:
        check(item.member)
        content = _source.read(item.path)
        image = decode(content)
        mask = _source.read(item.mask) if item.mask else None
    except InputRejected as error:
        return str(error)
    facts: dict[str, object] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "mask_sha256": "" if mask is None else hashlib.sha256(mask).hexdigest(),
        "bytes": len(content),
        **{
            name: getattr(image, name)
            for name in ("pixels_sha256", "width", "height", "mode", "format", "quantisation", "rules")
        },
    }
    grey = crop_to_head(image.grey) if crop == "head" else image.grey
    return facts, [shrink(grey, size) for size in sizes]


def stem(path: str) -> str:
    """File name without folder and ending."""
    return PurePosixPath(path).stem
