"""Readers: known pixels through every rule of DICOM and NIfTI, and files that ship with pydicom and nibabel."""

import gzip
import io
import os
import struct
import tracemalloc
import zlib
from itertools import permutations
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from tumorscope.data.layout import Layout, plan
from tumorscope.data.sources import open_source
from tumorscope.errors import DataNotFound, InputRejected
from tumorscope.inference import reading
from tumorscope.inference.batch import expand, with_maps
from tumorscope.inference.classifier import Classifier, Finding
from tumorscope.inference.reading import dicom as dicom_reader
from tumorscope.inference.reading import read_slices
from tumorscope.inference.reading.dicom_compressed import _coded_size
from tumorscope.inference.reading.slices import MAX_UNPACKED, Stored, square

RAMP = np.arange(0, 4000, 40, dtype=np.uint16).reshape(10, 10)


def dicom(pixels: np.ndarray = RAMP, **tags) -> bytes:
    """An MR file of these pixels, uint16 (h, w) or (frames, h, w), with tags changed."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    one.Modality, one.PhotometricInterpretation, one.SamplesPerPixel = "MR", "MONOCHROME2", 1
    one.Rows, one.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        one.NumberOfFrames = len(pixels)
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.PatientName = "Secret^Name"
    one.PixelData = pixels.astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(one, name, value)
    buffer = io.BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read(content: bytes, name: str = "a.dcm", **options):
    return list(read_slices(name, content, **options))


def test_the_window_is_the_standards_linear_function():
    """PS3.3 C.11.2.1.2.1: y = ((x - (c - 0.5)) / (w - 1) + 0.5) * 255, here c 2000 and w 1001."""
    (one,) = read(dicom(WindowCenter=2000, WindowWidth=1001))
    by_hand = np.round((((RAMP - 1999.5) / 1000 + 0.5) * 255).clip(0, 255))
    np.testing.assert_array_equal(one.grey, by_hand)


def test_rescale_slope_and_intercept_come_before_the_window():
    plain = read(dicom(WindowCenter=2000, WindowWidth=1000))[0].grey
    scaled = read(dicom(RescaleSlope=2, RescaleIntercept=-100, WindowCenter=3900, WindowWidth=1999))[0].grey
    assert np.abs(plain.astype(int) - scaled).max() <= 1


def test_without_a_window_percentiles_of_what_lies_above_the_background_make_one():
    """Of 99 values from 40 to 3960 these are 59.6 and 3940.4; 0 is the background."""
    grey = read(dicom())[0].grey
    np.testing.assert_array_equal(grey, np.round(((RAMP - 59.6) * 255 / 3880.8).clip(0, 255)))


def tissue() -> np.ndarray:
    """Half air and half tissue of 1000 to 1199, uint16 (20, 20): its percentiles are 1000.995 and 1198.005."""
    return np.r_[np.zeros(200), np.arange(1000, 1200)].astype(np.uint16).reshape(20, 20)


#: Its first row, which is air.
FIRST = np.arange(20)[:, None] == 0


def as_image(pixels: np.ndarray, kind: str = "TIFF") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.dcm", dicom(tissue())),
        ("a.dcm", dicom(2000 - tissue().astype(int), PhotometricInterpretation="MONOCHROME1")),
        ("a.dcm", dicom(np.where(FIRST, 65535, tissue()), PixelPaddingValue=65535)),
        ("a.nii", nibabel.Nifti1Image(tissue()[::-1, ::-1].T, np.eye(4)).to_bytes()),
        ("a.png", as_image(tissue(), "PNG")),
        ("a.tif", as_image(tissue().astype(np.int32))),
        ("a.tif", as_image(tissue().astype(np.float32))),
        ("a.tif", as_image(np.where(FIRST, np.nan, tissue() / 1024 - 5).astype(np.float32))),
    ],
    ids=["dicom", "monochrome1", "padding", "nifti", "16 bit", "32 bit", "float", "negative float"],
)
def test_a_slice_without_a_window_has_the_same_greys_in_every_kind_of_file(name, content):
    (one,) = read(content, name)
    np.testing.assert_array_equal(one.grey, np.round(((tissue() - 1000.995) * 255 / 197.01).clip(0, 255)))


@pytest.mark.parametrize("container", ["dicom", "nifti"])
def test_a_volume_has_one_window(container):
    """Tissue of 1000 to 1199 beside a slice twice as bright: of all 400 values these are 1001.995 and 2394.01."""
    frames = np.stack([tissue(), 2 * tissue()])
    nifti = nibabel.Nifti1Image(frames[:, ::-1, ::-1].T, np.eye(4)).to_bytes()
    found = read(*{"dicom": (dicom(frames), "a.dcm"), "nifti": (nifti, "a.nii")}[container])
    for one, frame in zip(found, frames, strict=True):
        by_hand = np.round(((frame - 1001.995) * 255 / 1392.015).clip(0, 255))
        np.testing.assert_array_equal(one.grey, by_hand)


def test_a_frame_without_a_window_beside_one_that_has_it_gets_its_own():
    window = items(FrameVOILUTSequence=items(WindowCenter=1000, WindowWidth=2001))
    groups = pydicom.Sequence([window[0], pydicom.Dataset()])
    stated, unstated = read(dicom(np.stack([tissue(), tissue()]), PerFrameFunctionalGroupsSequence=groups))
    np.testing.assert_array_equal(stated.grey[-1], np.round((tissue()[-1] + 0.5) * 255 / 2000))
    np.testing.assert_array_equal(unstated.grey, read(dicom(tissue()))[0].grey)


def test_monochrome1_is_turned_round():
    window = {"WindowCenter": 2000, "WindowWidth": 4000}
    white = read(dicom(**window))[0].grey
    black = read(dicom(PhotometricInterpretation="MONOCHROME1", **window))[0].grey
    np.testing.assert_array_equal(black, 255 - white)


def test_a_white_border_of_0_stays_white_without_a_window():
    """Around values of 500 to 1400 in two frames, a patch of one padding: as in their window, but for half a percentile."""
    stored = np.zeros((2, 40, 40), np.uint16)
    stored[:, 5:35, 5:35] = np.linspace(500, 1400, 900).reshape(30, 30)
    stored[1, 10:14, 10:14] = 9999
    tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 9999}
    stated = read(dicom(stored, WindowCenter=700.5, WindowWidth=1401, **tags))
    for one, other in zip(read(dicom(stored, **tags)), stated, strict=True):
        assert (one.grey[:5] == 255).all()
        assert np.abs(one.grey.astype(int) - other.grey).max() <= 3


def test_frames_without_a_window_take_few_copies(monkeypatch):
    """Bytes a voxel: 2 in the data set, 2 as an array, 4 while they are windowed, 1 as greys; other floats would be 4 more."""
    monkeypatch.setattr("tumorscope.data.window.LOOKED_AT", 1000)
    frames = np.random.default_rng(0).integers(0, 4000, (64, 128, 128), np.uint16)
    content = dicom(frames)
    read(content)  # modules are loaded
    tracemalloc.start()
    try:
        read(content)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 11 * frames.size


def test_signed_pixels_are_read_with_their_sign_whatever_stands_above_the_stored_bits():
    """-500 to 490 in 16 bits, and in 12 with nothing above them; window from -500.5 to 499.5."""
    values = np.arange(-500, 500, 10, dtype=np.int16).reshape(10, 10)
    window = {"PixelRepresentation": 1, "WindowCenter": 0, "WindowWidth": 1001}
    by_hand = np.round((values + 0.5) / 1000 * 255 + 127.5)
    stored = values.view(np.uint16)
    np.testing.assert_array_equal(read(dicom(stored, **window))[0].grey, by_hand)
    short = dicom(stored & 0x0FFF, BitsStored=12, HighBit=11, **window)
    np.testing.assert_array_equal(read(short)[0].grey, by_hand)


@pytest.mark.parametrize("value", [-32768, 32768])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_is_no_tissue_and_black(value, photometric):
    """Two of ten rows at -32768, also written without its sign; the least of the others is background too."""
    values = np.arange(-500, 500, 10, dtype=np.int16).reshape(10, 10)
    values[:2] = -32768
    tags = {
        "PixelRepresentation": 1,
        "RescaleSlope": 2,
        "RescaleIntercept": 7,
        "PhotometricInterpretation": photometric,
    }
    content = bytearray(dicom(values.view(np.uint16), PixelPaddingValue=-32768, **tags))
    if value > 0:
        at = content.index(b"\x28\x00\x20\x01")
        content[at + 4 : at + 6] = b"US"
    (one,) = read(bytes(content))
    measured = values[2:] if photometric == "MONOCHROME2" else -values[2:]
    low, high = np.percentile(measured[measured > measured.min()], (0.5, 99.5))
    by_hand = np.round(((measured - low) * 255 / (high - low)).clip(0, 255)).astype(int)
    assert (one.grey[:2] == 0).all()
    assert np.abs(one.grey[2:] - by_hand).max() <= 1


def test_padding_may_be_a_range_from_either_end():
    """Of 0 to 3960, what lies from 3000 to 3960 is padding; with a window too it is black."""
    for ends in ((3000, 3960), (3960, 3000)):
        tags = dict(zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), ends, strict=True))
        (one,) = read(dicom(**tags, WindowCenter=2000, WindowWidth=4000))
        assert (one.grey[RAMP >= 3000] == 0).all()
        assert one.grey[RAMP == 2960] == 189  # (960.5 / 3999 + 0.5) * 255 = 188.7
    (one,) = read(dicom(PixelPaddingValue=0, PixelPaddingRangeLimit=3960))  # nothing but padding
    assert not one.grey.any()


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_are_padding(nothing):
    """Two of ten rows; what lies above the least of the others has its percentiles, or all the file's window."""
    values = np.linspace(-1, 1, 100, dtype=np.float32).reshape(10, 10)
    values[:2] = nothing
    for window in ({}, {"WindowCenter": 0, "WindowWidth": 2, "VOILUTFunction": "LINEAR_EXACT"}):
        one = pydicom.dcmread(io.BytesIO(dicom(**window)))
        del one.PixelData, one.BitsStored, one.HighBit, one.PixelRepresentation
        one.BitsAllocated, one.FloatPixelData = 32, values.tobytes()
        buffer = io.BytesIO()
        one.save_as(buffer)
        (found,) = read(buffer.getvalue())
        low, high = (-1, 1) if window else np.percentile(values[2:].ravel()[1:], (0.5, 99.5))
        by_hand = np.round(((values[2:] - low) * 255 / (high - low)).clip(0, 255)).astype(int)
        assert (found.grey[:2] == 0).all()
        assert np.abs(found.grey[2:] - by_hand).max() <= 1


