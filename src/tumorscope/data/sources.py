"""Where slices lie: a zip archive or a folder, read in place. Nothing is unpacked.

A `Source` lists its files (name, size, a stamp that changes with the bytes) and reads one file by name, within limits that
are checked before any byte is inflated or decoded.
"""

import hashlib
import os
import re
import stat
import struct
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from tumorscope.errors import DataNotFound, InputRejected

#: No slice needs more: the largest published one is a 1920-pixel JPEG of 0.7 MB.
MAX_FILE_BYTES = 64 * 2**20
#: Inflated size over stored size; images hardly compress, a bomb compresses a thousandfold.
MAX_RATIO = 200
#: Inflated bytes up to which the ratio says nothing: a blank BMP shrinks as far as a bomb does.
SMALL = 2**20
#: Codecs that inflate step by step; the others fill memory before a limit can be looked at.
CODECS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Member:
    """One file: `name` with forward slashes relative to the source, `size` in bytes, `stamp` changing with its bytes."""

    name: str
    size: int
    stamp: str
    stored: int


class Source(Protocol):
    """A set of files that can be listed and read by name; listing adds what it had to leave out to `notices`."""

    path: Path
    notices: list[str]

    @property
    def members(self) -> list[Member]:
        """Every file, in name order."""

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        """Bytes of one file; raises `InputRejected` where it cannot be read or has more than `most` bytes."""

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of one file, `size` at most; raises `InputRejected` where it cannot be read."""


def open_source(path: str | os.PathLike[str]) -> Source:
    """The archive or folder at `path`; raises `DataNotFound` or `InputRejected` when there is neither."""
    place = Path(path).expanduser()
    if place.is_dir():
        return FolderSource(place.resolve())
    if not place.exists():
        raise DataNotFound(
            f"{place}: no such file or folder. Give the path of a zip archive or of a folder of classes."
        )
    if not place.is_file() or not zipfile.is_zipfile(place):
        raise InputRejected(
            str(place), f"{place.stat().st_size:,} bytes", "not a zip archive", "Give a .zip archive or a folder."
        )
    return ZipSource(place.resolve())


def fingerprint(source: Source) -> str:
    """16 hex digits over names, sizes and stamps: changes whenever a file's bytes may have."""
    digest = hashlib.sha256()
    for member in source.members:
        digest.update(f"{member.name}\0{member.size}\0{member.stamp}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def check(member: Member, most: int = MAX_FILE_BYTES, ratio: float = MAX_RATIO) -> None:
    """Refuse a file that would leave the target, is too large or is a compression bomb; nothing has been read yet.

    most : bytes; ratio : inflated over stored size
    """
    if readable(member.name) != member.name:
        raise InputRejected("name", readable(member.name), "not UTF-8 or with control characters", "Rename the file.")
    parts = PurePosixPath(member.name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match("[A-Za-z]:", member.name):
        raise InputRejected("name in archive", member.name, "leaves the target folder", "Repack the archive.")
    if member.size > most:
        raise InputRejected(
            "file size",
            f"{member.size:,} bytes",
            f"at most {most:,} bytes a file",
            "Store slices as single images.",
        )
    if member.stored and member.size > max(SMALL, ratio * member.stored):
        raise InputRejected(
            "compression ratio",
            f"{member.size // member.stored}",
            f"at most {ratio} (looks like a decompression bomb)",
            "Repack the archive without it.",
        )


def readable(name: str) -> str:
    """`name` with control characters and bytes that are not UTF-8 written as escapes, fit for a terminal and a file."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Cs") else c for c in name)


def _at_most(content: bytes, name: str, most: int) -> bytes:
    if len(content) > most:
        raise InputRejected(name, f"over {most:,} bytes", "larger than it was listed with", "Repack it.")
    return content


class FolderSource:
    """A folder tree; links to folders are not followed, nor links to files outside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []

    @cached_property
    def members(self) -> list[Member]:
        """Every regular file below the folder, hidden ones left out, in name order."""
        return sorted(self._walk(), key=lambda member: member.name)

    def _walk(self) -> Iterator[Member]:
        for folder, subfolders, names in os.walk(self.path, onerror=self._closed):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            links = [Path(folder, name) for name in subfolders if Path(folder, name).is_symlink()]
            self.notices += [f"{self._name(link)}: a link to a folder, not followed." for link in links]
            yield from filter(None, (self._member(Path(folder, name)) for name in names if not name.startswith(".")))

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _closed(self, error: OSError) -> None:
        self.notices.append(f"{error.filename}: {error.strerror}; what lies in it was left out.")

    def _member(self, file: Path) -> Member | None:
        """The file as listed, None for pipes and devices."""
        try:
            facts = file.stat()
        except OSError:  # a dangling link, a closed folder: listed, so that `read` can say why it is left out
            return Member(self._name(file), 0, "unreadable", 0)
        if not stat.S_ISREG(facts.st_mode):
            return None
        return Member(self._name(file), facts.st_size, f"{facts.st_mtime_ns}-{facts.st_ctime_ns}", 0)

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        """Bytes of one file; raises `InputRejected` as `head` does, and past the limit."""
        return _at_most(self.head(name, most + 1), name, most)

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of one file; raises `InputRejected` when it lies outside the folder or cannot be read."""
        try:
            file = (self.path / name).resolve()
            if not file.is_relative_to(self.path):
                raise InputRejected("link", name, f"leaves {self.path}", "Copy the file into the folder.")
            with file.open("rb") as stream:
                return stream.read(size)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle; ValueError: a null byte
            reason = getattr(error, "strerror", None) or str(error)
            raise InputRejected(name, reason, "must be readable", "Check links and permissions.") from error


class ZipSource:
    """A zip archive read where it lies; CRC-32 of the central directory stands for the bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, struct.error) as error:
            raise InputRejected(str(path), str(error), "not a readable zip archive", "Download it again.") from error

    @cached_property
    def members(self) -> list[Member]:
        """Every file in name order, hidden ones left out; of several with one name the last counts, as for unzip."""
        infos = [
            info for info in self._zip.infolist() if not info.filename.endswith("/") and not _hidden(info.filename)
        ]
        last = {info.filename: info for info in infos}
        if len(last) < len(infos):
            self.notices.append(
                f"{len(infos) - len(last)} files have the name of a later one in the archive; left out."
            )
        return [
            Member(name, info.file_size, f"{info.CRC:08x}", info.compress_size) for name, info in sorted(last.items())
        ]

    def read(self, name: str, most: int = MAX_FILE_BYTES) -> bytes:
        """Bytes of one file, never more than the limit whatever the header says."""
        return _at_most(self.head(name, most + 1), name, most)

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of one file; no more than these are inflated."""
        try:
            info = self._zip.getinfo(name)
            if info.compress_type not in CODECS:
                raise NotImplementedError(f"compression method {info.compress_type}")
            with self._zip.open(info) as stream:
                return stream.read(size)
        except Exception as error:  # zipfile raises seven kinds, and zlib its own
            limit = "must be a whole, unencrypted file, stored or deflated"
            raise InputRejected(name, str(error), limit, "Repack the archive.") from error


def _hidden(name: str) -> bool:
    """Whether a system put it there: `._slice.jpg`, `.DS_Store`, `__MACOSX/`."""
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in re.split(r"[/\\]", name)
    )
