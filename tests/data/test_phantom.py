"""The phantom set: seeded, patients whole and on one side, three planes, masks where there is a tumour, and not trivial."""

import io
import zipfile

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tumorscope.data.cache import pixels
from tumorscope.data.catalogue import load_catalogue
from tumorscope.data.phantom.archive import write_phantom


def test_the_same_seed_draws_the_same_bytes_and_another_does_not(tmp_path):
    one, again, other = (
        write_phantom(tmp_path / name, 2, 3, 64, seed).read_bytes() for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one == again
    assert one != other


def test_patients_are_whole_in_one_class_and_split_with_every_plane_and_masks_of_their_tumour(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    archive = write_phantom(tmp_path / "set.zip", 5, 3, 64)
    table = load_catalogue(archive).table
    assert len(table) == 4 * 5 * 3
    by_patient = table.groupby("patient")
    assert (by_patient["label"].nunique() == 1).all()
    assert (by_patient["split"].nunique() == 1).all()
    assert (by_patient["plane"].nunique() == 3).all()
    assert set(table["split"]) == {"train", "test"}
    with zipfile.ZipFile(archive) as files:
        area = [np.asarray(Image.open(io.BytesIO(files.read(name)))).astype(bool).sum() for name in table["mask"]]
    tumour = pd.Series(area).groupby(table["label"]).agg(["min", "max"])
    assert tumour.loc["notumor", "max"] == 0
    assert (tumour.drop("notumor")["max"] > 0).all()


def test_a_linear_model_on_pixels_does_not_separate_the_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    catalogue = load_catalogue(write_phantom(tmp_path / "set.zip", 20, 6, 64), sizes=(30,))
    images, labels = pixels(catalogue, 30).reshape(len(catalogue.table), -1), catalogue.table["label"]
    train, test = (catalogue.table["split"] == part for part in ("train", "test"))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(images[train], labels[train])
    assert model.score(images[test], labels[test]) < 0.75
