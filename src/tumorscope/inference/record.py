"""Findings as text, and findings of a long run kept on disk as they come, so that the same command goes on after any stop."""

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tumorscope.errors import TumorscopeError
from tumorscope.files import write_text
from tumorscope.labels import CLASSES

#: A finding as JSON takes it; see `Finding.plain`.
Record = dict[str, Any]
NOTUMOR = "notumor"


class Journal:
    """A hidden file beside `out` that findings are added to as they come, and that a later call goes on with.

    settings : what the answers depend on; other settings have another file
    """

    def __init__(self, out: Path, settings: Sequence[str]) -> None:
        key = hashlib.sha256("|".join(settings).encode()).hexdigest()[:12]
        self.out, self.file = out, out.with_name(f".{out.name}.{key}.part")
        kept = self._read()
        # The last file's slices may not be complete.
        last = kept[-1]["item"] if kept else 0
        self.records: list[Record] = [one for one in kept if one["item"] < last]
        self.done = last  # files finished

    def follow(self, records: Iterator[Record], items: Sequence[str]) -> Iterator[Record]:
        """The records as they come, which are those of items[done:], each on disk before it is passed on."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("w", encoding="utf-8") as stream:
                stream.writelines(_line(one) for one in self.records)
                stream.flush()
                for one in records:
                    while not belongs(one["path"], items[self.done]):
                        self.done += 1
                    self.records.append({**one, "item": self.done})
                    stream.write(_line(self.records[-1]))
                    stream.flush()
                    yield one
        except OSError as error:
            raise TumorscopeError(f"{self.file}: {error.strerror}. Choose another place with --out.") from error

    def finish(self, text: Callable[[list[Record]], str]) -> None:
        """Write `out` from all records and take the file away."""
        write_text(self.out, text(self.plain()))
        self.file.unlink(missing_ok=True)

    def plain(self) -> list[Record]:
        """All records, without what is ours in them."""
        return [{name: value for name, value in one.items() if name != "item"} for one in self.records]

    def _read(self) -> list[Record]:
        if not self.file.exists():
            return []
        kept = []
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                kept.append(json.loads(line))
            except json.JSONDecodeError:  # cut off in the middle
                break
        return kept


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"


def belongs(path: str, item: str) -> bool:
    """Whether a finding's path is of a file: its own, or that of its slice with this number."""
    return path == item or path.startswith(f"{item}#")


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
                *("prediction_set", "reasons", "plane", "series"),
            ]
        )
    for one in records:
        chances = one["probabilities"]
        writer.writerow(
            [
                *(one[name] or "" for name in ("path", "status", "label")),
                *(f"{chances[name]:.6f}" if chances else "" for name in CLASSES),
                *(" ".join(one["prediction_set"]), "; ".join(one["reasons"]), one["plane"] or ""),
                one.get("series") or "",
            ]
        )
    return text.getvalue()


def as_line(one: Record, error_rate: float) -> str:
    """A line for people. error_rate : of the prediction sets"""
    text = ""
    if one["probabilities"]:
        told = _set(one["label"], one["prediction_set"], error_rate)
        text = f"{one['label']:11} {one['probabilities'][one['label']]:6.1%}" + (f"  {told}" if told else "")
    return (
        f"{one['path']}: {one['status']:8} {text}{'  ' if text and one['reasons'] else ''}{'; '.join(one['reasons'])}"
    )


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

    Slices of one DICOM series in one folder are a series; where a folder holds several they are numbered as they come, and
    files that cannot say theirs are counted after them.

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
        found += [_summary(*part) for part in parts if len(part[1]) > 1]
        unknown = [one for one in several if not one.get("series")]
        if len(parts) > 1 and unknown:
            found.append(_of_no_series(name, unknown))
    return found


def _by_series(name: str, several: list[Record]) -> list[tuple[str, list[Record]]]:
    """A folder's slices apart by series; where there is one, files that could not say theirs belong to it."""
    known = list(dict.fromkeys(one["series"] for one in several if one.get("series")))
    if len(known) < 2:
        return [(name, several)]
    return [
        (f"{name} (series {number})", [one for one in several if one.get("series") == series])
        for number, series in enumerate(known, start=1)
    ]


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
    text = f"{name}: {files}, {found['answered']} answered, {found['tumour']} with a tumour."
    return {**found, "longest_run": None, "text": text}


def _summary(name: str, several: list[Record]) -> dict[str, Any]:
    answered = [one for one in several if one["probabilities"]]
    tumour = [bool(one["label"]) and one["label"] != NOTUMOR for one in several]
    run = max((sum(1 for _ in part) for is_tumour, part in groupby(tumour) if is_tumour), default=0)
    kinds = {label: sum(one["label"] == label for one in several) for label in CLASSES if label != NOTUMOR}
    strongest = max(answered, key=lambda one: 1 - one["probabilities"][NOTUMOR], default=None)
    text = f"{name}: {len(several)} slices, {len(answered)} answered, {sum(tumour)} with a tumour"
    if any(tumour):
        assert strongest is not None
        named = ", ".join(f"{count} {label}" for label, count in kinds.items() if count)
        chance = 1 - strongest["probabilities"][NOTUMOR]
        text += f" ({named}; {run} in a row); most in {strongest['path'].rpartition('/')[2]}, {chance:.1%}"
    text += ". Neighbouring slices are not independent: this is no probability for the head."
    return {
        **{"volume": name, "slices": len(several), "answered": len(answered), "tumour": sum(tumour)},
        **{"longest_run": run, "kinds": kinds, "strongest": strongest["path"] if strongest else None, "text": text},
    }
