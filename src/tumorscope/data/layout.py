"""From file names to label, split, patient, plane and mask: what the folders and an optional metadata.csv say.

Known layouts: `Training/<class>/`, `Testing/<class>/` (Kaggle, both versions), `<class>/` alone, and either of them below
any number of wrapping folders; of several folders that name a class the nearest counts. Case does not matter, and space, hyphen
and underscore are the same. A `metadata.csv` with a `path` column, relative to its own folder, may add label, source (a
collection, hospital or scanner; else the set's name), patient, patient_group, fold, plane and mask, a row a slice; its
label comes before the folder's. Two published sets repacked as images have one of their own, and are read too: the figshare set
(id, pid, class, fold) and slices of TCIA Brain-Tumor-Progression (file, patient, tumor_pixels).
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from tumorscope.data.sources import Member, Source, check, readable
from tumorscope.errors import InputRejected
from tumorscope.labels import BY_FOLDER, CLASSES, TUMOUR, TUMOUR_FOLDERS

#: Raised when the same files would be planned otherwise, or other notices given, so that stored catalogues are looked at again.
PLANNING = 1
SPLITS = {"training": "train", "train": "train", "testing": "test", "test": "test"}
#: What metadata.csv may say of a slice beyond its label.
DESCRIBED = ("patient", "patient_group", "fold", "plane", "mask")
ENDINGS = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm"}
#: Of files that `inference.reading` reads beside images; DICOM goes without an ending too.
MEDICAL = (".dcm", ".ima", ".nii", ".nii.gz", ".mat")
#: Folders that a notice names, and folders that hold masks.
NAMED, MASKS = 5, ("mask", "masks")
#: Bytes that hold the prefix of a DICOM file, and the mark of a map.
HEAD = 132
#: What heat maps and masks of `predict` have in their first bytes, wherever they are put, so that none is taken for a slice.
MAP = b"tumorscope map"


@dataclass(frozen=True)
class Planned:
    """A file that claims to be a slice, before it is opened."""

    member: Member
    label: str
    split: str
    source: str
    patient: str = ""
    patient_group: str = ""
    fold: str = ""
    plane: str = ""
    mask: str = ""

    @property
    def path(self) -> str:
        """Name inside the source."""
        return self.member.name

    @property
    def image(self) -> bool:
        """Whether it is named as a single image; else it was taken for DICOM, NIfTI or MATLAB."""
        return _is_image(self.member)

    def columns(self) -> dict[str, object]:
        """The catalogue columns known without opening the file."""
        return {
            **{name: getattr(self, name) for name in ("path", "label", "split", "source", *DESCRIBED)},
            "picture": "",
        }


@dataclass(frozen=True)
class Layout:
    """Folder name, as `_plain` writes it, to class name."""

    classes: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, classes: dict[str, str] | None, kinds: bool = True) -> "Layout":
        """Our folder names and aliases, `classes` added to them; raises `InputRejected` for an unknown class.

        kinds : whether every tumour must be of a known kind; else folders such as yes/ and tumor/ hold the class `TUMOUR`
        """
        known = CLASSES if kinds else (*CLASSES, TUMOUR)
        for folder, name in (classes or {}).items():
            if name not in known:
                raise InputRejected(
                    "class", f"{folder}={name}", f"one of {', '.join(known)}", "Map it to one of these."
                )
        ours = BY_FOLDER if kinds else BY_FOLDER | dict.fromkeys(TUMOUR_FOLDERS, TUMOUR)
        added = {_plain(folder): name for folder, name in (classes or {}).items()}
        return cls(tuple(sorted((ours | added).items())))


def plan(source: Source, layout: Layout, medical: bool = False) -> tuple[list[Planned], tuple[str, ...]]:
    """Files that lie in a class folder and look like images, in name order, and notices about the others.

    medical : take DICOM, NIfTI and MATLAB files too
    """
    classes = dict(layout.classes)
    extra = _metadata(source)
    unlisted = extra.known - extra.rows.keys()
    planned: list[Planned] = []
    others, maps, outside, unknown, against = 0, 0, list[str](), dict[str, list[str]](), 0
    for member in source.members:
        if member.name in unlisted:
            continue
        if _is_map(source, member):
            maps += 1
            continue
        more = dict(extra.rows.get(member.name, {}))
        said, row = more.pop("label", ""), more.pop("row", "")
        folders = _label(member.name, classes)
        label = classes.get(_plain(said)) if said else folders
        if not (_may_hold_slices(source, member) if medical else _is_image(member)):
            others += 1
            continue
        if label is None and said:
            unknown.setdefault(said, []).append(row)
            continue
        if label is None:
            outside.append(member.name)
            continue
        against += folders not in (None, TUMOUR, label)
        collection = more.pop("source", "") or readable(source.path.stem)
        planned.append(Planned(member, label, _split(member.name), collection, **more))
    left = (*_notices(planned, others, maps, outside, classes), *_of_labels(unknown, against))
    return planned, tuple(map(readable, (*source.notices, *extra.notices, *left)))


def plan_pictures(source: Source) -> tuple[list[Planned], tuple[str, ...]]:
    """Images of whatever there is, in name order, to learn a backbone's weights on, and notices about the other files.

    They have the catalogue's classes where `plan` takes every image, or the very images that a metadata.csv names; else each has
    the folder that it lies in as its label. Masks that a metadata.csv names are not taken.
    """
    images = {member.name: member for member in source.members if _is_image(member) and not _is_map(source, member)}
    planned, extra = plan(source, Layout.of(None))[0], _metadata(source)
    named = extra.rows.keys() & images.keys()
    if len(planned) < len(images) and (not named or {item.path for item in planned} != named):
        masks = extra.known - extra.rows.keys()
        planned = [
            Planned(member, PurePosixPath(name).parent.name, "", "")
            for name, member in images.items()
            if name not in masks
        ]
    others = sum(PurePosixPath(member.name).name != "metadata.csv" for member in source.members) - len(planned)
    left = f"{others} files are no images, or metadata.csv names them as masks or not at all; they were left out."
    return planned, tuple(map(readable, (*source.notices, *extra.notices, *([left] if others else ()))))


def _folders(name: str) -> tuple[str, ...]:
    """The folders that a file lies in, from the top."""
    return PurePosixPath(name.replace("\\", "/")).parts[:-1]


def _label(name: str, classes: dict[str, str]) -> str | None:
    folders = [_plain(part) for part in _folders(name)]
    return next((classes[folder] for folder in reversed(folders) if folder in classes), None)


def _plain(name: str) -> str:
    """A folder's name or a label in lower case, with an underscore for what parts its words: "No-Tumor" is no_tumor."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _is_image(member: Member) -> bool:
    return PurePosixPath(member.name).suffix.lower() in ENDINGS


