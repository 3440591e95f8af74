"""Patients: by matching slices to the published figshare set, or from file names.

J. Cheng's brain tumour set (figshare 1512427, CC BY 4.0) is where the tumour slices of the Kaggle archive come from: 3,064
T1-weighted contrast-enhanced slices of 233 patients with tumour masks. `read_figshare` reads it as published (MATLAB v7.3
files in a folder, in zips, or in zips within a zip) or repacked (metadata.csv, images/, masks/).

A slice is matched by the same two looks as twins (see pictures.py). On the Kaggle archive 4,750 slices have a fine
correlation above 0.996 with a figshare slice, and no other slice is above 0.65.
"""

import io
import re
import shutil
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy.io import loadmat

from tumorscope.audit.pictures import FINE, TURNS, compare, describe, turn
from tumorscope.data.decode import MAX_PIXELS, decode, shrink
from tumorscope.data.sources import Source, ZipSource, check, open_source
from tumorscope.errors import DataNotFound, InputRejected

#: Labels 1, 2, 3 of the figshare set.
FIGSHARE_CLASSES = {1: "meningioma", 2: "glioma", 3: "pituitary"}
#: The largest of the four published zips has some 0.25 GB.
MAX_ZIP_BYTES = 2**30


@dataclass(frozen=True)
class FigshareSet:
    """The figshare set; images and masks are read when asked for.

    table : a row a slice by id, with id (int), label (class name), patient, patient_group (suffixes such as MR040240 and
        MR040240B merged: the cautious reading of "same patient"), fold (the author's, 1 to 5; 0 where unknown)
    """

    table: pd.DataFrame
    _image: Callable[[int], np.ndarray]
    _mask: Callable[[int], np.ndarray]

    def image(self, figshare: int) -> np.ndarray:
        """Pixels of the slice with this id, uint8 (height, width); 16-bit ones windowed from lowest to highest value."""
        return self._image(int(figshare))

    def mask(self, figshare: int) -> np.ndarray:
        """Tumour of the slice with this id, bool (height, width), which may be larger than its image."""
        return self._mask(int(figshare))

    def pixels(self, *sizes: int) -> tuple[np.ndarray, ...]:
        """All slices at each of `sizes`, uint8 (n, size, size), row i = table row i; every file is read once."""
        arrays = tuple(np.empty((len(self.table), size, size), np.uint8) for size in sizes)
        for row, figshare in enumerate(self.table["id"]):
            image = self.image(figshare)
            for array, size in zip(arrays, sizes, strict=True):
                array[row] = shrink(image, size)
        return arrays


def read_figshare(path: str | Path) -> FigshareSet:
    """The figshare set at `path`, a folder or a zip in any of its forms.

    Raises `DataNotFound` where none of the forms is found, `InputRejected` for a damaged file.
    """
    source = open_source(path)
    names = {member.name for member in source.members}
    metadata = next((name for name in sorted(names) if PurePosixPath(name).name == "metadata.csv"), None)
    if metadata:
        return _repacked(source, metadata)
    return _published(source)


def _repacked(source: Source, metadata: str) -> FigshareSet:
    read, top = _reader(source), PurePosixPath(metadata).parent
    rows = pd.read_csv(io.BytesIO(read(metadata)), dtype=str, keep_default_na=False)
    missing = sorted({"id", "label", "pid"} - set(rows.columns))
    if missing:
        raise InputRejected(metadata, f"no column {missing[0]}", "id, label and pid needed", "Check the file.")
    folds = rows["fold"] if "fold" in rows else pd.Series("0", rows.index)
    table = _table(_whole(rows["id"], metadata), _whole(rows["label"], metadata), rows["pid"], _whole(folds, metadata))

    def grey(folder: str, figshare: int, ending: str) -> np.ndarray:
        return decode(read(str(top / folder / f"{figshare}{ending}"))).grey

    return FigshareSet(table, lambda n: grey("images", n, ".jpg"), lambda n: grey("masks", n, ".png") > 127)


def _whole(texts: pd.Series, metadata: str) -> pd.Series:
    try:
        return texts.astype(int)
    except ValueError as error:
        raise InputRejected(metadata, str(error), f"{texts.name} must be whole numbers", "Check the file.") from error


