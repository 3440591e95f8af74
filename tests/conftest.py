"""For all tests: torch's draws the same every time; a package made of a tiny network on the phantom set, once."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

from tumorscope.api import train
from tumorscope.audit.identify import with_pictures
from tumorscope.config import load_recipe
from tumorscope.data.catalogue import load_catalogue
from tumorscope.data.phantom.archive import write_phantom

# A slow machine is no fault of what is tested, and every run looks at the same examples.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# What the command prints is read as it comes without a terminal, whatever the machine has set for its own.
for setting in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TERMINAL_WIDTH"):
    os.environ.pop(setting, None)
os.environ["COLUMNS"] = "200"

TINY = {
    **{"model.filters": [4, 8, 8], "training.epochs": 2, "training.batch_size": 16, "input.crop": "head"},
    **{"input.size": 32, "training.threads": 1},
}


@pytest.fixture(autouse=True)
def _seeded():
    """Networks that a test draws without a seed are the same ones every time; torch is not loaded for it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(package folder, catalogue, run of all, patient-cv run)."""
    from tumorscope.package.export import export_run

    folder = tmp_path_factory.mktemp("package")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUMORSCOPE_HOME", str(folder / "home"))
        archive = write_phantom(folder / "phantom.zip", patients_per_class=8, slices_per_patient=3, size=96)
        catalogue = with_pictures(load_catalogue(archive))
        recipe = load_recipe("compact_cnn", TINY)
        runs = {
            protocol: train(recipe, catalogue, protocol, [0], runs=folder / "runs", workers=1)[0]
            for protocol in ("all", "patient-cv", "official")
        }
        export_run(runs["all"], [runs["patient-cv"], runs["official"]], catalogue, folder / "tiny")
        yield folder / "tiny", catalogue, runs
