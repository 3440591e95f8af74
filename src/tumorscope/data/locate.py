"""Find the data for the main job: a path given, `$TUMORSCOPE_DATA`, a cached or new download, else the phantom set."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from tumorscope import home
from tumorscope.data.cards import CARDS
from tumorscope.errors import DataNotFound

KAGGLE = ("www.kaggle.com", 443)
#: Seconds to wait for an answer before the network counts as absent.
PATIENCE = 3.0
#: File that marks a finished download; hidden, so that it is not taken for data.
WHOLE = ".whole"


def find_data(path: str | os.PathLike[str] | None, say: Callable[[str], None]) -> Path:
    """Archive or folder to work on; `say` is told where it comes from. Raises `DataNotFound` for a path that is not there."""
    for place, origin in ((path, "as given"), (os.environ.get("TUMORSCOPE_DATA"), "$TUMORSCOPE_DATA")):
        if place:
            found = Path(place).expanduser()
            if not found.exists():
                raise DataNotFound(f"{place} ({origin}): no such file or folder. Give a zip archive or a folder.")
            say(f"Data: {found} ({origin}).")
            return found
    try:
        return fetch("nickparvar", say)
    except DataNotFound as error:
        say(str(error))
    say("Data: the phantom set. These are drawn, not patients: its scores say nothing of real slices.")
    return phantom(say)


def fetch(name: str, say: Callable[[str], None]) -> Path:
    """Folder of a data set downloaded with kagglehub, or the one downloaded before.

    Raises `DataNotFound` with what to do instead where the set cannot be fetched or no network answers.
    """
    card = CARDS.get(name)
    if card is None or not card.handle:
        can = ", ".join(known.name for known in CARDS.values() if known.handle)
        raise DataNotFound(f"{name}: cannot be fetched. Fetchable: {can}. See `tumorscope data list`.")
    target = home.home() / "downloads" / name
    if (target / WHOLE).exists():
        say(f"Data: {target} (downloaded before; licence {card.licence}).")
        return target
    _need_network(card.url)
    say(f"Downloading {card.title}; licence {card.licence}.")
    return _download(card.handle, card.url, target)


def phantom(say: Callable[[str], None]) -> Path:
    """The phantom archive, drawn on first use, which `say` is told since it takes a while."""
    from tumorscope.data.phantom.archive import write_phantom

    target = home.home() / "phantom.zip"
    if not target.exists():
        say("Drawing it, once; that takes half a minute.")
        write_phantom(target)
    return target


def _download(handle: str, url: str, target: Path) -> Path:
    try:
        import kagglehub
    except ImportError as error:
        raise DataNotFound(
            f"kagglehub is not installed. pip install 'tumorscope[fetch]', or {_by_hand(url)}"
        ) from error
    try:
        place = Path(kagglehub.dataset_download(handle, output_dir=str(target), force_download=True))
    except Exception as error:  # kagglehub raises its own and requests' errors
        raise DataNotFound(f"Kaggle: {error}. Or {_by_hand(url)}") from error
    if place == target:  # notebooks of Kaggle and Colab keep the set at a place of their own
        (target / WHOLE).touch()
    return place


def _need_network(url: str) -> None:
    """Raise `DataNotFound` unless the way to Kaggle answers in `PATIENCE` seconds."""
    if reason := silence(*KAGGLE):
        raise DataNotFound(f"{reason} To use the real set, {_by_hand(url)}")


def silence(host: str, port: int) -> str:
    """Why `host`, or the proxy on the way to it where one is set, takes no connection in `PATIENCE` seconds; "" if it does."""
    proxy = urlsplit(getproxies().get("https", ""))
    place = (proxy.hostname, proxy.port or 80) if proxy.hostname else (host, port)
    outcome = []

    def knock() -> None:
        try:
            socket.create_connection(place, timeout=PATIENCE).close()
            outcome.append("")
        except OSError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=knock, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(PATIENCE)
    reason = outcome[0] if outcome else f"waited {PATIENCE:.0f} s"
    return f"No answer from {place[0]} ({reason})." if reason else ""


def _by_hand(url: str) -> str:
    return f"download the archive from {url} and give its path with --data."
