"""What every page of ours shares: template, figures put into the page, and how numbers read."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, Template
from matplotlib.figure import Figure

from tumorscope.evaluation import figures

DISCLAIMER = "For research and teaching; not a medical device."


@dataclass(frozen=True)
class Illustration:
    """A figure as a page shows it: a `data:` address, what it shows in words, and what to see in it."""

    source: str
    alt: str
    caption: str


def illustrate(folder: Path, name: str, figure: Figure, alt: str, caption: str, inline: str = "svg") -> Illustration:
    """Write the figure's files and give its `inline` form: drawings stay sharp as SVG, slices are smaller as PNG."""
    figures.save(figure, folder, name)
    kind = {"svg": "image/svg+xml", "png": "image/png"}[inline]
    content = base64.b64encode((folder / f"{name}.{inline}").read_bytes()).decode("ascii")
    return Illustration(f"data:{kind};base64,{content}", alt, caption)


def template(name: str) -> Template:
    """A page's template by its path in the package, such as "evaluation/report.html.j2"; what it prints is escaped."""
    environment = Environment(
        loader=PackageLoader("tumorscope", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent, "facts": facts, "clock": clock}
    environment.tests["known"] = is_known
    environment.globals["disclaimer"] = DISCLAIMER
    return environment.get_template(name)


def is_known(value: Any) -> bool:
    """Whether a number is there: not missing, not None, not NaN."""
    return isinstance(value, int | float) and value == value


def number(value: Any, digits: int = 4) -> str:
    """A number with `digits` decimals; a dash for what is not known."""
    return f"{value:.{digits}f}" if is_known(value) else "–"


def percent(value: float, digits: int = 1) -> str:
    """A share in [0, 1] as per cent."""
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def clock(seconds: float) -> str:
    """A duration in minutes and seconds."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def listed(items: Any) -> str:
    """Items as in a sentence: a, b and c."""
    *some, last = list(items) or [""]
    return f"{', '.join(some)} and {last}" if some else str(last)


def facts(known: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested facts as (name, value) pairs, the names joined with a dot."""
    rows: list[tuple[str, str]] = []
    for name, value in known.items():
        if isinstance(value, Mapping):
            rows += facts(value, f"{above}{name}.")
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            rows.append((f"{above}{name}", listed(value) if isinstance(value, list | tuple) else str(shown)))
    return rows
