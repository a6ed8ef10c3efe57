"""Render the templates of pages: foreign text is escaped, and hashes say which style and script a page may use."""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from scripts.report import text

if TYPE_CHECKING:
    # Drawing needs packages that pages without a figure do not.
    from scripts.report.drawing import Figure

FOLDER = Path(__file__).parent / "templates"
FILTERS: dict[str, Callable[..., Any]] = {
    "time": text.time_text, "number": text.number_text, "bytes": text.bytes_text, "ratio": text.ratio_text,
    "compared": text.comparison_text, "interval": text.interval_text, "count": text.count_text,
}  # fmt: skip


def template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """A template, with FILTERS and others; `inline` is the SVG of a figure."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS, inline=_inline, **filters)
    return environment.get_template(name)


def style() -> dict[str, str]:
    """The style of pages and its hash, for templates: style, style_hash."""
    return _file("style", "style.css")


def script() -> dict[str, str]:
    """The script of the report and its hash, for templates: script, script_hash."""
    return _file("script", "report.js")


def _file(name: str, file: str) -> dict[str, str]:
    content = (FOLDER / file).read_text()
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return {name: Markup(content), f"{name}_hash": f"sha256-{digest}"}


def _inline(figure: "Figure") -> Markup:
    """The SVG of a figure, in which `drawing` escaped foreign text."""
    return Markup(figure.svg)
