"""Where data come from: what is given, the environment, an earlier download, a new one, and at last the phantom set."""

import sys
import types
from pathlib import Path

import pytest

from tumorscope import home
from tumorscope.data import locate
from tumorscope.data.locate import WHOLE, fetch, find_data
from tumorscope.errors import DataNotFound


def drawn(target: Path) -> Path:
    """In the place of the phantom set, which takes half a minute to draw."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("drawn")
    return target


@pytest.fixture
def said(tmp_path, monkeypatch):
    """What was said; with an empty home, no environment and no network."""
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TUMORSCOPE_DATA", raising=False)
    monkeypatch.setattr(locate, "silence", lambda host, port: f"No answer from {host} (test).")
    monkeypatch.setattr("tumorscope.data.phantom.archive.write_phantom", drawn)
    return []


def downloaded() -> Path:
    place = home.home() / "downloads" / "nickparvar"
    place.mkdir(parents=True)
    (place / WHOLE).touch()
    return place


def test_what_is_given_comes_before_everything(said, tmp_path, monkeypatch):
    for name in ("given.zip", "environment.zip"):
        (tmp_path / name).touch()
    monkeypatch.setenv("TUMORSCOPE_DATA", str(tmp_path / "environment.zip"))
    downloaded()
    assert find_data(tmp_path / "given.zip", said.append) == tmp_path / "given.zip"
    assert find_data(None, said.append) == tmp_path / "environment.zip"
    assert "(as given)" in said[0]
    assert "($TUMORSCOPE_DATA)" in said[1]


@pytest.mark.parametrize("given", [True, False])
def test_a_path_that_is_not_there_is_an_error_and_never_passed_over(said, tmp_path, monkeypatch, given):
    missing = str(tmp_path / "missing.zip")
    if not given:
        monkeypatch.setenv("TUMORSCOPE_DATA", missing)
    downloaded()
    with pytest.raises(DataNotFound, match="no such file or folder"):
        find_data(missing if given else None, said.append)


def test_an_earlier_download_is_used_without_asking_the_network(said):
    place = downloaded()
    assert find_data(None, said.append) == place
    assert "downloaded before" in said[0]
    assert "licence" in said[0]


def test_half_a_download_is_none(said):
    (downloaded() / WHOLE).unlink()
    with pytest.raises(DataNotFound, match="No answer from"):
        fetch("nickparvar", said.append)


def test_without_a_network_the_phantom_set_is_drawn_and_said_to_be_one(said):
    place = find_data(None, said.append)
    assert place.name == "phantom.zip"
    assert "give its path with --data" in said[0]
    assert "not patients" in said[1]
    assert "half a minute" in said[2]
    before = place.stat().st_mtime_ns
    assert find_data(None, said.append).stat().st_mtime_ns == before
    assert len(said) == 5  # nothing is drawn a second time, nor said to be


def test_a_download_is_marked_whole_when_it_is(said, monkeypatch):
    def download(handle: str, output_dir: str, force_download: bool) -> str:
        assert handle.startswith("masoudnickparvar/brain-tumor-mri-dataset")
        Path(output_dir).mkdir(parents=True)
        return output_dir

    monkeypatch.setattr(locate, "silence", lambda host, port: "")
    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=download))
    place = find_data(None, said.append)
    assert (place / WHOLE).exists()
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # a second time nothing is asked for
    assert find_data(None, said.append) == place


def test_a_failed_download_says_what_to_do_and_the_phantom_set_stands_in(said, monkeypatch):
    def download(*_: object, **__: object) -> str:
        raise OSError("403")

    monkeypatch.setattr(locate, "silence", lambda host, port: "")
    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=download))
    assert find_data(None, said.append).name == "phantom.zip"
    assert any("403" in line and "--data" in line for line in said)


def test_a_set_that_cannot_be_fetched_names_those_that_can(said):
    with pytest.raises(DataNotFound, match=r"Fetchable: .*nickparvar"):
        fetch("nonesuch", said.append)
