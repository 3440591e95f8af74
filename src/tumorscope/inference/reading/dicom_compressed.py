"""Compressed frames of a DICOM file, held against its header before they are decoded."""

from typing import Any

from tumorscope.errors import InputRejected

#: Markers of JPEG and JPEG-LS frames, and of what may stand before one (ISO/IEC 10918-1 table B.1, 14495-1 table C.1).
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
BEFORE_FRAMES = {0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xF8, 0xFE}
JP2 = b"\0\0\0\x0cjP  "


def check_frames(name: str, whole: Any, frames: int, rows: int, columns: int) -> None:
    """Refuse compressed frames of another number or size than the header says, which would be decoded before it is seen."""
    from pydicom import uid
    from pydicom.encaps import generate_frames
    from pydicom.pixels import get_decoder

    syntax = whole.file_meta.TransferSyntaxUID
    coded = syntax in (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes, *uid.JPEG2000TransferSyntaxes)
    if not coded and syntax != uid.RLELossless:
        if syntax in uid.AllTransferSyntaxes and not syntax.is_encapsulated:
            return
        known = "plain, deflated, RLE, JPEG, JPEG-LS or JPEG 2000"
        raise InputRejected(name, f"transfer syntax {syntax.name:.64}", known, "Export it uncompressed.")
    if not get_decoder(syntax).is_available:
        raise InputRejected(
            name, syntax.name, "a compression that is not installed", "pip install 'tumorscope[medical]'"
        )
    table = whole.get("ExtendedOffsetTable"), whole.get("ExtendedOffsetTableLengths")
    found = generate_frames(whole.PixelData, number_of_frames=frames, extended_offsets=table if all(table) else None)
    for number, frame in enumerate(found, start=1):
        if number > frames:
            raise InputRejected(name, "more frames", f"{frames} by its header", "Export it again.")
        size = _coded_size(frame) if coded else (rows, columns, 1)
        if size != (rows, columns, 1):
            value = f"{size[1]}x{size[0]} px in {size[2]} colours" if size else "none"
            limit = f"a frame of {columns}x{rows} grey px, by its header"
            raise InputRejected(name, value, limit, "Export it again.")


def _coded_size(code: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and colours that a JPEG, JPEG-LS or JPEG 2000 image says it has; None where they are not found."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(code[at : at + size], "big")

    if code.startswith(b"\xff\xd8"):
        at = 2
        while number(at, 1) == 0xFF:
            marker = number(at + 1, 1)
            if marker in FRAMES:
                return number(at + 5, 2), number(at + 7, 2), number(at + 9, 1)
            if marker != 0xFF and marker not in BEFORE_FRAMES:
                return None
            at += 1 if marker == 0xFF else 2 + number(at + 2, 2)
        return None
    at = 0
    if code.startswith(JP2):  # boxes, the last of them with the code (ISO/IEC 15444-1 I.4)
        while code[at + 4 : at + 8] != b"jp2c":
            if number(at, 4) < 8:
                return None
            at += number(at, 4)
        if b"pclr" in code[:at]:  # a palette: as many colours as it likes
            return None
        at += 16 if number(at, 4) == 1 else 8
    if code[at : at + 4] != b"\xff\x4f\xff\x51":
        return None
    return number(at + 12, 4) - number(at + 20, 4), number(at + 8, 4) - number(at + 16, 4), number(at + 40, 2)
