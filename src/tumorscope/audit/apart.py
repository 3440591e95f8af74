"""Further pictures proven apart from a set: those that are a slice of it again, mirrored or stored anew, are left out."""

from pathlib import Path

import numpy as np

from tumorscope.audit.identify import CONFIRM, SMALL
from tumorscope.audit.pictures import group_pictures
from tumorscope.config import Input
from tumorscope.data.cache import pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.data.folder import Pictures, read_pictures


def apart(pictures: Pictures, place: Path, catalogue: Catalogue) -> Pictures:
    """`pictures`, which lie at `place`, without those that share a picture with a slice of `catalogue`.

    What is compared are whole slices, whatever crop `pictures` were read with. It tells pictures apart, not patients: two
    sets without a picture in common may still hold slices of one patient.
    """
    stacks = []
    for size in (SMALL, CONFIRM):
        theirs = read_pictures(place, Input(size=size))
        order = {digest: row for row, digest in enumerate(theirs.pixels_sha256)}
        rows = [order[digest] for digest in pictures.pixels_sha256]
        stacks.append(np.concatenate([np.asarray(pixels(catalogue, size)), theirs.images[rows]]))
    known = len(catalogue.table)
    exact = [*catalogue.table["pixels_sha256"], *pictures.pixels_sha256]
    group = group_pictures(stacks[0], stacks[1], exact).group
    return pictures.kept(np.flatnonzero(~np.isin(group[known:], group[:known])))