def _published(source: Source) -> FigshareSet:
    files: dict[int, _Mat] = {}
    folds = np.zeros(0, int)
    for part in [source, *_inner_zips(source)]:
        read = _reader(part)
        for member in part.members:
            name = PurePosixPath(member.name)
            if name.suffix == ".mat" and name.stem.isdecimal():
                files.setdefault(int(name.stem), _Mat(read, member.name))
            elif name.name == "cvind.mat":
                folds = _folds(_Mat(read, member.name))
    if not files:
        raise DataNotFound(
            f"{source.path}: neither metadata.csv nor <id>.mat files, also not in zips within. "
            "Give the figshare folder, one of its zips or the repacked archive."
        )
    heads = {figshare: files[figshare].take("cjdata", _head) for figshare in sorted(files)}
    fold = [int(folds[n - 1]) if n <= len(folds) else 0 for n in heads]
    labels, patients = zip(*heads.values(), strict=True)
    table = _table(pd.Series(list(heads)), pd.Series(labels), pd.Series(patients), pd.Series(fold))
    return FigshareSet(table, lambda n: files[n].take("cjdata", _windowed), lambda n: files[n].take("cjdata", _tumour))


def _table(ids: pd.Series, labels: pd.Series, patients: pd.Series, folds: pd.Series) -> pd.DataFrame:
    unknown = sorted(set(labels) - set(FIGSHARE_CLASSES))
    if unknown:
        raise InputRejected("figshare label", unknown[0], "1, 2 or 3", "Check that this is the figshare set.")
    group = patients.str.replace(r"^(MR\d+)[A-Z]+$", r"\1", regex=True)
    classes = labels.map(FIGSHARE_CLASSES)
    table = pd.DataFrame({"id": ids, "label": classes, "patient": patients, "patient_group": group, "fold": folds})
    return table.sort_values("id").reset_index(drop=True)


def _inner_zips(source: Source) -> list[Source]:
    """The zips inside a folder, opened where they lie, or inside a zip, copied out first."""
    names = [member.name for member in source.members if member.name.lower().endswith(".zip")]
    if source.path.is_dir():
        return [ZipSource(source.path / name) for name in names]
    return [_UnpackedZip(source.path, name) for name in names]


class _UnpackedZip(ZipSource):
    """A zip that lay in another: a copy in a temporary folder, which goes when this does."""

    def __init__(self, outer: Path, name: str) -> None:
        folder = tempfile.mkdtemp(prefix="tumorscope-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        target = Path(folder, "inner.zip")
        try:
            _copy_out(outer, name, target)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error, EOFError) as error:
            raise InputRejected(name, str(error), "damaged or encrypted", "Download it again.") from error
        super().__init__(target)


def _copy_out(outer: Path, name: str, target: Path) -> None:
    with zipfile.ZipFile(outer) as archive:
        size = archive.getinfo(name).file_size
        if size > MAX_ZIP_BYTES:
            raise InputRejected(
                name, f"{size:,} bytes", f"at most {MAX_ZIP_BYTES:,} for a zip in a zip", "Unpack it first."
            )
        with archive.open(name) as stream, target.open("wb") as out:
            shutil.copyfileobj(stream, out)


def _reader(source: Source) -> Callable[[str], bytes]:
    """Read a file of the source by name, within the limits."""
    members = {member.name: member for member in source.members}

    def read(name: str) -> bytes:
        if name not in members:
            raise InputRejected(name, "missing", f"needed in {source.path}", "Fetch the figshare set again.")
        check(members[name])
        return source.read(name)

    return read


@dataclass(frozen=True)
class _Mat:
    """A MATLAB v7.3 (HDF5) file."""

    read: Callable[[str], bytes]
    name: str

    def take(self, variable: str, what: Callable[[Any], Any]) -> Any:
        """What `what` makes of a variable of the file."""
        try:
            with h5py.File(io.BytesIO(self.read(self.name)), "r") as content:
                return what(content[variable])
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            limit = f"a MATLAB v7.3 file with {variable} needed"
            raise InputRejected(self.name, str(error), limit, "Download it again.") from error


def _head(cjdata: Any) -> tuple[int, str]:
    """Label, and patient id, which is stored as character codes."""
    return int(np.ravel(cjdata["label"][()])[0]), "".join(chr(code) for code in np.ravel(cjdata["PID"][()]))


def _plane(data: Any) -> np.ndarray:
    """A matrix as MATLAB shows it: HDF5 holds its columns as rows."""
    if data.ndim != 2 or data.size > MAX_PIXELS:
        raise ValueError(f"matrix of {data.shape}, at most {MAX_PIXELS:,} pixels")
    return np.asarray(data[()]).T


