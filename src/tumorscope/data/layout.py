"""From file names to label, split, patient, plane and mask: what the folders and an optional metadata.csv say.

Known layouts: `Training/<class>/`, `Testing/<class>/` (Kaggle, both versions), `<class>/` alone, and either of them below
any number of wrapping folders. A `metadata.csv` with a `path` column, relative to its own folder, may add patient, plane
and mask, a row a slice.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import PurePosixPath

from tumorscope.data.sources import Member, Source, check, readable
from tumorscope.errors import InputRejected
from tumorscope.labels import BY_FOLDER, CLASSES

SPLITS = {"training": "train", "train": "train", "testing": "test", "test": "test"}
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm"}


@dataclass(frozen=True)
class Planned:
    """A file that claims to be a slice, before it is opened."""

    member: Member
    label: str
    split: str
    source: str
    patient: str = ""
    plane: str = ""
    mask: str = ""

    @property
    def path(self) -> str:
        """Name inside the source."""
        return self.member.name

    def columns(self) -> dict[str, object]:
        """The catalogue columns known without opening the file."""
        return {
            **{name: getattr(self, name) for name in ("path", "label", "split", "source", "patient", "plane", "mask")},
            "picture": "",
        }


@dataclass(frozen=True)
class Layout:
    """Folder name (lower case) to class name."""

    classes: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, classes: dict[str, str] | None) -> "Layout":
        """Our folder names and aliases, `classes` added to them; raises `InputRejected` for an unknown class."""
        for folder, name in (classes or {}).items():
            if name not in CLASSES:
                raise InputRejected(
                    "class", f"{folder}={name}", f"one of {', '.join(CLASSES)}", "Map it to one of these."
                )
        added = {folder.lower(): name for folder, name in (classes or {}).items()}
        return cls(tuple(sorted((BY_FOLDER | added).items())))


def plan(source: Source, layout: Layout) -> tuple[list[Planned], tuple[str, ...]]:
    """Files that lie in a class folder and look like images, in name order, and notices about the others."""
    classes = dict(layout.classes)
    extra = _metadata(source)
    unlisted = extra.known - extra.rows.keys()
    planned, others = [], 0
    for member in source.members:
        label = _label(member.name, classes)
        if member.name in unlisted:
            continue
        if label is None or PurePosixPath(member.name).suffix.lower() not in ENDINGS:
            others += 1
            continue
        more = extra.rows.get(member.name, {})
        planned.append(Planned(member, label, _split(member.name), readable(source.path.stem), **more))
    return planned, tuple(map(readable, (*source.notices, *extra.notices, *_notices(planned, others))))


def _label(name: str, classes: dict[str, str]) -> str | None:
    folders = [part.lower() for part in PurePosixPath(name.replace("\\", "/")).parts[:-1]]
    return next((classes[folder] for folder in reversed(folders) if folder in classes), None)


def _split(name: str) -> str:
    folders = [part.lower() for part in PurePosixPath(name.replace("\\", "/")).parts[:-1]]
    return next((SPLITS[folder] for folder in reversed(folders) if folder in SPLITS), "")


def _notices(planned: list[Planned], others: int) -> list[str]:
    notices = []
    if others:
        notices.append(f"{others} files lie outside the class folders or are no images; they were left out.")
    missing = [name for name in CLASSES if all(item.label != name for item in planned)]
    if missing:
        notices.append(f"No slice of class {', '.join(missing)}.")
    return notices


@dataclass(frozen=True)
class _Metadata:
    """What metadata.csv says: `rows`, slice name to patient, plane and mask; `known`, names of masks and of itself."""

    rows: dict[str, dict[str, str]]
    known: set[str]
    notices: list[str]


def _metadata(source: Source) -> _Metadata:
    """Every metadata.csv of the source, merged; its paths are relative to the folder that it lies in."""
    members = {member.name: member for member in source.members}
    merged = _Metadata({}, set(), [])
    for name, member in members.items():
        if PurePosixPath(name).name == "metadata.csv":
            check(member)
            _merge(merged, name, _rows(name, source.read(name)), set(members))
    return merged


def _rows(name: str, content: bytes) -> list[dict[str, str]]:
    text = io.StringIO(content.decode("utf-8-sig", "replace"), newline=None)
    try:
        return list(csv.DictReader(text))
    except csv.Error as error:
        raise InputRejected(name, str(error), "must be a CSV table", "Mend it, or take it out of the data.") from error


def _merge(merged: _Metadata, name: str, rows: list[dict[str, str]], members: set[str]) -> None:
    merged.known.add(name)
    if rows and "path" not in rows[0]:
        merged.notices.append(f"{name} has no column path; it was not used.")
        return
    absent = 0
    for row in rows:
        path, mask = (_beside(name, row.get(key) or "") for key in ("path", "mask"))
        absent += path not in members or (mask != "" and mask not in members)
        mask = mask if mask in members else ""
        merged.rows[path] = {**{key: (row.get(key) or "").strip() for key in ("patient", "plane")}, "mask": mask}
        merged.known.add(mask)
    if absent:
        merged.notices.append(f"{name}: {absent} rows name a slice or a mask that is not there.")


def _beside(name: str, path: str) -> str:
    """`path` as written in the table `name`, as a name in the source."""
    return str(PurePosixPath(name).parent / path.strip().replace("\\", "/")) if path.strip() else ""
