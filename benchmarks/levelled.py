"""How a model does when no file tells its collection any more: benchmarks/results/levelled.json.

python benchmarks/levelled.py --data ARCHIVE --run PATIENT_CV_RUN [--slices N --out FILE]

Test slices of --run, each answered by the network of the fold that has not seen it and calibrated by the other folds, as a
package answers: as they come, and made alike first (`levelled`). What file and frame alone say of the class is measured
before and after (`audit.confounding`). What a model loses may be cues, and may be detail that levelling costs: so the loss
is the most that these cues can have brought. The gate is not asked.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

import tumorscope as ts
from tumorscope.audit.confounding import confounding
from tumorscope.config import Input
from tumorscope.data.cache import pixels
from tumorscope.data.decode import as_input, crop_to_head, decode, shrink
from tumorscope.evaluation.intervals import bootstrap, paired_difference
from tumorscope.evaluation.scores import PROBABILITIES, flat, score
from tumorscope.files import write_json
from tumorscope.package.calibration import answered, fits_of_folds
from tumorscope.training.identity import environment
from tumorscope.training.loop import predict
from tumorscope.training.network import load_network
from tumorscope.training.runs import facts_of, read_predictions

RESULT = Path(__file__).parent / "results" / "levelled.json"
#: Pixels a side, JPEG quality, and percentiles that become black and white, the same for every slice.
SIDE, QUALITY, ENDS = 128, 75, (1, 99)
#: Pixels a side that border and black are looked at with.
FRAME = 30
METRICS = ("accuracy", "balanced_accuracy", "presence_auc", "presence_sensitivity", "presence_specificity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--run", type=Path, required=True, help="patient-cv run.")
    parser.add_argument("--slices", type=int, default=0, help="Of them; 0 is all. Needs --out.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.slices and not arguments.out:
        parser.error(
            f"--slices {arguments.slices} is not the whole result that {RESULT.name} holds: name another with --out."
        )
    torch.set_num_threads(1)
    recipe, catalogue = ts.load_recipe(arguments.run / "recipe.toml"), ts.load_catalogue(arguments.data)
    facts_of(arguments.run, catalogue)
    held = read_predictions(arguments.run)
    held = held[held["part"] == "test"].reset_index(drop=True)
    fits = fits_of_folds(held)
    if arguments.slices:
        held = held.iloc[np.unique(np.linspace(0, len(held) - 1, arguments.slices).astype(int))].reset_index(drop=True)
    rows = held["path"].map({path: row for row, path in enumerate(catalogue.table["path"])}).to_numpy()
    source = catalogue.source()
    files = [levelled(source.read(path)) for path in held["path"]]
    again = held.copy()
    for fold, part in held.groupby("fold"):
        module = load_network(arguments.run / f"fold-{fold}", recipe)
        ready = np.stack([seen(files[row], recipe.input) for row in part.index])
        chances = predict(module, torch.from_numpy(ready)[:, None], recipe.training.mirror_average)
        again.loc[part.index, list(PROBABILITIES)] = chances.double().numpy()
        print(f"fold {fold}: {len(part)} slices", flush=True)
    before, after = answered(held, fits), answered(again, fits)
    frames = np.stack([shrink(decode(file).grey, FRAME) for file in files])
    table = catalogue.table.iloc[rows].reset_index(drop=True)
    found = {
        "run": arguments.run.name,
        "slices": len(held),
        "levelled to": {"side": SIDE, "quality": QUALITY, "percentiles": ENDS},
        "cues": {
            "as they come": told(table, pixels(catalogue, FRAME)[rows]),
            "levelled": told(relisted(table, files), frames),
        },
        "scores": {"as they come": scores(before), "levelled": scores(after)},
        "levelled less as they come": {name: paired_difference(after, before, name) for name in METRICS},
        "same answer": float((said(before) == said(after)).mean()),
        "by collection": [*by_collection("as they come", before), *by_collection("levelled", after)],
    }
    write_json(arguments.out or RESULT, {**found, **environment()})
    for name in ("cues", "scores", "levelled less as they come", "same answer"):
        print(name, found[name])
    print(pd.DataFrame(found["by collection"]).to_string())


def levelled(content: bytes) -> bytes:
    """The file made like every other: grey, cropped to the head, one size, grey stretched, a JPEG of one quality."""
    small = shrink(crop_to_head(decode(content).grey), SIDE).astype(np.float64)
    low, high = np.percentile(small, ENDS)
    grey = ((small - low) / max(high - low, 1.0) * 255).clip(0, 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def seen(content: bytes, view: Input) -> np.ndarray:
    """What the recipe's network sees of a file, uint8 (s, s)."""
    grey = decode(content).grey
    head = crop_to_head(grey) if view.crop == "head" else grey
    return as_input(head, view.size, view.enlarged_from, view.filter)


def relisted(table: pd.DataFrame, files: list[bytes]) -> pd.DataFrame:
    """The catalogue's table with what levelled files say of themselves."""
    facts = [decode(file) for file in files]
    return table.assign(
        **{
            name: [getattr(one, name) for one in facts]
            for name in ("width", "height", "mode", "format", "quantisation", "rules")
        },
        bytes=[len(file) for file in files],
    )


def told(table: pd.DataFrame, frames: np.ndarray) -> list[dict[str, Any]]:
    """Presence AUC and balanced accuracy of each set of cues, no pixel of the head among them."""
    rows = confounding(table, frames).scores
    columns = ["cues", *(name for name in rows if name.startswith(("balanced_accuracy", "presence_auc")))]
    return rows.loc[rows["kind"] == "set", columns].to_dict("records")


def scores(answers: pd.DataFrame) -> dict[str, Any]:
    found = flat(score(answers))
    return {**{name: found[name] for name in METRICS}, "intervals": bootstrap(answers, metrics=METRICS)}


def said(answers: pd.DataFrame) -> np.ndarray:
    return answers[list(PROBABILITIES)].to_numpy().argmax(axis=1)


def by_collection(name: str, answers: pd.DataFrame) -> list[dict[str, Any]]:
    """Sensitivity and specificity for each source, plane and whether the patient is known, as it is of figshare's slices."""
    patient = np.where(answers["patient"] != "", "known", "not known")
    found = []
    for (source, plane, known), part in answers.groupby(["source", "plane", patient]):
        presence = score(part)["presence"]
        kept = {key: presence[key] for key in ("n_tumour", "n_notumor", "sensitivity", "specificity")}
        intervals = bootstrap(part, metrics=("presence_sensitivity", "presence_specificity"))
        found.append(
            {"slices": name, "source": source, "plane": plane, "patient": known, **kept, "intervals": intervals}
        )
    return found


if __name__ == "__main__":
    main()
