"""Any labelled or unlabelled folder or archive of images, read whole: what backbones are pretrained on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tumorscope.config import Input
from tumorscope.data.catalogue import read_all
from tumorscope.data.decode import enlarge
from tumorscope.data.layout import plan_pictures
from tumorscope.data.sources import open_source
from tumorscope.errors import DataNotFound


@dataclass(frozen=True)
class Pictures:
    """Slices uint8 (n, s, s) as a recipe's input has them, the folder that each lies in, and what it is compared by.

    classes : folder names; labels : int64 (n,) into them; pixels_sha256 : of each; refused : files that could not be read
    notices : what else was left out
    """

    name: str
    images: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray
    pixels_sha256: tuple[str, ...]
    refused: int = 0
    notices: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of the set: the same pictures give the same."""
        return hashlib.sha256("".join(sorted(self.pixels_sha256)).encode()).hexdigest()[:16]

    def kept(self, rows: np.ndarray) -> "Pictures":
        """Some of them; classes that none is left of stay in the list."""
        hashes = tuple(np.array(self.pixels_sha256, object)[rows])
        return replace(self, images=self.images[rows], labels=self.labels[rows], pixels_sha256=hashes)


def read_pictures(path: Path, view: Input, progress: Callable[[int, int], None] = lambda done, total: None) -> Pictures:
    """Every image at `path`, a zip archive or folder: `layout.plan_pictures` says which, and what their classes are.

    Raises `DataNotFound` where there is no readable image.
    """
    source = open_source(path)
    planned, notices = plan_pictures(source)
    images, labels, hashes = [], [], []
    read = read_all(source, planned, (view.enlarged_from or view.size,), view.crop)
    for done, (item, outcome) in enumerate(zip(planned, read, strict=True), start=1):
        progress(done, len(planned))
        if isinstance(outcome, str):
            continue
        facts, (image,) = outcome
        images.append(enlarge(image, view.size, view.filter) if view.enlarged_from else image)
        labels.append(item.label)
        hashes.append(str(facts["pixels_sha256"]))
    if not images:
        raise DataNotFound(f"{path}: no readable image among {len(source.members)} files.")
    classes, codes = np.unique(labels, return_inverse=True)
    refused = len(planned) - len(images)
    stack, codes = np.stack(images), codes.astype(np.int64)
    return Pictures(source.path.name, stack, tuple(classes), codes, tuple(hashes), refused, notices)