def may_hold_slices(name: str, dicom: Callable[[], bool]) -> bool:
    """Whether a file of any kind that is read may do so, by its ending or as DICOM. dicom : whether it begins as that"""
    # DICOM files often have no ending, or are named after a UID. DICOMDIR is the list of a disc's files.
    listing = PurePosixPath(name).name.upper() == "DICOMDIR"
    return not listing and (name.lower().endswith((*ENDINGS, *MEDICAL)) or dicom())


def starts_as_dicom(head: bytes) -> bool:
    """By the prefix after the preamble, or without one by a first element of group 2 or 8. head : first `HEAD` bytes, or more."""
    if head[128:132] == b"DICM":
        return True
    named = head[4:6].isalpha() and head[4:6].isupper()  # its value representation
    if head[:3] == b"\0\x08\0":  # big-endian, which always has one
        return named
    short = 0 < int.from_bytes(head[4:8], "little") <= 128
    return head[:2] in (b"\2\0", b"\x08\0") and head[3:4] == b"\0" and (named or short)


def is_map(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is a heat map or mask that `predict` wrote. head : gives its first `HEAD` bytes"""
    return name.lower().endswith((".png", ".nii.gz")) and MAP in head()


def _is_map(source: Source, member: Member) -> bool:
    try:
        return is_map(member.name, lambda: source.head(member.name, HEAD))
    except InputRejected:
        return False


def _may_hold_slices(source: Source, member: Member) -> bool:
    try:
        return may_hold_slices(member.name, lambda: starts_as_dicom(source.head(member.name, HEAD)))
    except InputRejected:  # it may: who reads it says why it cannot be read
        return True


def _split(name: str) -> str:
    folders = [part.lower() for part in _folders(name)]
    return next((SPLITS[folder] for folder in reversed(folders) if folder in SPLITS), "")


def _notices(planned: list[Planned], others: int, maps: int, outside: list[str], classes: dict[str, str]) -> list[str]:
    """What was left out: others, files of another kind; outside, names of those that lie in no folder of a known class."""
    notices = []
    if maps:
        notices.append(f"{maps} files are heat maps or masks that tumorscope wrote; they were left out.")
    if others:
        notices.append(f"{others} files hold no slices, by their names; they were left out.")
    masks = [name for name in outside if any(_plain(folder) in MASKS for folder in _folders(name))]
    if masks:
        notices.append(
            f"{len(masks)} files lie in folders of masks, and were left out. "
            "Name each beside its slice, in the column mask of a metadata.csv."
        )
    if len(outside) > len(masks):
        counts = _counted(sorted({*outside} - {*masks}), planned, classes)
        folders = ", ".join(f"{name or 'the top'} ({count})" for name, count in counts.most_common(NAMED))
        folders += f" and {len(counts) - NAMED} more" if len(counts) > NAMED else ""
        advised = next((name for name, _ in counts.most_common() if name), "FOLDER")
        notices.append(
            f"{counts.total()} files lie in folders of no known class, and were left out: {folders}. "
            f'Map each with --classes "{advised}=CLASS"; classes are {", ".join(sorted(set(classes.values())))}.'
        )
    missing = [name for name in CLASSES if all(item.label != name for item in planned)]
    if missing and all(item.label != TUMOUR for item in planned):
        notices.append(f"No slice of class {', '.join(missing)}.")
    return notices


def _counted(outside: list[str], planned: list[Planned], classes: dict[str, str]) -> Counter[str]:
    """How many files lie in each folder that a class may be said of: the topmost one that is no split and wraps no other
    classes. What wraps a class folder does, and what all files lie in, unless they lie in it alone.
    """
    wrappers = set[tuple[str, ...]]()
    for item in planned:
        folders = _folders(item.path)
        known = max((depth for depth, folder in enumerate(folders) if _plain(folder) in classes), default=0)
        wrappers |= {folders[:depth] for depth in range(1, known + 1)}
    paths = [_folders(name) for name in (*outside, *(item.path for item in planned))]
    common = next((depth for depth, level in enumerate(zip(*paths, strict=False)) if len({*level}) > 1), 0)
    wrappers |= {paths[0][:depth] for depth in range(1, common + 1)}
    counts = Counter[str]()
    for folders in map(_folders, outside):
        left = [folder for depth, folder in enumerate(folders, 1) if folders[:depth] not in wrappers]
        counts[next((folder for folder in left if folder.lower() not in SPLITS), "")] += 1
    return counts


def _of_labels(unknown: dict[str, list[str]], against: int) -> list[str]:
    """unknown : labels of no known class in metadata.csv, with their rows; against : slices whose folder names another class"""
    notices = [
        f"Label {label!r} is no known class ({', '.join(rows[:NAMED])}{' and more' if len(rows) > NAMED else ''}): "
        f'{len(rows)} files were left out. Map it with --classes "{label}=CLASS".'
        for label, rows in list(unknown.items())[:NAMED]
    ]
    if len(unknown) > NAMED:
        notices.append(
            f"{len(unknown) - NAMED} more labels of metadata.csv are no known class; their files were left out."
        )
    if against:
        notices.append(
            f"{against} slices lie in a folder of another class than their label in metadata.csv, which counts."
        )
    return notices


@dataclass(frozen=True)
class _Metadata:
    """What metadata.csv says: `rows`, slice name to label, source, `DESCRIBED` and row; `known`, names of masks and of itself."""

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
    rows = [_translated(row) for row in rows]
    if rows and "path" not in rows[0]:
        merged.notices.append(f"{name} has no column path; it was not used.")
        return
    absent = 0
    for number, row in enumerate(rows, start=2):  # as a spreadsheet counts them, below the header
        path, mask = (_beside(name, row.get(key) or "") for key in ("path", "mask"))
        absent += path not in members or (mask != "" and mask not in members)
        mask = mask if mask in members else ""
        merged.rows[path] = {key: (row.get(key) or "").strip() for key in ("label", "source", *DESCRIBED)} | {
            "mask": mask,
            "row": f"{name} row {number}",
        }
        merged.known.add(mask)
    if absent:
        merged.notices.append(f"{name}: {absent} rows name a slice or a mask that is not there.")


def _translated(row: dict[str, str]) -> dict[str, str]:
    """A row in our words; see the module's text for the sets that come with other ones."""
    if {"id", "pid", "class"} <= row.keys():
        paths = {"path": f"images/{row['id']}.jpg", "mask": f"masks/{row['id']}.png", "plane": ""}
        rest = {name: row.get(name) or "" for name in ("fold", "patient_group")}
        return {**paths, **rest, "label": row["class"], "patient": row["pid"]}
    if {"file", "patient", "tumor_pixels"} <= row.keys():
        tumour = row["tumor_pixels"].strip() not in ("", "0")  # a glioblastoma is a glioma
        described = {"label": "glioma" if tumour else "notumor", "patient": f"TCIA-BTP-{row['patient']:0>2}"}
        mask = f"masks/{row['file']}" if tumour else ""
        return {"path": f"images/{row['file']}", "mask": mask, "plane": "axial", **described}
    return row


def _beside(name: str, path: str) -> str:
    """`path` as written in the table `name`, as a name in the source."""
    return str(PurePosixPath(name).parent / path.strip().replace("\\", "/")) if path.strip() else ""