def test_of_several_windows_the_first_counts():
    several = read(dicom(WindowCenter=[2000, 100], WindowWidth=[1001, 50]))[0].grey
    np.testing.assert_array_equal(several, read(dicom(WindowCenter=2000, WindowWidth=1001))[0].grey)


@pytest.mark.parametrize(
    ("function", "at"),
    [
        # Of x = 1000, 1500, 2000, 2480 with c 2000 and w 1000: 255 ((x - c) / w + 0.5), and 255 / (1 + exp(-4 (x - c) / w)).
        ("LINEAR_EXACT", (0, 0, 128, 250)),
        ("SIGMOID", (5, 30, 128, 222)),
        ("LINEAR", (0, 0, 128, 250)),
    ],
)
def test_windows_have_the_function_that_the_file_names(function, at):
    """PS3.3 C.11.2.1.3."""
    pixels = RAMP.copy()
    pixels[0, :4] = (1000, 1500, 2000, 2480)
    grey = read(dicom(pixels, WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function))[0].grey
    assert tuple(grey[0, :4]) == at
    shifted = read(dicom(pixels, WindowCenter=2000, WindowWidth=0.5, VOILUTFunction=function))[0].grey
    if function == "LINEAR":  # a width below 1 is none: percentiles
        assert 0 < np.median(shifted) < 255
    else:
        assert tuple(shifted[0, :4]) == (0, 0, 128, 255)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_table_of_grey_values_stands_in_for_a_window(bits):
    """PS3.3 C.11.2.1.1: four entries from the value 1000 on; what lies below and above has the first and the last."""
    white = 2**bits - 1
    entries = [white, 0, white // 5, 3 * (white // 5)]
    table = table_of(4, 1000, bits, entries)
    pixels = RAMP.copy()
    pixels[0, :6] = (0, 1000, 1001, 1002, 1003, 3000)
    (one,) = read(dicom(pixels, VOILUTSequence=table))
    assert tuple(one.grey[0, :6]) == (255, 255, 0, 51, 153, 153)
    scaled = read(dicom(pixels, VOILUTSequence=table, RescaleSlope=1, RescaleIntercept=-1))[0]
    assert tuple(scaled.grey[0, :6]) == (255, 255, 255, 0, 51, 153)  # the table is of rescaled values
    windowed = read(dicom(pixels, VOILUTSequence=table, WindowCenter=2000, WindowWidth=1000))[0]
    np.testing.assert_array_equal(windowed.grey, read(dicom(pixels, WindowCenter=2000, WindowWidth=1000))[0].grey)
    short = table_of(5, 1000, bits, entries)
    np.testing.assert_array_equal(read(dicom(pixels, VOILUTSequence=short))[0].grey, read(dicom(pixels))[0].grey)


def test_a_table_of_bytes_may_be_longer_than_256():
    table = items(LUTDescriptor=[4096, 0, 8])
    table[0].add_new("LUTData", "OW", (np.arange(4096) // 16).astype(np.uint8).tobytes())
    np.testing.assert_array_equal(read(dicom(VOILUTSequence=table))[0].grey, RAMP // 16)


def table_of(length: int, first: int, bits: int, entries: list[int]) -> pydicom.Sequence:
    """A VOI LUT whose entries are words."""
    table = items(LUTDescriptor=[length, first, bits])
    table[0].add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return table


def items(**tags) -> pydicom.Sequence:
    """A sequence of one item with these tags."""
    one = pydicom.Dataset()
    for name, value in tags.items():
        setattr(one, name, value)
    return pydicom.Sequence([one])


def enhanced(frames: np.ndarray, heights: tuple[float, ...], **more) -> bytes:
    """An enhanced MR file: rescale, window and place of each frame, spacing and orientation of all."""
    each = [
        items(
            PixelValueTransformationSequence=items(RescaleSlope=slope, RescaleIntercept=shift, RescaleType="US"),
            FrameVOILUTSequence=items(WindowCenter=slope * 2000 + shift, WindowWidth=slope * 1000 + 1),
            PlanePositionSequence=items(ImagePositionPatient=[7, -3, height]),
        )[0]
        for slope, shift, height in zip((1, 2, 0.5), (0, 10, -100), heights, strict=True)
    ]
    shared = items(
        PixelMeasuresSequence=items(PixelSpacing=[2.0, 1.0]),
        PlaneOrientationSequence=items(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    )
    groups = {"PerFrameFunctionalGroupsSequence": pydicom.Sequence(each), "SharedFunctionalGroupsSequence": shared}
    return dicom(frames, **groups, **more)


def test_an_enhanced_file_says_rescale_window_and_place_by_frame_and_spacing_for_all():
    """Each window is that of the plain file moved and stretched as the frame's values are; rows are doubled by the spacing."""
    plain = read(dicom(PixelSpacing=[2.0, 1.0], WindowCenter=2000, WindowWidth=1001))[0].grey
    found = read(enhanced(np.stack([RAMP, RAMP, RAMP]), (5, 1, 3)))
    assert [one.name for one in found] == ["a.dcm#2", "a.dcm#3", "a.dcm#1"]  # from the lowest place to the highest
    assert {one.plane for one in found} == {"axial"}
    for one in found:
        assert one.grey.shape == (20, 10)
        assert np.abs(one.grey.astype(int) - plain).max() <= 1  # the half of the standard's window is not stretched
    again = read(enhanced(np.stack([RAMP, RAMP, RAMP]), (5, 1, 1)))  # two at one place: no order by place
    assert [one.name for one in again] == ["a.dcm#1", "a.dcm#2", "a.dcm#3"]
    black = read(enhanced(np.stack([RAMP, RAMP, RAMP]), (5, 1, 3), PhotometricInterpretation="MONOCHROME1"))
    assert np.abs(black[0].grey.astype(int) - (255 - plain)).max() <= 1


def test_a_frames_own_groups_come_before_those_of_all_and_these_before_the_file():
    frame = items(PixelMeasuresSequence=items(PixelSpacing=[3.0, 1.0]))
    shared = items(PixelMeasuresSequence=items(PixelSpacing=[2.0, 1.0]))
    tags = {"PixelSpacing": [1.0, 1.0], "SharedFunctionalGroupsSequence": shared}
    assert read(dicom(**tags))[0].grey.shape == (20, 10)
    assert read(dicom(PerFrameFunctionalGroupsSequence=frame, **tags))[0].grey.shape == (30, 10)


def test_bits_above_those_stored_are_not_pixels():
    stored = RAMP % 4096
    marked = stored | np.uint16(0xF000)
    window = {"WindowCenter": 2000, "WindowWidth": 4000, "BitsStored": 12, "HighBit": 11}
    np.testing.assert_array_equal(read(dicom(marked, **window))[0].grey, read(dicom(stored, **window))[0].grey)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("high", [11, 13, 15])
def test_values_in_the_upper_bits_of_their_words_are_moved_down(high, signed):
    """12 bits with 0, 2 or 4 below them, in which old files keep other things: -1000 to 980, or 1000 to 2980."""
    values = np.arange(-1000, 1000, 20, dtype=np.int16).reshape(10, 10) + 2000 * (1 - signed)
    below = high - 11
    words = ((values & 0x0FFF).astype(np.uint16) << below) | np.uint16((1 << below) - 1)
    tags = pydicom.Dataset()
    tags.BitsStored, tags.HighBit, tags.PixelRepresentation = 12, high, signed
    centre = 2000 * (1 - signed)
    for syntax in (ExplicitVRLittleEndian, pydicom.uid.RLELossless):
        file, buffer = pydicom.dcmread(io.BytesIO(dicom(words, WindowCenter=centre, WindowWidth=2001))), io.BytesIO()
        if syntax == pydicom.uid.RLELossless:
            file.compress(syntax)
        file.update(tags)
        file.save_as(buffer)
        (one,) = read(buffer.getvalue())
        np.testing.assert_array_equal(one.grey, np.round((values - centre + 0.5) / 2000 * 255 + 127.5))


def test_values_that_need_no_upper_bit_stay_where_they_are_whatever_the_header_says():
    window = {"WindowCenter": 2000, "WindowWidth": 4000, "BitsStored": 12}
    careless, right = (read(dicom(RAMP % 4096, HighBit=high, **window))[0].grey for high in (15, 11))
    np.testing.assert_array_equal(careless, right)


@pytest.mark.parametrize("high", [7, 16])
def test_a_highest_bit_that_cannot_be_is_refused(high):
    with pytest.raises(InputRejected, match=f"HighBit {high}; 11 to 15 by its header"):
        read(dicom(RAMP, BitsStored=12, HighBit=high))


def test_every_frame_is_a_slice():
    found = read(dicom(np.stack([RAMP, RAMP[::-1]]), WindowCenter=2000, WindowWidth=4000))
    assert [one.name for one in found] == ["a.dcm#1", "a.dcm#2"]
    np.testing.assert_array_equal(found[1].grey, found[0].grey[::-1])


@pytest.mark.parametrize(
    ("cosines", "plane"),
    [([1, 0, 0, 0, 1, 0], "axial"), ([1, 0, 0, 0, 0, -1], "coronal"), ([0, 1, 0, 0, 0, -1], "sagittal")],
)
def test_the_plane_comes_from_the_orientation(cosines, plane):
    assert read(dicom(ImageOrientationPatient=cosines))[0].plane == plane


@pytest.mark.parametrize("cosines", [[0] * 6, [1, 0, 0, 1, 0, 0], [0, -1, 0, 0, 1, 0]])
def test_directions_that_span_no_plane_say_nothing(cosines):
    """Wiped or broken: no plane, no turn, and the order is that of instance numbers."""
    content = dicom(ImageOrientationPatient=cosines, ImagePositionPatient=[0, 0, 9], InstanceNumber=4)
    (one,) = read(content)
    assert (one.plane, one.stored) == ("", Stored((10, 10)))
    np.testing.assert_array_equal(one.grey, read(dicom())[0].grey)
    assert dicom_reader.position(content)[:2] == ("", 4.0)


@pytest.mark.parametrize(("across", "down"), list(permutations(range(3), 2)))
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize("tilt", [0, 20])
def test_a_slice_is_shown_as_radiologists_look_at_it_however_it_is_stored(across, down, signs, tilt):
    """A pixel at the patient's right or front and at the front or top is at the upper left: its own axes say where it lies.

    Upper left is right and front of an axial slice, right and top of a coronal one, front and top of a sagittal one.
    """
    cosines = np.zeros((2, 3))
    cosines[0, across], cosines[1, down] = signs
    angle = np.deg2rad(tilt)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    places = np.indices((6, 8)).transpose(1, 2, 0)[..., ::-1] @ cosines  # (6, 8, 3): left, back, up of each pixel
    corner = places * (-1, -1, 1)  # right, front, up
    corner = corner.sum(axis=2)
    pixels = np.zeros((6, 8), np.uint16)
    pixels[np.unravel_index(corner.argmax(), corner.shape)] = 4000
    window = {"WindowCenter": 2000, "WindowWidth": 4000, "PixelSpacing": [2.0, 1.0]}
    (one,) = read(dicom(pixels, ImageOrientationPatient=[*(cosines @ turn.T).ravel()], **window))
    plane = ("sagittal", "coronal", "axial")[3 - across - down]
    assert one.plane == plane
    first = min(across, down)  # of x, y, z the one that runs across as it is looked at
    assert one.grey.shape == ((12, 8) if across == first else (8, 12))
    assert one.grey[0, 0] == one.grey.max() > 200
    stored = square(np.where(pixels, 255, 0).astype(np.uint8), 2.0, 1.0)
    np.testing.assert_array_equal(one.stored.shown(stored) > 127, one.grey > 127)
    back = one.stored.back(one.grey)
    assert back.shape == pixels.shape
    assert np.unravel_index(back.argmax(), back.shape) == np.unravel_index(pixels.argmax(), pixels.shape)


def test_heat_and_mask_of_a_dicom_slice_lie_on_its_stored_pixels(tmp_path):
    """Heat that is the slice itself, stored upside down, rows for columns, in rows twice as far apart."""
    pixels = np.zeros((20, 40), np.uint16)
    pixels[3:9, 5:10] = 4000
    tags = {"ImageOrientationPatient": [0, -1, 0, 1, 0, 0], "PixelSpacing": [2.0, 1.0]}
    (one,) = read(dicom(pixels, WindowCenter=2000, WindowWidth=4000, **tags))
    assert one.grey.shape == (40, 40)
    found = Finding(one.name, "accepted", heat=one.grey, grey=one.grey, stored=one.stored)
    list(with_maps(iter([found]), tmp_path / "heat", tmp_path / "masks"))
    (mask,) = (tmp_path / "masks").iterdir()
    np.testing.assert_array_equal(np.asarray(Image.open(mask)) > 0, pixels > 0)
    (heat,) = (tmp_path / "heat").glob("*.npy")
    np.testing.assert_array_equal(np.load(heat) > 127, pixels > 0)
    (seen,) = (tmp_path / "heat").glob("*.png")
    assert np.asarray(Image.open(seen)).shape == (40, 40, 3)


def test_a_finding_says_how_its_slice_is_stored():
    rng = np.random.default_rng(0)
    content = dicom(rng.integers(0, 4000, (40, 40)).astype(np.uint16), ImageOrientationPatient=[1, 0, 0, 0, -1, 0])
    (one,) = Classifier.load(threads=1).predict(content)
    assert one.stored == Stored((40, 40), False, -1, 1)


def test_pixels_that_are_not_square_are_made_so():
    assert read(dicom(PixelSpacing=[2.0, 1.0]))[0].grey.shape == (20, 10)


def test_what_is_no_mr_is_refused_unless_forced():
    with pytest.raises(InputRejected, match="modality CT; MR only"):
        read(dicom(Modality="CT"))
    assert len(read(dicom(Modality="CT"), force=True)) == 1


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"Rows": 60000, "Columns": 60000}, "60000x60000 px"),
        ({"NumberOfFrames": 5000}, "5000 frames"),
        ({"PixelData": b"\0" * 10}, "not a readable DICOM file"),
        ({"PixelSpacing": [1000.0, 0.001]}, "spacing"),
    ],
)
def test_impossible_files_are_refused_from_their_header(tags, says):
    with pytest.raises(InputRejected, match=says):
        read(dicom(**tags))


def deflated(content: bytes, more: int = 0) -> bytes:
    """A plain file deflated (PS3.5 A.5), `more` bytes of zeros after its last element."""
    one = pydicom.dcmread(io.BytesIO(content))
    start = 144 + one.file_meta.FileMetaInformationGroupLength
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = packer.compress(content[start:] + bytes(more)) + packer.flush()
    one.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    head = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(head, one.file_meta)
    return bytes(128) + b"DICM" + head.getvalue() + body


def test_a_deflated_file_is_read_as_a_plain_one_is():
    tags = {
        "ImagePositionPatient": [0, 0, 7],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SeriesInstanceUID": "1.2",
    }
    plain = dicom(**tags)
    np.testing.assert_array_equal(read(deflated(plain))[0].grey, read(plain)[0].grey)
    assert dicom_reader.position(deflated(plain)) == dicom_reader.position(plain)
    assert dicom_reader.position(plain)[:2] == ("1.2", 7.0)


@pytest.mark.parametrize(("more", "says"), [(2**20, "bytes inflated"), (2**16, "elements")])
def test_a_deflated_file_is_not_inflated_past_what_its_header_says(monkeypatch, more, says):
    """Zeros are elements of 8 bytes each, and cost more than they weigh."""
    monkeypatch.setattr(dicom_reader, "HEADER", 2**18)
    monkeypatch.setattr(dicom_reader, "MAX_ELEMENTS", 5000)
    bomb = deflated(dicom(), more)
    inflated: list[int] = []
    real = dicom_reader._inflated
    monkeypatch.setattr(dicom_reader, "_inflated", lambda *given: inflated.append(len(one := real(*given))) or one)
    assert len(bomb) < 4000
    with pytest.raises(InputRejected, match=says):
        read(bomb)
    dicom_reader.position(bomb)
    assert max(inflated) <= 2**20 + 1000


def coded(frame: bytes, syntax: str, side: int = 64) -> bytes:
    """A file of 64 x 64 px with this for its pixels."""
    one = pydicom.dcmread(io.BytesIO(dicom(np.zeros((side, side), np.uint16))))
    one.file_meta.TransferSyntaxUID = syntax
    one.PixelData = pydicom.encaps.encapsulate([frame])
    one["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def siz(rows: int, columns: int, colours: int = 1) -> bytes:
    """The head of a JPEG 2000 code, whose image begins at (5, 3) of its grid."""
    size = struct.pack(">HHIIIIIIIIH", 38 + 3 * colours, 0, columns + 5, rows + 3, 5, 3, columns, rows, 5, 3, colours)
    return b"\xff\x4f\xff\x51" + size + b"\x0f\x01\x01" * colours


def sof(marker: int, rows: int, columns: int, colours: int = 1) -> bytes:
    """The head of a JPEG, with a comment and a fill byte before its frame."""
    frame = struct.pack(">HBHHB", 8 + 3 * colours, 8, rows, columns, colours) + b"\1\x11\0" * colours
    return b"\xff\xd8\xff\xfe\x00\x04hi\xff\xff" + bytes([marker]) + frame


def test_a_compressed_frame_says_its_own_size():
    box = b"\0\0\0\x0cjP  \r\n\x87\n"
    assert _coded_size(siz(30, 40)) == (30, 40, 1)
    assert _coded_size(box + b"\0\0\0\0jp2c" + siz(30, 40, 3)) == (30, 40, 3)
    assert _coded_size(box + b"\0\0\0\x0cpclr1234" + b"\0\0\0\0jp2c" + siz(30, 40)) is None
    for marker in (0xC0, 0xC1, 0xC3, 0xF7):
        assert _coded_size(sof(marker, 30, 40)) == (30, 40, 1)
    for broken in (b"", b"\xff\xd8", b"\xff\xd8\xff\xda", box, box + bytes(8), b"GIF89a"):
        assert _coded_size(broken) is None


@pytest.mark.parametrize(
    ("frame", "syntax", "says"),
    [
        (siz(12000, 12000), pydicom.uid.JPEG2000Lossless, "12000x12000 px"),
        (siz(64, 64, 4000), pydicom.uid.JPEG2000Lossless, "4000 colours"),
        (sof(0xC0, 60000, 60000), pydicom.uid.JPEGBaseline8Bit, "60000x60000 px"),
        (sof(0xF7, 60000, 60000), pydicom.uid.JPEGLSLossless, "60000x60000 px"),
        (b"BM" + bytes(60), pydicom.uid.JPEGBaseline8Bit, "none"),
    ],
)
def test_a_compressed_frame_of_another_size_than_the_header_says_is_not_decoded(monkeypatch, frame, syntax, says):
    monkeypatch.setattr(pydicom.dataset.Dataset, "pixel_array", property(lambda _: pytest.fail("decoded")))
    with pytest.raises(InputRejected, match=f"{says}.*64x64"):
        read(coded(frame, syntax))


@pytest.mark.parametrize(
    ("syntax", "says"),
    [
        ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level"),
        ("1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.110"),
    ],
)
def test_a_transfer_syntax_that_is_not_read_is_named(syntax, says):
    """A film's, and JPEG XL, which pydicom does not know."""
    plain, other = (
        f"\x02\0\x10\0UI{chr(len(one))}\0{one}".encode() for one in ("1.2.840.10008.1.2.1\0", f"{syntax}\0")
    )
    with pytest.raises(InputRejected, match=f"transfer syntax {says}; plain, .*uncompressed"):
        read(dicom().replace(plain, other))


def test_more_compressed_frames_than_the_header_says_are_not_decoded(monkeypatch):
    monkeypatch.setattr(pydicom.dataset.Dataset, "pixel_array", property(lambda _: pytest.fail("decoded")))
    one = pydicom.dcmread(io.BytesIO(coded(siz(64, 64), pydicom.uid.JPEG2000Lossless)))
    one.PixelData = pydicom.encaps.encapsulate([siz(64, 64)] * 3)
    buffer = io.BytesIO()
    one.save_as(buffer)
    with pytest.raises(InputRejected, match="more frames"):
        read(buffer.getvalue())


@pytest.mark.parametrize("how", ["external", "virtual"])
def test_a_matrix_that_lies_in_another_file_of_the_machine_is_refused(how, tmp_path):
    """Who may have a slice read must not have other files read."""
    h5py = pytest.importorskip("h5py")
    np.arange(64.0).reshape(8, 8).tofile(tmp_path / "private.bin")
    with h5py.File(tmp_path / "private.h5", "w") as file:
        file["secret"] = np.arange(64.0).reshape(8, 8)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        if how == "external":
            file.create_dataset("cjdata/image", (8, 8), "f8", external=[(str(tmp_path / "private.bin"), 0, 512)])
        else:
            layout = h5py.VirtualLayout((8, 8), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "private.h5"), "secret", (8, 8))
            file.create_virtual_dataset("cjdata/image", layout)
    content = b"MATLAB 7.3 MAT-file" + buffer.getvalue()[19:]
    with pytest.raises(InputRejected, match="a matrix kept in another file; one in this file"):
        list(read_slices("slice.mat", content))


def test_a_matrix_in_a_chunk_that_would_fill_memory_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        stored = file.create_dataset(
            "cjdata/image", (64, 64), "i2", maxshape=(None, None), chunks=(20000, 20000), compression=9
        )
        assert stored.chunks == (20000, 20000)
    content = b"MATLAB 7.3 MAT-file" + (tmp_path / "a.mat").read_bytes()[19:]
    with pytest.raises(InputRejected, match="chunks of 20000x20000 px"):
        read(content, "a.mat")


class Endless(io.RawIOBase):
    """A stream that never ends."""

    def readable(self):
        return True

    def read(self, size=-1):
        assert 0 <= size < 10_000
        return bytes(size)


def test_what_has_no_end_is_read_up_to_the_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    assert len(reading.read_stream(Endless())) == 1001
    with pytest.raises(InputRejected, match="at most 1,000"):
        read(reading.read_stream(Endless()))
    (tmp_path / "long").write_bytes(bytes(1001))
    with pytest.raises(InputRejected, match="at most 1,000"):
        reading.read_file(tmp_path / "long")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputRejected, match="no regular file"):
            reading.read_file(path)


