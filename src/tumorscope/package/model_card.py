"""The model card for people, made from card.json (Mitchell et al. 2019, arXiv:1810.03993)."""

from typing import Any

from tumorscope.evaluation.pages import template

#: Protocols that a card has a line for, measured or not, and what each asks.
QUESTIONS = {
    "official": "the published split, in which three of four test slices are training slices again",
    "clean": "the same without the test slices that are training slices again",
    "picture-cv": "new pictures, the same patients",
    "patient-cv": "new patients, same collections",
    "external": "another collection",
}


def model_card(card: dict[str, Any]) -> str:
    """Markdown: what the model is, how it does, what it must not be used for."""
    conformal = card["conformal"]
    sets = conformal["rates"][f"{conformal['error_rate']:g}"]
    return template("package/model_card.md.j2").render(card=card, questions=QUESTIONS, sets=sets)
