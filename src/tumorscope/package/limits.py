"""Limits of a package's gate: what training slices look like, and how far held-out ones lie from them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from tumorscope.config import Recipe
from tumorscope.data.catalogue import Catalogue
from tumorscope.inference.gate import Likeness, ghosting, measures, turned
from tumorscope.package.graph import Exported
from tumorscope.training.network import SliceNetwork, in_turn, load_network

#: Shares of genuine slices that the gate may refuse and warn of, over all its limits.
REFUSED, WARNED = 0.01, 0.05
#: Of these, the shares that are warned of as lying turned and as ghosted.
TURNED, GHOSTED = 0.01, 0.005


def embeddings_of(module: SliceNetwork, recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """Float64 (n, d) of uint8 (n, s, s)."""
    whole = Exported(module, False)
    with torch.inference_mode():
        made = [whole(part.float())[2] for part in in_turn(torch.from_numpy(np.array(images)[:, None]))]
    return torch.cat(made).double().numpy()


def statistics(values: np.ndarray, labels: np.ndarray) -> Likeness:
    """Of values (n, d): centre of each class that is there, and inverse of the covariance within (Ledoit and Wolf 2004)."""
    from sklearn.covariance import LedoitWolf

    present, place = np.unique(labels, return_inverse=True)
    centres = np.stack([values[labels == k].mean(axis=0) for k in present])
    return Likeness(centres, LedoitWolf(assume_centered=True).fit(values - centres[place]).precision_)


def trained_rows(facts: dict[str, Any], catalogue: Catalogue) -> np.ndarray:
    """Rows of the catalogue that the run of these facts was trained on, int64 (n,)."""
    from tumorscope.protocols import folds

    return folds(facts["protocol"], catalogue.table, facts["seed"])[0].train


def held_out(
    run: Path, recipe: Recipe, catalogue: Catalogue, images: np.ndarray, layouts: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Distances of every fold's test slices from its training slices, in its own network's embedding and in layout; and how much
    nearer they would be if they lay otherwise (`gate.turned`).
    """
    from tumorscope.protocols import folds

    facts = json.loads((run / "environment.json").read_text())
    found: dict[str, list[np.ndarray]] = {"distance": [], "layout": [], "turned": []}
    for fold in folds("patient-cv", catalogue.table, facts["seed"]):
        module = load_network(run / f"fold-{fold.index}", recipe)
        train, test = (embeddings_of(module, recipe, images[rows]) for rows in (fold.train, fold.test))
        found["distance"].append(statistics(train, labels[fold.train]).distances(test))
        known = statistics(layouts[fold.train], labels[fold.train])
        found["layout"].append(known.distances(layouts[fold.test]))
        found["turned"].append(turned(layouts[fold.test], known)[0])
    return {name: np.concatenate(several) for name, several in found.items()}


def limits_of(catalogue: Catalogue, rows: np.ndarray, held: dict[str, np.ndarray]) -> dict[str, Any]:
    """Limits that together refuse at most `REFUSED` of genuine slices, and warn of `WARNED`; a little room beyond."""
    from tumorscope.data.decode import crop_to_head, decode

    source = catalogue.source()
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), 1500)).astype(int)]
    heads = (crop_to_head(decode(source.read(catalogue.table["path"][row])).grey) for row in some)
    table = pd.DataFrame([{**measures(head), "ghosting": ghosting(head)} for head in heads])
    echoes = table.pop("ghosting")
    usual = WARNED - TURNED - GHOSTED
    # Layout, which tells most strangers, has half of what may be refused; the other limits have equal parts of the rest.
    away = {name: held[name] for name in ("distance", "layout")}
    others = 2 * len(table.columns) + len(away) - 1
    part = {"layout": 0.5}
    refuse, warn = REFUSED * 0.5 / others, usual * 0.5 / others
    bounds = {}
    for name, values in table.items():
        room = 0.1 * (values.quantile(0.99) - values.quantile(0.01))
        bounds[name] = {
            "refuse": [float(values.quantile(refuse) - room), float(values.quantile(1 - refuse) + room)],
            "warn": [float(values.quantile(warn)), float(values.quantile(1 - warn))],
        }
    distances = {
        name: {
            what: float(np.quantile(values, 1 - share * part.get(name, 0.5 / others)))
            for what, share in (("refuse", REFUSED), ("warn", usual))
        }
        for name, values in away.items()
    }
    return {
        "measures": bounds,
        **distances,
        "turned": float(np.quantile(held["turned"], 1 - TURNED)),
        "ghosting": float(echoes.quantile(1 - GHOSTED)),
        "slices": len(table),
        "refused_share": REFUSED,
        "warned_share": WARNED,
    }
