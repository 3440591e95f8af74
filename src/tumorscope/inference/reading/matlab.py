"""Slices of the figshare set in MATLAB v7.3 files."""

import io
import math
from collections.abc import Iterator

import numpy as np

from tumorscope.data.decode import MAX_PIXELS
from tumorscope.data.window import between
from tumorscope.errors import InputRejected
from tumorscope.inference.reading.slices import Slice


def read(name: str, content: bytes) -> Iterator[Slice]:
    """The slice in a file of the figshare set: a struct cjdata with an image.

    It is stretched from its least to its largest value, as the published pictures of this set are that networks learn from.
    """
    import h5py

    if not content.startswith(b"MATLAB 7.3"):
        raise InputRejected(name, content[:10].decode("latin-1"), "MATLAB 7.3 or newer", "Save it with -v7.3.")
    with h5py.File(io.BytesIO(content), "r") as file:
        stored = file.get("cjdata/image")
        if not isinstance(stored, h5py.Dataset) or stored.ndim != 2 or stored.dtype.kind not in "iuf":
            raise InputRejected(name, ", ".join(file)[:80], "a matrix cjdata.image", "Save the slice as it is there.")
        if stored.external or stored.is_virtual:  # HDF5 would open what it names on this machine
            raise InputRejected(name, "a matrix kept in another file", "one in this file", "Save it again.")
        if not 0 < stored.size <= MAX_PIXELS:
            raise InputRejected(name, f"{stored.size:,} px", f"1 to {MAX_PIXELS:,} pixels", "Give a single slice.")
        if stored.chunks and math.prod(stored.chunks) > MAX_PIXELS:  # each is unpacked whole
            size = "x".join(map(str, stored.chunks))
            raise InputRejected(name, f"chunks of {size} px", f"at most {MAX_PIXELS:,} pixels", "Save it again.")
        # HDF5 holds MATLAB's columns as rows.
        values = np.nan_to_num(np.asarray(stored[()], np.float64)).T
    yield Slice(name, between(values, float(values.min()), float(values.max())))