def test_coloured_files_are_refused_those_with_a_palette_too():
    for tags in ({"PhotometricInterpretation": "PALETTE COLOR"}, {"SamplesPerPixel": 3}):
        with pytest.raises(InputRejected, match="grey slices only"):
            read(dicom(**tags))


def test_a_mosaic_is_no_slice_and_refused():
    kind = ["ORIGINAL", "PRIMARY", "M", "ND"]
    assert len(read(dicom(ImageType=kind))) == 1
    for force in (False, True):
        with pytest.raises(InputRejected, match="a mosaic of slices; one slice a frame"):
            read(dicom(ImageType=[*kind, "MOSAIC"]), force=force)


def test_a_file_named_after_its_uid_is_found_in_a_folder(tmp_path):
    (tmp_path / "MR.1.2.840.113619.2.5").write_bytes(dicom())
    (tmp_path / "notes.2").write_text("no slice")
    assert [Path(path).name for path in expand([str(tmp_path)])] == ["MR.1.2.840.113619.2.5"]


def without_preamble(content: bytes, syntax: str) -> bytes:
    """A plain file's data set alone, in this transfer syntax."""
    one = pydicom.dcmread(io.BytesIO(content))
    one.PixelData = one.pixel_array.astype(">u2" if syntax == pydicom.uid.ExplicitVRBigEndian else "<u2").tobytes()
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
    del one.file_meta
    pydicom.filewriter.write_dataset(buffer, one)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["implicit", "explicit", "big", "meta"])
