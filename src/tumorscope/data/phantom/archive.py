"""The phantom set as a zip archive: its patients, how they are split, and the files of their slices."""

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tumorscope.data.phantom.patients import Patient, draw_patient
from tumorscope.data.phantom.slices import Cut, cuts, phantom_slice
from tumorscope.errors import InputRejected
from tumorscope.files import replacing
from tumorscope.labels import CLASSES

TEST_SHARE = 0.2


def write_phantom(
    path: Path, patients_per_class: int = 20, slices_per_patient: int = 6, size: int = 128, seed: int = 0
) -> Path:
    """Write the phantom set as a zip archive at `path`, atomically, and return `path`.

    Layout: `Training|Testing/<class>/<patient>-<k>.png` (8-bit grey, size x size), `masks/<patient>-<k>.png` (8-bit, 255
    inside the tumour; empty for notumor) and `metadata.csv` with path, patient, plane and mask. A patient is in one split,
    about a fifth of each class in Testing. The same arguments and libraries give the same bytes.
    Raises `InputRejected` for fewer than 2 patients a class, fewer than 3 slices a patient, or a size outside 32 to 1024.
    """
    _check("patients per class", patients_per_class, 2, 10_000)
    _check("slices per patient", slices_per_patient, 3, 100)
    _check("size", size, 32, 1024)
    rows = [("path", "patient", "plane", "mask")]
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for patient, split, all_cuts in _patients(patients_per_class, slices_per_patient, seed):
            for k, cut in enumerate(all_cuts):
                image, mask = phantom_slice(patient, cut, size)
                names = f"{split}/{patient.label}/{patient.name}-{k}.png", f"masks/{patient.name}-{k}.png"
                _store(archive, names[0], _png(image))
                _store(archive, names[1], _png(mask * np.uint8(255)))
                rows.append((names[0], patient.name, cut.plane, names[1]))
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        _store(archive, "metadata.csv", table.getvalue().encode())
    return path


def _patients(count: int, slices: int, seed: int) -> Iterator[tuple[Patient, str, list[Cut]]]:
    """Patients of every class with split and cuts; a patient is the same however many others there are."""
    testing = max(1, round(count * TEST_SHARE))
    for code, label in enumerate(CLASSES):
        for number in range(count):
            rng = np.random.default_rng([seed, code, number])
            patient = draw_patient(rng, label, f"ph-{label}-{number:03d}")
            yield patient, "Testing" if number >= count - testing else "Training", cuts(rng, slices)


def _check(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputRejected(what, value, f"between {low} and {high}", "Choose another number.")


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _store(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file without the clock and the system in it, so that the archive's bytes depend on its content alone."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    archive.writestr(entry, content)
