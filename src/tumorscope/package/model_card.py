"""The model card for people, made from card.json (Mitchell et al. 2019, arXiv:1810.03993)."""

from typing import Any

from tumorscope.evaluation.pages import template

_QUESTIONS = {
    "official": "the published split, in which three of four test slices are training slices again",
    "patient-cv": "new patients, same collections",
    "external": "another collection",
}


def model_card(card: dict[str, Any]) -> str:
    """Markdown: what the model is, how it does, what it must not be used for."""
    return template("package/model_card.md.j2").render(card=card, questions=_QUESTIONS)
