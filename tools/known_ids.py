"""Make src/tumorscope/data/known/nickparvar.csv.gz from the Kaggle archive and the figshare set.

python tools/known_ids.py KAGGLE_ARCHIVE FIGSHARE_ARCHIVE
"""

import gzip
import sys
from pathlib import Path

import tumorscope as ts
from tumorscope.audit.audit import run_audit
from tumorscope.data.known import DIGITS, FILLED

TARGET = Path(__file__).parents[1] / "src/tumorscope/data/known/nickparvar.csv.gz"


def main(archive: str, figshare: str) -> None:
    """Audit, link and write."""
    table = run_audit(ts.load_catalogue(archive, sizes=(30, 32, 128)), link=Path(figshare)).table
    rows = table.assign(sha256=table["sha256"].str[:DIGITS])[["sha256", *FILLED]]
    rows = rows.drop_duplicates().sort_values("sha256")
    if rows["sha256"].duplicated().any():
        raise SystemExit("One file has two pictures or patients; nothing was written.")
    TARGET.parent.mkdir(exist_ok=True)
    with TARGET.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        packed.write(rows.to_csv(index=False).encode())
    print(f"{len(rows)} files, {table['picture'].nunique()} pictures, {TARGET.stat().st_size:,} bytes: {TARGET}")


if __name__ == "__main__":
    main(*sys.argv[1:])
