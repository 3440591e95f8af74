"""`tumorscope audit`: look at the data first."""

from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, counting_stages, open_catalogue, say


def audit(
    data: Annotated[
        Path | None,
        typer.Argument(help="Zip archive or folder. Else $TUMORSCOPE_DATA, a download, or the phantom set."),
    ] = None,
    link: Annotated[
        Path | None,
        typer.Option(help="The figshare set (zip, folder of .mat files, or its zips): patients and masks by matching."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another set: how much of it is in DATA already, by class and patient.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="A finished run on this data: lists labels that it doubts.")] = None,
    patients: Annotated[
        str | None, typer.Option(help="Regular expression on file names whose group is the patient: '(P[0-9]+)_'.")
    ] = None,
    patient_column: Annotated[
        str | None, typer.Option(help="Column of the catalogue to take patient ids from.")
    ] = None,
    quarter_turns: Annotated[bool, typer.Option("--quarter-turns", help="Look for quarter turns too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the page; reports/audit-NAME by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the summary.")] = False,
    classes: ClassesOption = None,
) -> None:
    """Look at the data first: copies and mirrors, patients on both sides, the memoriser, confounding, label conflicts.

    Writes audit.html, audit.json and catalogue.csv, and puts pictures and patients into the catalogue for `train`.
    """
    import json

    sizes = (30, 32, 128)
    catalogue = open_catalogue(data, classes, sizes)
    with counting_stages() as progress:
        from tumorscope.audit.audit import adopt, run_audit
        from tumorscope.audit.page import plain, write_audit
        from tumorscope.audit.summary import summary
        from tumorscope.data.catalogue import join
        from tumorscope.training.identity import environment

        if against is not None:
            catalogue = join(catalogue, open_catalogue(against, classes, sizes))
        found = run_audit(
            catalogue,
            link=link,
            run=run,
            patient_pattern=patients,
            patient_column=patient_column,
            quarter_turns=quarter_turns,
            progress=progress,
        )
        adopt(catalogue, found)
        page = write_audit(out or Path("reports") / f"audit-{catalogue.name.replace(' ', '-')}", found, environment())
    typer.echo(json.dumps(plain(found), indent=2, default=str) if as_json else summary(found))
    say(f"Catalogue with pictures and patients: {page.parent / 'catalogue.csv'}")
    (say if as_json else typer.echo)(f"{page}")