def test_dicom_without_a_preamble_is_read_under_any_name(name, tmp_path):
    whole = dicom(SeriesInstanceUID="1.2", InstanceNumber=3)
    if name == "meta":
        content = whole[132:]
    else:
        syntaxes = {"implicit": "1.2.840.10008.1.2", "explicit": "1.2.840.10008.1.2.1", "big": "1.2.840.10008.1.2.2"}
        content = without_preamble(whole, syntaxes[name])
    (one,) = read(content, "IM000001")
    np.testing.assert_array_equal(one.grey, read(whole)[0].grey)
    assert dicom_reader.position(content)[:2] == ("1.2", 3.0)
    (tmp_path / "glioma").mkdir()
    (tmp_path / "glioma" / "IM000001").write_bytes(content)
    (tmp_path / "glioma" / "DICOMDIR").write_bytes(whole)
    (tmp_path / "glioma" / "notes").write_text("no slice")
    assert [Path(path).name for path in expand([str(tmp_path)])] == ["IM000001"]
    planned, notices = plan(open_source(tmp_path), Layout.of(None), medical=True)
    assert [one.path for one in planned] == ["glioma/IM000001"]
    assert notices[0].startswith("2 files hold no slices")


def test_a_name_is_enough_for_dicom_that_begins_elsewhere_and_a_picture_of_that_name_is_a_picture():
    """A data set whose first element is of group 16."""
    content = without_preamble(dicom(), "1.2.840.10008.1.2.1")
    content = content[content.index(b"\x10\0\x10\0PN") :]
    (found,) = read(content, "a.IMA", force=True)  # it says no modality
    np.testing.assert_array_equal(found.grey, read(dicom())[0].grey)
    with pytest.raises(InputRejected, match=r"none of the kinds read; JPEG, .*DICOM, NIfTI or a figshare \.mat .*NRRD"):
        read(content, "a.png")
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(buffer, "PNG")
    assert (read(buffer.getvalue(), "a.dcm")[0].grey == 7).all()
    with pytest.raises(InputRejected, match=r"no pixels|not a readable DICOM"):
        read(b"this is no slice at all" * 20, "a.dcm")


