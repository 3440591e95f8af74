"""Findings as text, and findings of a long run kept on disk as they come, so that the same command goes on after any stop."""

import csv
import glob
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tumorscope.data.sources import readable
from tumorscope.errors import TumorscopeError
from tumorscope.files import write_text
from tumorscope.labels import CLASSES

#: A finding as JSON takes it; see `Finding.plain`.
Record = dict[str, Any]
#: A file's name as given, where it lies, its bytes and its time of change in ns.
Stamp = tuple[str, str, int, int]
NOTUMOR = "notumor"


class Journal:
    """A hidden file beside `out` that findings are added to as they come, and that a later call goes on with.

    settings : what the answers depend on beside the files; other settings have another file
    items : the files that are asked about, "-" for standard input; `left` are the numbers of those that are not answered yet
    numbered : whether slices are numbered through, so that nothing is kept behind a file that must be asked about

    A file's findings are kept as long as its place, size and time of change are the same.
    """

    def __init__(self, out: Path, settings: Sequence[str], items: Sequence[str], numbered: bool = False) -> None:
        key = hashlib.sha256("|".join(settings).encode()).hexdigest()[:12]
        self.out, self.file, self.items = out, out.with_name(f".{out.name}.{key}.part"), items
        # Taken before a file is read: one that is replaced meanwhile is asked about again.
        self._stamps = [_stamp(item) for item in items]
        kept = self._read()
        self._found: list[list[Record]] = [kept.get(stamp, []) if stamp else [] for stamp in self._stamps]
        if numbered and [] in self._found:
            first = self._found.index([])
            self._found[first:] = [[] for _ in items[first:]]
        self.left = [number for number, found in enumerate(self._found) if not found]
        self.done = len(items) - len(self.left)  # files finished

    def follow(self, records: Iterator[Record]) -> Iterator[Record]:
        """The records as they come, which are those of the items left, each on disk before it is passed on."""
        kept, place = self.done, 0
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("w", encoding="utf-8") as stream:
                for stamp, found in zip(self._stamps, self._found, strict=True):
                    stream.writelines(_line(stamp, one) for one in found)
                stream.flush()
                for one in records:
                    while not belongs(one["path"], self.items[self.left[place]]):
                        place += 1
                    self.done = kept + place
                    self._found[self.left[place]].append(one)
                    stream.write(_line(self._stamps[self.left[place]], one))
                    stream.flush()
                    yield one
        except OSError as error:
            raise TumorscopeError(f"{self.file}: {error.strerror}. Choose another place with --out.") from error

    def finish(self, text: Callable[[list[Record]], str]) -> None:
        """Write `out` from all records and take the file away."""
        write_text(self.out, text(self.records()))
        self.file.unlink(missing_ok=True)

    def others(self) -> list[Path]:
        """What stopped calls with other settings have left beside `out`."""
        kept = self.file.parent.glob(f".{glob.escape(self.out.name)}.{'[0-9a-f]' * 12}.part")
        return sorted(file for file in kept if file != self.file)

    def records(self) -> list[Record]:
        """All records so far, in order of the items."""
        return [one for found in self._found for one in found]

    def _read(self) -> dict[Stamp, list[Record]]:
        """What is kept, by file."""
        kept: dict[Stamp, list[Record]] = {}
        last = None
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines() if self.file.exists() else []:
            try:
                stamp, one = json.loads(line)
            except json.JSONDecodeError:  # cut off in the middle
                break
            last = tuple(stamp) if stamp else None
            if last:
                kept.setdefault(last, []).append(one)
        if last:
            del kept[last]  # its slices may not be complete
        return kept


def _stamp(item: str) -> Stamp | None:
    """None for what cannot be known again: standard input, and a file that is not there any more."""
    try:
        known = Path(item).stat()
    except OSError:
        return None
    return None if item == "-" else (item, str(Path(item).resolve()), known.st_size, known.st_mtime_ns)


def _line(stamp: Stamp | None, record: Record) -> str:
    return json.dumps([stamp, record]) + "\n"


def belongs(path: str, item: str) -> bool:
    """Whether a finding's path is of a file: its own, or that of its slice with this number."""
    return path == item or path.startswith(f"{item}#")


def joined(reasons: Sequence[str]) -> str:
    """Reasons as one text; a full stop within it would stand beside the semicolon."""
    return "; ".join(reason.rstrip(".") for reason in reasons)


def as_json(records: Sequence[Record]) -> str:
    """A JSON list of objects."""
    return json.dumps(list(records), indent=2) + "\n"


