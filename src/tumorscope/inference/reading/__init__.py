"""Files of any kind that holds brain MR slices, to grey pixels as the networks were shown them.

PNG, JPEG, TIFF, BMP and more through `data.decode`; the other formats have a module each. Limits are set from headers, before a
pixel is decoded.
"""

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tumorscope.data.decode import FORMATS, NO_IMAGE, decode
from tumorscope.data.layout import starts_as_dicom
from tumorscope.errors import InputRejected, first_line
from tumorscope.inference.reading import dicom, matlab, nifti
from tumorscope.inference.reading.slices import Slice

#: Raised when a file's slices come out otherwise, so that answers kept from before are not gone on with.
READING = 3
#: Bytes of a file.
MAX_BYTES = 512 * 2**20
#: What to do with a file of another kind.
UNKNOWN = "Convert it (NRRD, MGZ and MetaImage to NIfTI, say), or unpack it."


def read_slices(name: str, content: bytes, *, plane: str = "axial", force: bool = False) -> Iterator[Slice]:
    """The slices in a file's bytes. plane : which way a volume is cut; force : take DICOM of another modality than MR.

    Raises `InputRejected` with value, limit and remedy.
    """
    if len(content) > MAX_BYTES:
        raise InputRejected(name, f"{len(content):,} bytes", f"at most {MAX_BYTES:,}", "Give single slices.")
    if starts_as_dicom(content):
        yield from _guarded(name, "DICOM", lambda: dicom.read(name, content, force))
    elif nifti.is_nifti(name, content):
        yield from _guarded(name, "NIfTI", lambda: nifti.read(name, content, plane))
    elif content.startswith(b"MATLAB"):
        yield from _guarded(name, "MATLAB v7.3", lambda: matlab.read(name, content))
    else:
        try:
            read = decode(content)
        except InputRejected as error:
            if not name.lower().endswith((".dcm", ".ima")):
                if error.value == NO_IMAGE:
                    limit = f"{', '.join(FORMATS)}, DICOM, NIfTI or a figshare .mat file"
                    raise InputRejected(name, "none of the kinds read", limit, UNKNOWN) from error
                raise
            yield from _guarded(name, "DICOM", lambda: dicom.read(name, content, force))
            return
        yield Slice(name, read.grey, read.chroma, rules=read.rules)


def _guarded(name: str, kind: str, read: Callable[[], Iterator[Slice]]) -> Iterator[Slice]:
    """What `read` gives; anything that a parser stumbles over is a refusal."""
    try:
        yield from read()
    except (InputRejected, ModuleNotFoundError):
        raise
    except MemoryError as error:
        raise InputRejected(name, "more memory than there is", f"a {kind} file", "Give single slices.") from error
    except Exception as error:
        reason = first_line(error)[:200]
        raise InputRejected(name, reason, f"not a readable {kind} file", "Export it again.") from error


def read_file(path: Path) -> bytes:
    """Bytes of a regular file within the limit; `InputRejected` for another."""
    if not stat.S_ISREG(path.stat().st_mode):  # a device may never end, a pipe never begin
        raise InputRejected(
            path.name, "no regular file", "files only", "Save it as a file, or give - for standard input."
        )
    with path.open("rb") as stream:
        content = read_stream(stream)
    if len(content) > MAX_BYTES:
        raise InputRejected(path.name, "more", f"at most {MAX_BYTES:,} bytes", "Give single slices.")
    return content


def read_stream(stream: BinaryIO) -> bytes:
    """What a stream holds, one byte more than the limit at most, so that `read_slices` refuses it."""
    return stream.read(MAX_BYTES + 1)
