"""Semantics: what each variant does at the edges of the definition."""

from typing import Any

from impls.catalog import VARIANTS
from impls.variant import Semantics
from scripts.report.section import Context, Section, rendered
from scripts.report.text import row_label

NAME, TITLE = "semantics", "Semantics"


def section(context: Context) -> Section:
    """The section, which is the same for all runs of one catalog."""
    return rendered(NAME, TITLE, groups=_groups())


def _groups() -> list[dict[str, Any]]:
    """Each distinct behaviour with its variants: facts as (name, text, differs from the definition)."""
    grouped: dict[Semantics, list[str]] = {}
    for row in VARIANTS:
        if row.device == "cpu":
            grouped.setdefault(row.semantics, []).append(row_label(row.operator, row.direction, row.name))
    default = vars(Semantics())
    return [
        {
            "variants": names,
            "facts": [(key, _fact(value), value != default[key]) for key, value in vars(semantics).items()],
        }
        for semantics, names in grouped.items()
    ]


def _fact(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)