def test_a_discs_list_of_its_files_is_left_out_of_folders(tmp_path):
    listing = dicom(Modality="")
    (tmp_path / "DICOMDIR").write_bytes(listing)
    (tmp_path / "IM1").write_bytes(dicom())
    assert [Path(path).name for path in expand([str(tmp_path)])] == ["IM1"]
    one = pydicom.dcmread(io.BytesIO(listing))
    del one.Rows, one.Columns, one.PixelData
    buffer = io.BytesIO()
    one.save_as(buffer)
    with pytest.raises(InputRejected, match="Give the slices themselves"):
        read(buffer.getvalue(), "DICOMDIR")


#: By SOP class, whether what they are of holds no pixels (PS3.3 annex A); an unknown one and a private one may hold some.
NO_PIXELS = {
    **dict.fromkeys(["1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.66", "1.2.840.10008.5.1.4.1.1.4.2"], True),
    **{f"1.2.840.10008.5.1.4.1.1.{end}": True for end in ("11.1", "11.8", "88.11", "88.33", "88.59", "88.67", "104.1")},
    **{f"1.2.840.10008.5.1.4.1.1.{end}": True for end in ("481.3", "481.5", "481.8", "66.1", "66.5", "67", "9.1.1")},
    **{f"1.2.840.10008.5.1.4.1.1.{end}": False for end in ("4", "4.1", "4.3", "4.4", "7", "7.2", "2", "30", "66.4")},
    **{f"1.2.840.10008.5.1.4.1.1.{end}": False for end in ("481.1", "481.2", "6.2", "81.1", "88.999", "11", "9999")},
    **dict.fromkeys(["1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4", ""], False),
}


