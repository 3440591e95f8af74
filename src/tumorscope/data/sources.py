"""Where slices lie: a zip archive or a folder, read in place. Nothing is unpacked.

A `Source` lists its files (name, size, a stamp that changes with the bytes) and reads one file by name, within limits that
are checked before any byte is inflated or decoded.
"""

import hashlib
import os
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


@dataclass(frozen=True)
class Member:
    """One file: `name` with forward slashes relative to the source, `size` in bytes, `stamp` changing with its bytes."""

    name: str
    size: int
    stamp: str
    stored: int


class Source(Protocol):
    """A set of files that can be listed and read by name."""

    path: Path

    @property
    def members(self) -> list[Member]:
        """Every file, in name order."""

    def read(self, name: str) -> bytes:
        """Bytes of one file; raises `InputRejected` past the limits."""


def open_source(path: str | os.PathLike[str]) -> Source:
    """The archive or folder at `path`; raises `DataNotFound` or `InputRejected` when there is neither."""
    place = Path(path).expanduser()
    if place.is_dir():
        return FolderSource(place.resolve())
    if not place.exists():
        raise DataNotFound(
            f"{place}: no such file or folder. Give the path of a zip archive or of a folder of classes."
        )
    if not zipfile.is_zipfile(place):
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


def check(member: Member) -> None:
    """Refuse a file that would leave the target, is too large or is a compression bomb; nothing has been read yet."""
    parts = PurePosixPath(member.name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in (parts.parts or ("",))[0]:
        raise InputRejected("name in archive", member.name, "leaves the target folder", "Repack the archive.")
    if member.size > MAX_FILE_BYTES:
        raise InputRejected(
            "file size",
            f"{member.size:,} bytes",
            f"at most {MAX_FILE_BYTES:,} bytes a slice",
            "Store slices as single images.",
        )
    if member.stored and member.size > MAX_RATIO * member.stored + 4096:
        raise InputRejected(
            "compression ratio",
            f"{member.size // member.stored}",
            f"at most {MAX_RATIO} (looks like a decompression bomb)",
            "Repack the archive without it.",
        )


class FolderSource:
    """A folder tree; symbolic links that leave it are not followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def members(self) -> list[Member]:
        """Every regular file below the folder, hidden ones left out, in name order."""
        return sorted(self._walk(), key=lambda member: member.name)

    def _walk(self) -> Iterator[Member]:
        for folder, subfolders, names in os.walk(self.path):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for name in names:
                file = Path(folder, name)
                if name.startswith(".") or not file.is_file():
                    continue
                stat = file.stat()
                relative = file.relative_to(self.path).as_posix()
                yield Member(relative, stat.st_size, f"{stat.st_mtime_ns}-{stat.st_ctime_ns}", 0)

    def read(self, name: str) -> bytes:
        """Bytes of one file; raises `InputRejected` when it lies outside the folder or cannot be read."""
        file = (self.path / name).resolve()
        if not file.is_relative_to(self.path):
            raise InputRejected("link", name, f"leaves {self.path}", "Copy the file into the folder.")
        try:
            return file.read_bytes()
        except OSError as error:
            raise InputRejected(
                name, error.strerror or "unreadable", "must be readable", "Check permissions."
            ) from error


class ZipSource:
    """A zip archive read where it lies; CRC-32 of the central directory stands for the bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputRejected(str(path), str(error), "not a readable zip archive", "Download it again.") from error

    @cached_property
    def members(self) -> list[Member]:
        """Every file in name order; of two with one name the later counts, as unzip tools do."""
        infos = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        return [
            Member(info.filename, info.file_size, f"{info.CRC:08x}", info.compress_size)
            for _, info in sorted(infos.items())
            if not info.filename.startswith("__MACOSX/")
        ]

    def read(self, name: str) -> bytes:
        """Bytes of one file, never more than the limit whatever the header says."""
        try:
            with self._zip.open(name) as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, ValueError) as error:
            raise InputRejected(
                name, str(error), "damaged, encrypted or of an unknown compression", "Repack it."
            ) from error
        except Exception as error:  # zlib.error, lzma.LZMAError: each codec has its own
            raise InputRejected(name, str(error), "damaged in the archive", "Download it again.") from error
        if len(content) > MAX_FILE_BYTES:
            raise InputRejected(name, f"over {MAX_FILE_BYTES:,} bytes", "larger than its header says", "Repack it.")
        return content
