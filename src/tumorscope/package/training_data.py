"""What a card says of the slices that its model was trained on: sets, licences and files."""

from typing import Any

import numpy as np
import pandas as pd

from tumorscope.config import Recipe
from tumorscope.data.cards import CARDS, Card
from tumorscope.data.catalogue import Catalogue
from tumorscope.data.known import DIGITS
from tumorscope.protocols import folds
from tumorscope.training.external import widened, with_rows


def trained_with_further(recipe: Recipe, facts: dict[str, Any], catalogue: Catalogue) -> tuple[Catalogue, np.ndarray]:
    """The catalogue with the recipe's further sets behind it, and its rows that the run was trained on."""
    wide, further = with_rows(recipe, catalogue)
    fold = folds(facts["protocol"], catalogue.table, facts["seed"])[0]
    return wide, widened(fold, wide.table, further)[0].train


def sets_of(recipe: Recipe, facts: dict[str, Any], catalogue: Catalogue) -> list[dict[str, str]]:
    """Name, title, licence, url and use of every set that slices or masks are of; only the name of those not known here.

    facts : environment.json of the run; the sets need not be there any more
    """
    known = {card.digest: card for card in CARDS.values() if card.digest}
    used = [(known.get(part.digest) or Card(part.name, "", "", "", ""), "slices") for part in catalogue.sets]
    # Runs of before do not say where masks are from; the Kaggle set has none of its own.
    main = catalogue.sets[0]
    bare = main.digest == CARDS["nickparvar"].digest and (main.table["mask"] == "").all()
    if recipe.needs_masks and facts.get("masks_from", "figshare" if bare else "data") == "figshare":
        used.append((CARDS["figshare"], "masks"))
    return [
        {**{field: getattr(card, field) for field in ("name", "title", "licence", "url")}, "use": use}
        for card, use in used
    ]


def files_of(table: pd.DataFrame, trained: np.ndarray) -> list[str]:
    """First digits of the sha256 of the files at these rows, and of all others that show their pictures: copies and mirrors."""
    pictures = table["picture"].iloc[trained]
    again = (table["picture"] != "") & table["picture"].isin(pictures)
    return sorted({*table["sha256"].iloc[trained].str[:DIGITS], *table["sha256"][again].str[:DIGITS]})