@pytest.mark.parametrize(("storage", "left_out"), NO_PIXELS.items())
@pytest.mark.parametrize("said_in", ["the data set", "the file's meta"])
def test_objects_without_pixels_are_known_by_their_class_all_others_are_read(storage, left_out, said_in):
    one = pydicom.dcmread(io.BytesIO(dicom()))
    if said_in == "the data set":
        one.SOPClassUID = storage
    else:
        one.file_meta.MediaStorageSOPClassUID = storage
    buffer = io.BytesIO()
    one.save_as(buffer)
    assert bool(dicom_reader.position(buffer.getvalue()).kind) == left_out


def test_a_folder_as_a_hospital_exports_it_is_read_without_what_holds_no_pixels(tmp_path):
    """Reports, a plan, a disc's list under two names and notes are counted by kind; one named by itself keeps its error."""
    files = {"a": "reportsi.dcm", "b.dcm": "test-SR.dcm", "c.dcm": "rtplan.dcm", "d": "rtstruct.dcm"}
    files |= {"e": "reportsi.dcm", "DICOMDIR": "DICOMDIR", "list.dcm": "DICOMDIR", "f.dcm": "MR_small.dcm"}
    for name, file in files.items():
        (tmp_path / name).write_bytes(Path(get_testdata_file(file)).read_bytes())
    (tmp_path / "notes.txt").write_text("no slice")
    said = []
    assert [Path(path).name for path in expand([str(tmp_path)], said.append)] == ["f.dcm"]
    (line,) = said
    start, _, kinds = line.removesuffix(".").partition(": ")
    assert start == "Left out, of kinds that are not read"
    others = ["1 .txt", "1 Comprehensive SR", "1 RT Plan", "1 RT Structure Set"]
    assert sorted(kinds.split(", ")) == [*others, "2 Basic Text SR", "2 Media Storage Directory"]
    report = str(tmp_path / "a")
    assert expand([report]) == [report]
    with pytest.raises(InputRejected, match="no pixels in it"):
        read(Path(report).read_bytes())
    (tmp_path / "f.dcm").unlink()
    with pytest.raises(DataNotFound, match=r"no file that may hold slices .* It holds .*2 Basic Text SR"):
        expand([str(tmp_path)])


def test_a_volume_of_one_value_on_nothing_is_white_on_black():
    stored = np.zeros((6, 8, 10), np.int16)
    stored[1:3, 2:5, 4:8] = 7
    found = read(nibabel.Nifti1Image(stored, np.eye(4)).to_bytes(), "v.nii")
    assert [int((one.grey == 255).sum()) for one in found] == [0, 0, 0, 0, 6, 6, 6, 6, 0, 0]
    assert all(set(np.unique(one.grey)) <= {0, 255} for one in found)


def brain(outside: float) -> np.ndarray:
    """Z-scored tissue of -2 to 2 in 12 x 12 of 20 x 20 voxels of four slices, float32 (20, 20, 4)."""
    values = np.full((20, 20, 4), outside, np.float32)
    values[4:16, 4:16] = np.linspace(-2, 2, 576).reshape(12, 12, 4)
    return values


@pytest.mark.parametrize("outside", [np.nan, 0.0, -2.0, -np.inf])
def test_what_lies_outside_the_head_is_black_whatever_stands_for_it(outside):
    """576 values from -2 to 2 inside: black outside, and the middle of the tissue is the middle of the greys."""
    found = read(nibabel.Nifti1Image(brain(outside), np.eye(4)).to_bytes(), "v.nii")
    greys = np.stack([one.grey for one in found])
    assert (greys[:, :4] == 0).all()
    assert (greys[:, :, 16:] == 0).all()
    assert abs(np.median(greys[:, 4:16, 4:16]) - 127.5) <= 2
    assert greys.max() == 255


