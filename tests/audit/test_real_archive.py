"""What the audit finds in the Kaggle archive itself."""

import os
from pathlib import Path

import pytest

from tumorscope.audit.audit import run_audit
from tumorscope.data.catalogue import load_catalogue

ARCHIVE = os.environ.get("TUMORSCOPE_DATA", "")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not Path(ARCHIVE).is_file(), reason="needs the Kaggle archive; set TUMORSCOPE_DATA")
def test_the_published_findings_come_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path))
    catalogue = load_catalogue(ARCHIVE, sizes=(30, 32, 128))
    if len(catalogue.table) != 7023:
        pytest.skip(f"{len(catalogue.table)} slices: not version 1 of the archive")
    audit = run_audit(catalogue)
    total, leak = audit.copies.iloc[-1], audit.leakage.iloc[-1]
    assert (total["slices"] - total["bytes"], total["slices"] - total["pixels"]) == (297, 426)
    assert leak["pixels"] == 216
    assert abs(leak["picture"] - 992) <= 5
    # Plain correlation at 32x32 gives 3,740; brightened and sharpened copies make it fewer (docs/explanation/pictures.md).
    assert abs(total["picture"] - 3553) <= 10
    assert audit.conflicts["picture"].nunique() == 4
    assert set(audit.conflicts["label"]) == {"meningioma", "pituitary"}
    assert total["patient"] == 233
    assert "all are grouped the same way" in audit.known
    memoriser = audit.memoriser[~audit.memoriser["mirrors"]].set_index("protocol")["accuracy"]
    assert memoriser["official"] == pytest.approx(0.977, abs=0.005)
    assert memoriser["patient-cv"] == pytest.approx(0.75, abs=0.03)
    assert audit.confounding is not None
    assert audit.confounding.verdict == "confounded"
