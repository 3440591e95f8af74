"""Readers: known pixels through every rule of DICOM and NIfTI, and files that ship with pydicom and nibabel."""

import gzip
import io
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from tumorscope.errors import InputRejected
from tumorscope.inference import reading
from tumorscope.inference.batch import expand
from tumorscope.inference.reading import read_slices

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


def test_without_a_window_percentiles_make_one():
    grey = read(dicom())[0].grey
    low, high = np.percentile(RAMP, (0.5, 99.5))
    np.testing.assert_array_equal(grey, np.round(((RAMP - low) * 255 / (high - low)).clip(0, 255)))


def test_monochrome1_is_turned_round():
    window = {"WindowCenter": 2000, "WindowWidth": 4000}
    white = read(dicom(**window))[0].grey
    black = read(dicom(PhotometricInterpretation="MONOCHROME1", **window))[0].grey
    np.testing.assert_array_equal(black, 255 - white)


def test_bits_above_those_stored_are_not_pixels():
    stored = RAMP % 4096
    marked = stored | np.uint16(0xF000)
    window = {"WindowCenter": 2000, "WindowWidth": 4000, "BitsStored": 12, "HighBit": 11}
    np.testing.assert_array_equal(read(dicom(marked, **window))[0].grey, read(dicom(stored, **window))[0].grey)


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


def test_coloured_files_are_refused_those_with_a_palette_too():
    for tags in ({"PhotometricInterpretation": "PALETTE COLOR"}, {"SamplesPerPixel": 3}):
        with pytest.raises(InputRejected, match="grey slices only"):
            read(dicom(**tags))


def test_a_file_named_after_its_uid_is_found_in_a_folder(tmp_path):
    (tmp_path / "MR.1.2.840.113619.2.5").write_bytes(dicom())
    (tmp_path / "notes.2").write_text("no slice")
    assert [Path(path).name for path in expand([str(tmp_path)])] == ["MR.1.2.840.113619.2.5"]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [False, True])
def test_a_volume_without_a_name_is_known_by_its_header(kind, packed):
    content = kind(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6), np.eye(4)).to_bytes()
    found = read(gzip.compress(content) if packed else content, name="-")
    assert [one.name for one in found] == [f"-#{number}" for number in range(1, 7)]


def test_a_volume_that_unpacks_without_end_is_refused_soon():
    content = gzip.compress(bytes(reading.MAX_UNPACKED + 10), 1)
    with pytest.raises(InputRejected, match="bytes unpacked"):
        read(content, name="bomb.nii.gz")


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


def test_gzip_and_damage():
    import gzip

    packed = gzip.compress(volume(np.eye(4)))
    assert len(read(packed, "v.nii.gz")) == 10
    with pytest.raises(InputRejected, match="not a readable NIfTI file"):
        read(packed[:50], "v.nii.gz")
    with pytest.raises(InputRejected, match="not a readable NIfTI file"):
        read(b"nothing at all", "v.nii")


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