def as_csv(records: Sequence[Record], header: bool = True) -> str:
    """A line a slice."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(
            [
                *("path", "status", "label", *(f"p_{name}" for name in CLASSES)),
                *("prediction_set", "reasons", "plane", "series", "heatmap", "mask"),
            ]
        )
    for one in records:
        chances = one["probabilities"]
        writer.writerow(
            [
                *(one[name] or "" for name in ("path", "status", "label")),
                *(f"{chances[name]:.6f}" if chances else "" for name in CLASSES),
                *(" ".join(one["prediction_set"]), joined(one["reasons"]), one["plane"] or ""),
                *(one.get(name) or "" for name in ("series", "heatmap", "mask")),
            ]
        )
    return text.getvalue()


def as_line(one: Record, error_rate: float) -> str:
    """A line for people. error_rate : of the prediction sets"""
    text = ""
    if one["probabilities"]:
        told = _set(one["label"], one["prediction_set"], error_rate)
        text = f"{one['label']:11} {one['probabilities'][one['label']]:6.1%}" + (f"  {told}" if told else "")
    reasons = [_without_name(reason, one["path"]) for reason in one["reasons"]]
    return readable(  # a name or reason may hold what a terminal obeys
        f"{one['path']}: {one['status']:8} {text}{'  ' if text and reasons else ''}{joined(reasons)}"
    )


def _without_name(reason: str, path: str) -> str:
    """An error begins with the file that it is of, with or without its folder, and here that stands before it."""
    return reason.removeprefix(f"{path}: ").removeprefix(f"{Path(path).name}: ")


def _set(label: str, names: Sequence[str], error_rate: float) -> str:
    """A prediction set in words, "" where it is the answer alone."""
    if not names:
        return f"no class is sure enough at {100 * error_rate:g} %"
    if label not in names:  # the set asks more of some classes than of others
        return f"set: {', '.join(names)}"
    others = ", ".join(name for name in names if name != label)
    return f"or {others}" if others else ""


def as_table(records: Sequence[Record], error_rate: float) -> str:
    """A line a slice, and one for each volume or series. error_rate : of the prediction sets"""
    lines = [as_line(one, error_rate) for one in records]
    return "".join(f"{line}\n" for line in [*lines, *(one["text"] for one in summaries(records))])


def summaries(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What a volume's or series' slices say together, for each of two slices or more: counts, no probability.

    Of one of which no file could be read nothing is said.

    Slices of one DICOM series in one folder that lie alike are a series; where a folder holds several they are named as findings
    do, and files that cannot say theirs are counted after them.

    Neighbouring slices show the same tissue, so that their probabilities may not be multiplied or averaged into one of the head;
    what is said is how many slices are answered, how many show a tumour, how long the longest unbroken run of them is, and
    which slice shows it most.
    """
    volumes: dict[str, list[Record]] = defaultdict(list)
    for one in records:
        if name := _volume(one):
            volumes[name].append(one)
    found = []
    for name, several in volumes.items():
        parts = _by_series(name, several)
        found += [
            _summary(*part) for part in parts if len(part[1]) > 1 and any(one["status"] != "error" for one in part[1])
        ]
        unknown = [one for one in several if not one.get("series")]
        if len(parts) > 1 and unknown:
            found.append(_of_no_series(name, unknown))
    return found


def _by_series(name: str, several: list[Record]) -> list[tuple[str, list[Record]]]:
    """A folder's slices apart by series; where there is one, files that could not say theirs belong to it."""
    known = list(dict.fromkeys(one["series"] for one in several if one.get("series")))
    if len(known) < 2:
        return [(name, several)]
    return [(f"{name} (series {series})", [one for one in several if one.get("series") == series]) for series in known]


def _volume(one: Record) -> str:
    """The volume that a slice is of, or the folder of a DICOM file, whatever it is named; "" for a picture of its own."""
    name, hash_sign, number = one["path"].rpartition("#")
    if hash_sign and number.isdecimal():
        return name
    path = Path(one["path"])
    return str(path.parent) if one["plane"] or path.suffix.lower() in (".dcm", ".ima") else ""


def _of_no_series(name: str, several: list[Record]) -> dict[str, Any]:
    """Files between several series that could not say theirs: their order is not known, so no run of them is."""
    found = _summary(name, several)
    files = f"{len(several)} file{'s' if len(several) > 1 else ''} of no known series"
    text = f"{readable(name)}: {files}, {found['answered']} answered, {found['tumour']} with a tumour."
    return {**found, "longest_run": None, "text": text}


def _summary(name: str, several: list[Record]) -> dict[str, Any]:
    answered = [one for one in several if one["probabilities"]]
    tumour = [bool(one["label"]) and one["label"] != NOTUMOR for one in several]
    run = max((sum(1 for _ in part) for is_tumour, part in groupby(tumour) if is_tumour), default=0)
    kinds = {label: sum(one["label"] == label for one in several) for label in CLASSES if label != NOTUMOR}
    strongest = max(answered, key=lambda one: 1 - one["probabilities"][NOTUMOR], default=None)
    text = f"{readable(name)}: {len(several)} slices, {len(answered)} answered, {sum(tumour)} with a tumour"
    if any(tumour):
        assert strongest is not None
        named = ", ".join(f"{count} {label}" for label, count in kinds.items() if count)
        chance = 1 - strongest["probabilities"][NOTUMOR]
        text += f" ({named}; {run} in a row); most in {readable(strongest['path'].rpartition('/')[2])}, {chance:.1%}"
    text += ". Neighbouring slices are not independent: this is no probability for the head."
    return {
        **{"volume": name, "slices": len(several), "answered": len(answered), "tumour": sum(tumour)},
        **{"longest_run": run, "kinds": kinds, "strongest": strongest["path"] if strongest else None, "text": text},
    }
