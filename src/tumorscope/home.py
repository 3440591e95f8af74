"""Where tumorscope keeps what can be made again, and how many cores it may use."""

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """`$TUMORSCOPE_HOME`, else the user's cache folder; everything in it can be deleted."""
    return Path(os.environ.get("TUMORSCOPE_HOME") or platformdirs.user_cache_dir("tumorscope")).expanduser()


def datasets() -> Path:
    """Catalogues and pixel caches, a folder a data set."""
    return home() / "datasets"


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
