"""Atomic writes: a reader sees the old file or the whole new one, never a half."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tumorscope.errors import TumorscopeError
from tumorscope.home import home


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving without an error it takes `path`'s place, else it is removed.

    A link stays: what it leads to is written. Raises `TumorscopeError` where the folder cannot be made or written, and as
    `check_target` does.
    """
    check_target(path)
    target = Path(os.path.realpath(path))
    temporary = _beside(target)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise `TumorscopeError` where `path` is no file, but a folder, a device or a pipe, which a file would take the place of."""
    if Path(path).exists() and not Path(path).is_file():
        kind = "a folder" if Path(path).is_dir() else "no regular file"
        raise TumorscopeError(f"{path}: {kind}, where a file is to be written. Give the name of a file.")


def check_folder(path: Path) -> None:
    """Raise `TumorscopeError` where `path` is a file, and no folder can be made."""
    if path.exists() and not path.is_dir():
        raise TumorscopeError(f"{path}: a file, where a folder is to be written. Give the name of a folder.")


def _beside(target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    except OSError as error:
        more = "; TUMORSCOPE_HOME sets that of caches" if target.is_relative_to(os.path.realpath(home())) else ""
        raise TumorscopeError(
            f"{target.parent}: {error.strerror}. Make it writable or choose another folder{more}."
        ) from error
    os.close(handle)
    return Path(name)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path` atomically, making its folder."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write UTF-8 `content` to `path` atomically, making its folder."""
    write_bytes(path, content.encode("utf-8", "surrogateescape"))  # a path that is not UTF-8 stays as it is


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as `as_json` gives it."""
    write_bytes(path, as_json(content))


def as_json(content: Any) -> bytes:
    """Indented JSON; NaN becomes null, since JSON has none."""
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # a path that is not UTF-8 becomes a JSON escape


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays to Python's own; NaN and infinities to None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