@pytest.mark.parametrize("change", ["border", "few", "positive"])
def test_a_value_that_is_not_that_of_the_outside_keeps_its_grey(change):
    """A fifth of the border has tissue; zeros fill the border alone; nothing is negative: 0 stays where it was."""
    values = brain(0.0)
    if change == "border":
        values[4:, 0] = values[4:, -1] = 1  # 32 of 76 voxels around each slice
    if change == "few":
        values[1:19, 1:19] = np.linspace(-2, 2, 18 * 18 * 4).reshape(18, 18, 4)  # 76 of 400 are left
    if change == "positive":
        values[4:16, 4:16] += 4
        values[values == 0] = 4
    found = read(nibabel.Nifti1Image(values, np.eye(4)).to_bytes(), "v.nii")
    corner = found[0].grey[-1, -1]  # stored [0, 0]
    assert 110 < corner < 145


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [False, True])
def test_a_volume_without_a_name_is_known_by_its_header(kind, packed):
    content = kind(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6), np.eye(4)).to_bytes()
    found = read(gzip.compress(content) if packed else content, name="-")
    assert [one.name for one in found] == [f"-#{number}" for number in range(1, 7)]


def test_a_volume_that_unpacks_without_end_is_refused_soon():
    content = gzip.compress(bytes(MAX_UNPACKED + 10), 1)
    with pytest.raises(InputRejected, match="bytes unpacked"):
        read(content, name="bomb.nii.gz")


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"BodyPartExamined": "BRAIN", "BurnedInAnnotation": "NO", "ImageType": ["DERIVED", "SECONDARY", "MPR"]}, []),
        ({"BodyPartExamined": "HEAD_NECK"}, []),
        ({"BodyPartExamined": ""}, []),
        *[
            ({"BodyPartExamined": part}, [])
            for part in (
                "CRANE",
                "CRANEO",
                "KOPF",
                "SCHAEDEL",
                "TETE",
                "CABEZA",
                "IAC",
                "ORBITA",
                "HIPPOCAMPUS",
                "BRAIN AND SPINE",
            )
        ],
        *[
            ({"BodyPartExamined": part}, [f"BodyPartExamined {part}"])
            for part in (
                "SPINE",
                "LSPINE",
                "CERVICAL SPINE",
                "CHEST",
                "ABDOMENPELVIS",
                "PELVIS",
                "SHOULDER",
                "KNEES",
                "HIP_LEFT",
                "ANKLE",
            )
        ],
        ({"BurnedInAnnotation": "YES"}, ["BurnedInAnnotation YES"]),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, ["SOPClassUID Secondary Capture"]),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, ["SOPClassUID Secondary Capture"]),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4"}, []),
        (
            {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "BodyPartExamined": "KNEE"},
            ["ImageType DERIVED\\SECONDARY\\SCREEN SAVE", "BodyPartExamined KNEE"],
        ),
    ],
)
def test_tags_that_say_that_it_is_no_slice_of_a_head_are_warned_of(tags, says):
    (one,) = read(dicom(**tags))
    assert [text.partition(":")[0] for text in one.warned] == says


def test_nothing_of_the_patient_is_kept():
    assert "Secret" not in repr(read(dicom())[0])


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"])
def test_files_that_ship_with_pydicom_read_alike_in_every_transfer_syntax(name):
    file = get_testdata_file(name)
    if file is None:
        pytest.skip(f"pydicom ships without {name}")
    plain = read(Path(str(get_testdata_file("MR_small.dcm"))).read_bytes())[0]
    (one,) = read(Path(str(file)).read_bytes())
    np.testing.assert_array_equal(one.grey, plain.grey)
    assert one.grey.shape == (64, 64)


def test_colour_is_refused():
    file = get_testdata_file("examples_rgb_color.dcm") or get_testdata_file("SC_rgb.dcm")
    with pytest.raises(InputRejected, match="colour"):
        read(Path(str(file)).read_bytes(), force=True)


def volume(affine: np.ndarray) -> bytes:
    """A volume of 6 x 8 x 10 voxels in RAS order, seen through `affine`'s order: bright at right, front, top."""
    ras = np.zeros((6, 8, 10), np.int16)
    ras[4:, 6:, 7:] = 1000
    ras[1:3, 1:3, :] = 50
    ras[0, 0, :] = 600
    canonical = nibabel.Nifti1Image(ras, np.eye(4))
    turned = canonical.as_reoriented(nibabel.io_orientation(affine))
    return nibabel.Nifti1Image(np.asarray(turned.dataobj), turned.affine).to_bytes()


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_a_volume_is_shown_as_radiologists_look_at_it_however_it_is_stored(signs):
    content = volume(np.diag([*signs, 1]))
    axial = read(content, "v.nii")
    assert [len(axial), axial[0].grey.shape] == [10, (8, 6)]
    assert axial[0].name == "v.nii#1"
    top = axial[9].grey
    assert top[0, 0] == top.max()  # front is up, the patient's right on the left
    assert top[-1, -1] > 0
    assert top[-1, 0] == 0
    coronal = read(content, "v.nii", plane="coronal")
    assert [len(coronal), coronal[0].grey.shape] == [8, (10, 6)]
    assert coronal[7].grey[0, 0] == coronal[7].grey.max()
    sagittal = read(content, "v.nii", plane="sagittal")
    assert [len(sagittal), sagittal[0].grey.shape] == [6, (10, 8)]
    assert sagittal[5].grey[0, 0] == sagittal[5].grey.max()  # front on the left


#: Stored axes run from top to bottom, from right to left, from back to front; voxels of 5 x 1 x 2 mm.
CROSSED = np.array([[0, -1, 0, 40], [0, 0, 2, -30], [-5, 0, 0, 20], [0, 0, 0, 1]], float)


@pytest.mark.parametrize(
    ("plane", "number", "shape", "bright"),
    [("axial", 4, (16, 6), (2, 1)), ("coronal", 6, (20, 6), (0, 1)), ("sagittal", 5, (10, 8), (0, 2))],
)
def test_crossed_axes_and_voxels_that_are_no_cubes_are_shown_upright_and_square(plane, number, shape, bright):
    """Bright at stored (0, 1, 5): the top of 4, the second of 6 from the right, the third of 8 from the front."""
    stored = (np.arange(4 * 6 * 8) % 50).astype(np.int16).reshape(4, 6, 8)
    stored[0, 1, 5] = 1000
    found = read(nibabel.Nifti1Image(stored, CROSSED).to_bytes(), "v.nii", plane=plane)
    (one,) = [one for one in found if one.grey.max() > 180]
    assert one.name == f"v.nii#{number}"  # counted from below, from the back and from the left
    assert one.grey.shape == shape
    rows, columns = {"axial": (8, 6), "coronal": (4, 6), "sagittal": (4, 8)}[plane]
    row, column = np.unravel_index(one.grey.argmax(), shape)
    assert (row * rows // shape[0], column * columns // shape[1]) == bright


def test_an_oblique_volume_is_cut_along_its_own_axes():
    """Turned by 20 degrees about two axes: what is shown is what an upright one shows, with the same spacing."""
    content = nibabel.Nifti1Image.from_bytes(volume(np.diag([-1.0, 1, 1, 1])))
    content = nibabel.Nifti1Image(np.asarray(content.dataobj), content.affine @ np.diag([2.0, 1, 1, 1]))
    turn = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(x=np.deg2rad(20), z=np.deg2rad(-20)), [9, 8, 7])
    oblique = nibabel.Nifti1Image(np.asarray(content.dataobj), turn @ content.affine)
    for plane in ("axial", "coronal", "sagittal"):
        upright, tilted = (read(one.to_bytes(), "v.nii", plane=plane) for one in (content, oblique))
        assert len(upright) == len(tilted)
        for one, other in zip(upright, tilted, strict=True):
            np.testing.assert_array_equal(one.grey, other.grey)


