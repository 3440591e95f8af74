"""Find the data for the main job: a path given, `$TUMORSCOPE_DATA`, a cached or new download, else the phantom set."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from tumorscope import home
from tumorscope.data.cards import CARDS
from tumorscope.errors import DataNotFound

KAGGLE = ("www.kaggle.com", 443)
#: Seconds to wait for an answer before the network counts as absent.
PATIENCE = 3.0


def find_data(path: str | os.PathLike[str] | None, say: Callable[[str], None]) -> Path:
    """Archive or folder to work on; `say` is told where it comes from. Raises `DataNotFound` for a path that is not there."""
    for place, origin in ((path, "--data"), (os.environ.get("TUMORSCOPE_DATA"), "$TUMORSCOPE_DATA")):
        if place:
            found = Path(place).expanduser()
            if not found.exists():
                raise DataNotFound(f"{origin} {place}: no such file or folder.")
            say(f"Data: {found} (from {origin}).")
            return found
    try:
        return fetch("nickparvar", say)
    except DataNotFound as error:
        say(str(error))
    say("Data: the embedded phantom set. These are drawn, not patients: its scores say nothing of real slices.")
    return phantom()


def fetch(name: str, say: Callable[[str], None]) -> Path:
    """Folder of a data set downloaded with kagglehub, or the one downloaded before.

    Raises `DataNotFound` with what to do instead where the set cannot be fetched or no network answers.
    """
    card = CARDS.get(name)
    if card is None or not card.handle:
        can = ", ".join(known.name for known in CARDS.values() if known.handle)
        raise DataNotFound(f"{name}: cannot be fetched. Fetchable: {can}. See `tumorscope data list`.")
    target = home.home() / "downloads" / name
    if (target / "COMPLETE").exists():
        say(f"Data: {target} (downloaded before; licence {card.licence}).")
        return target
    _need_network(card.url)
    say(f"Downloading {card.title}; licence {card.licence}.")
    return _download(card.handle, card.url, target)


def phantom() -> Path:
    """The phantom archive, drawn on first use."""
    from tumorscope.data.phantom import write_phantom

    target = home.home() / "phantom.zip"
    return target if target.exists() else write_phantom(target)


def _download(handle: str, url: str, target: Path) -> Path:
    try:
        import kagglehub
    except ImportError as error:
        raise DataNotFound(
            f"kagglehub is not installed. pip install 'tumorscope[fetch]', or {_by_hand(url)}"
        ) from error
    try:
        kagglehub.dataset_download(handle, output_dir=str(target), force_download=True)
    except Exception as error:  # kagglehub raises its own and requests' errors
        raise DataNotFound(f"Kaggle: {error}. Or {_by_hand(url)}") from error
    (target / "COMPLETE").touch()
    return target


def _need_network(url: str) -> None:
    try:
        socket.create_connection(KAGGLE, timeout=PATIENCE).close()
    except OSError as error:
        raise DataNotFound(f"No answer from {KAGGLE[0]} ({error}). To use the real set, {_by_hand(url)}") from error


def _by_hand(url: str) -> str:
    return f"download the archive from {url} and give its path with --data."
