"""From file names to label, split, patient, plane and mask: what the folders and an optional metadata.csv say.

Known layouts: `Training/<class>/`, `Testing/<class>/` (Kaggle, both versions), `<class>/` alone, and either of them below
any number of wrapping folders. A `metadata.csv` with a `path` column may add patient, plane and mask, a row a slice.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import PurePosixPath

from tumorscope.data.sources import Member, Source
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
        """Our folder names and aliases, replaced by `classes` where given; raises `InputRejected` for an unknown class."""
        for folder, name in (classes or {}).items():
            if name not in CLASSES:
                raise InputRejected(
                    "class", f"{folder}={name}", f"one of {', '.join(CLASSES)}", "Map it to one of these."
                )
        mapping = {folder.lower(): name for folder, name in classes.items()} if classes else BY_FOLDER
        return cls(tuple(sorted(mapping.items())))


def plan(source: Source, layout: Layout) -> tuple[list[Planned], tuple[str, ...]]:
    """Files that lie in a class folder and look like images, in name order, and notices about the others."""
    classes = dict(layout.classes)
    extra = _metadata(source)
    planned, others = [], 0
    for member in source.members:
        label = _label(member.name, classes)
        if label is None or PurePosixPath(member.name).suffix.lower() not in ENDINGS:
            others += member.name not in extra.known
            continue
        planned.append(Planned(member, label, _split(member.name), source.path.stem, **extra.rows.get(member.name, {})))
    return planned, tuple(_notices(planned, others, classes))


def _label(name: str, classes: dict[str, str]) -> str | None:
    folders = [part.lower() for part in PurePosixPath(name.replace("\\", "/")).parts[:-1]]
    return next((classes[folder] for folder in reversed(folders) if folder in classes), None)


def _split(name: str) -> str:
    folders = [part.lower() for part in PurePosixPath(name.replace("\\", "/")).parts[:-1]]
    return next((SPLITS[folder] for folder in folders if folder in SPLITS), "")


def _notices(planned: list[Planned], others: int, classes: dict[str, str]) -> list[str]:
    notices = []
    if others:
        notices.append(f"{others} files lie outside the class folders or are no images; they were left out.")
    missing = [name for name in dict.fromkeys(classes.values()) if all(item.label != name for item in planned)]
    if missing:
        notices.append(f"No slice of class {', '.join(missing)}.")
    return notices


@dataclass(frozen=True)
class _Metadata:
    rows: dict[str, dict[str, str]]
    known: frozenset[str]


def _metadata(source: Source) -> _Metadata:
    """What metadata.csv at the top says of each slice; files that it names as masks count as known."""
    if not any(member.name == "metadata.csv" for member in source.members):
        return _Metadata({}, frozenset())
    reader = csv.DictReader(io.StringIO(source.read("metadata.csv").decode("utf-8-sig", "replace")))
    rows = {
        row["path"]: {key: row.get(key) or "" for key in ("patient", "plane", "mask")}
        for row in reader
        if row.get("path")
    }
    return _Metadata(rows, frozenset({"metadata.csv", *(row["mask"] for row in rows.values())}))