def test_spacing_comes_from_the_affine_that_says_where_voxels_lie():
    """A header whose pixdim was left at 1 beside an sform of 2 mm across."""
    image = nibabel.Nifti1Image(np.arange(480, dtype=np.int16).reshape(6, 8, 10), np.diag([2.0, 1, 1, 1]))
    image.header["pixdim"][1:4] = 1
    assert read(image.to_bytes(), "v.nii")[0].grey.shape == (8, 12)


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 1)])
@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1)])
def test_a_volume_that_does_not_say_how_it_lies_is_warned_of(codes, shape):
    """Either matrix says it, as its code tells."""
    image = nibabel.Nifti1Image(np.arange(480, dtype=np.int16).reshape(shape), np.eye(4) if any(codes) else None)
    image.header["qform_code"], image.header["sform_code"] = codes
    (one,) = read(image.to_bytes(), "v.nii")
    said = ("no qform and no sform: how it lies is not known, and it may be mirrored or turned",)
    assert one.warned == (said if codes == (0, 0) else ())


@pytest.mark.parametrize(("across", "says"), [(1, ()), (-1, ("qform RAS and sform LAS: they disagree",))])
def test_a_volume_that_says_twice_how_it_lies_and_contradicts_itself_is_warned_of(across, says):
    """Directions count, not places: an sform may be of another space."""
    image = nibabel.Nifti1Image(np.arange(480, dtype=np.int16).reshape(20, 24, 1), np.eye(4))
    image.set_qform(np.eye(4), 1)
    image.set_sform(np.array([[across, 0, 0, 9], [0, 2, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), 4)
    (one,) = read(image.to_bytes(), "v.nii")
    assert tuple(text.partition(" on")[0] for text in one.warned) == says


def test_a_volume_whose_qform_is_no_rotation_is_read_by_its_sform():
    content = bytearray(volume(np.eye(4)))
    content[252:256], content[256:268] = struct.pack("<2h", 1, 1), struct.pack("<3f", 0.9, 0.9, 0.9)
    found = read(bytes(content), "v.nii")
    np.testing.assert_array_equal(found[9].grey, read(volume(np.eye(4)), "v.nii")[9].grey)
    assert found[0].warned == ("qform that is no rotation: the sform alone says how it lies",)


@pytest.mark.parametrize("value", [0, np.nan])
def test_a_matrix_that_spans_no_volume_is_refused(value):
    content = bytearray(volume(np.eye(4)))
    content[280:296] = struct.pack("<4f", *[value] * 4)  # srow_x
    with pytest.raises(InputRejected, match="a qform or sform that spans no volume"):
        read(bytes(content), "v.nii")


def test_scaled_voxels_take_few_copies(monkeypatch):
    """Bytes a voxel: 4 as floats that are windowed in place, 1 as greys; floats of 64 bits would be 8 more."""
    monkeypatch.setattr("tumorscope.data.window.LOOKED_AT", 1000)
    voxels = np.random.default_rng(0).integers(0, 4000, (128, 128, 64), np.int16)
    image = nibabel.Nifti1Image(voxels, np.diag([-1, 1, 1, 1]))
    image.header.set_slope_inter(2, 1)
    content = image.to_bytes()
    read(content, "v.nii")  # modules are loaded
    tracemalloc.start()
    try:
        read(content, "v.nii")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 8 * voxels.size


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 1), (20, 24, 1, 1)])
def test_a_single_slice_may_leave_its_third_axis_out(shape):
    content = nibabel.Nifti1Image(np.arange(480, dtype=np.int16).reshape(shape), np.eye(4)).to_bytes()
    (one,) = read(content, "v.nii")
    assert one.grey.shape == (24, 20)
    assert one.grey[0, 0] == one.grey.max()


@pytest.mark.parametrize(
    ("kind", "says"), [(np.complex64, "complex"), ([("R", "u1"), ("G", "u1"), ("B", "u1")], "coloured")]
)
def test_voxels_that_are_no_grey_values_are_refused(kind, says):
    """Of complex ones the real part would be read, which is no picture of tissue."""
    with pytest.raises(InputRejected, match=f"{says} voxels; grey values only"):
        read(nibabel.Nifti1Image(np.zeros((6, 8, 10), kind), np.eye(4)).to_bytes(), "v.nii")


def test_gzip_and_damage():
    import gzip

    packed = gzip.compress(volume(np.eye(4)))
    assert len(read(packed, "v.nii.gz")) == 10
    with pytest.raises(InputRejected, match="not a readable NIfTI file"):
        read(packed[:50], "v.nii.gz")
    with pytest.raises(InputRejected, match="not a readable NIfTI file"):
        read(b"nothing at all", "v.nii")
    with pytest.raises(InputRejected, match=r"1,000 bytes; 1,312 by its header\. Export it again"):
        read(volume(np.eye(4))[:1000], "v.nii")


def test_a_volume_that_ships_with_nibabel_reads():
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    file = folder / "anatomical.nii"
    if not file.exists():
        pytest.skip("nibabel ships without its test data")
    found = read(file.read_bytes(), "anatomical.nii")
    assert len(found) == nibabel.as_closest_canonical(nibabel.load(file)).shape[2]


def test_a_folder_is_read_in_the_order_of_positions(tmp_path):
    for name, z in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        tags = {
            "ImagePositionPatient": [0, 0, z],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "SeriesInstanceUID": "1.2",
        }
        (tmp_path / name).write_bytes(dicom(**tags))
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "z.png")
    (tmp_path / "notes.txt").write_text("no slice")
    assert [Path(path).name for path in expand([str(tmp_path)])] == ["z.png", "b", "c", "a"]


def test_spacing_that_would_stretch_a_slice_without_end_is_refused():
    """A millimetre beside a millionth of one: 6 pixels would become a million."""
    content = nibabel.Nifti1Image(np.arange(480, dtype=np.int16).reshape(6, 8, 10), np.diag([1, 1e-6, 1, 1])).to_bytes()
    with pytest.raises(InputRejected, match="square pixels a side"):
        read(content, "v.nii")
