"""Semantics: what each variant does at the edges of the definition."""

from typing import Any

from benchmarks.harness.processes.blocks import BASELINE
from impls.catalog import VARIANTS
from impls.variant import Semantics, Variant
from scripts.report.section import Context, Section, rendered
from scripts.report.text import row_label

NAME, TITLE = "semantics", "Semantics"


def section(context: Context) -> Section:
    """The section, which is the same for all runs of one catalog."""
    return rendered(NAME, TITLE, groups=_groups())


def _groups() -> list[dict[str, Any]]:
    """Each distinct behaviour with its variants: facts as (name, text, differs from the definition)."""
    grouped: dict[Semantics, dict[str, None]] = {}
    for row in VARIANTS:
        if row.device == "cpu":
            grouped.setdefault(row.semantics, {})[_label(row)] = None
    default = vars(Semantics())
    return [
        {
            "variants": list(names),
            "facts": [(key, _fact(value), value != default[key]) for key, value in vars(semantics).items()],
        }
        for semantics, names in grouped.items()
    ]


def _label(row: Variant) -> str:
    """A row of ReLU; of another activation, whose rows are many, its flavour in one direction."""
    name = row.name if row.operator == BASELINE else row.flavour
    return row_label(row.operator, row.direction, name)


def _fact(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