def _windowed(cjdata: Any) -> np.ndarray:
    values = _plane(cjdata["image"]).astype(np.float32)
    low, high = values.min(), values.max()
    return np.round((values - low) * (255 / max(high - low, 1))).astype(np.uint8)


def _tumour(cjdata: Any) -> np.ndarray:
    return _plane(cjdata["tumorMask"]) > 0


def _folds(file: _Mat) -> np.ndarray:
    """The author's five folds by id, from cvind.mat, which may be of the older MATLAB format."""
    content = file.read(file.name)
    if content.startswith(b"MATLAB 7.3"):
        return np.asarray(file.take("cvind", lambda data: np.ravel(data[()]).astype(int)))
    try:
        return np.ravel(loadmat(io.BytesIO(content))["cvind"]).astype(int)
    except (OSError, KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise InputRejected(file.name, str(error), "a MATLAB file with cvind needed", "Leave it out.") from error


def link(
    table: pd.DataFrame,
    small: np.ndarray,
    confirm: np.ndarray,
    figshare: FigshareSet,
    figshare_small: np.ndarray,
    figshare_confirm: np.ndarray,
    *,
    fine: float = FINE,
) -> pd.DataFrame:
    """Match every slice of a catalogue to the figshare slice that it is.

    table : catalogue table of n slices; small : uint8 (n, 32, 32); confirm : uint8 (n, 128, 128); the same for figshare

    Returns a row a matched slice: row (in table), figshare (id), patient, patient_group, fold, turn (what turns the figshare
    slice into this one), correlation (fine), figshare_label, conflict (the two sets' labels differ).
    """
    pairs = compare(describe(small, confirm), describe(figshare_small, figshare_confirm), TURNS)
    best = pairs[pairs["fine"] >= fine].sort_values(["i", "fine"]).drop_duplicates("i", keep="last")
    known = figshare.table.iloc[best["j"]].reset_index(drop=True)
    best = best.reset_index(drop=True)
    return pd.DataFrame(
        {
            "row": best["i"],
            "figshare": known["id"],
            **{name: known[name] for name in ("patient", "patient_group", "fold")},
            "turn": best["turn"],
            "correlation": best["fine"],
            "figshare_label": known["label"],
            "conflict": known["label"].to_numpy() != table["label"].to_numpy()[best["i"]],
        }
    )


def mask_of(figshare: FigshareSet, match: Any) -> np.ndarray:
    """The tumour mask of a matched slice as that slice lies, uint8 of the mask's own size, 0 and 255.

    match : a row of `link` (anything with figshare and turn)
    """
    return np.ascontiguousarray(turn(figshare.mask(match.figshare), match.turn).astype(np.uint8) * 255)


def patients_from(table: pd.DataFrame, column: str | None = None, pattern: str | None = None) -> pd.Series:
    r"""Patient id of every slice, "" where unknown, from a column or from a regular expression on file names.

    pattern : its group `patient`, or else its first group, is the id, e.g. r"(?P<patient>P\d+)_". It is searched in the file
        name without folders, or in the whole path where it contains a slash.

    Raises `InputRejected` for an unknown column, an invalid pattern, one without a group, or one that matches nothing.
    """
    if (column is None) == (pattern is None):
        raise InputRejected("patients", "column and pattern", "exactly one of them", "Give one.")
    if column is not None:
        if column not in table:
            raise InputRejected("patient column", column, f"one of {', '.join(table.columns)}", "Choose one of these.")
        return table[column].fillna("").astype(str).rename("patient")
    compiled, group = _compiled(str(pattern))
    whole = "/" in compiled.pattern
    found = [compiled.search(path if whole else PurePosixPath(path).name) for path in table["path"]]
    ids = [(match.group(group) or "") if match else "" for match in found]
    if not any(ids):
        example = PurePosixPath(table["path"].iloc[0]).name if len(table) else "no file"
        limit = f"finds no id in {len(table)} files such as {example}"
        raise InputRejected("patient pattern", pattern, limit, "Try it on one name.")
    return pd.Series(ids, table.index, dtype=str, name="patient")


def _compiled(pattern: str) -> tuple[re.Pattern[str], str | int]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputRejected("patient pattern", pattern, f"not a regular expression: {error}", "Mend it.") from error
    if not compiled.groups:
        raise InputRejected("patient pattern", pattern, "needs a group", r"Put the id in brackets: (P\d+)_")
    return compiled, "patient" if "patient" in compiled.groupindex else 1
