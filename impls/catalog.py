"""Assemble the rows of all operators and training steps, and find one by its name. Imports no framework.

Operators and their rows are declared beside their code (`impls/*/rows.py`). Installed packages add rows through the
entry point group `relu_bench.rows`: each entry names a module with ROWS, and OPERATORS where it brings operators of its
own. Its flavours carry the name of the package.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from impls.cnn import rows as cnn
from impls.relu import rows as relu
from impls.variant import Direction, Operator, StepVariant, Variant

ENTRY_POINTS = "relu_bench.rows"
# Each has OPERATORS and ROWS.
MODULES = (relu,)


def _normalised(package: str) -> str:
    """A package name as flavours carry it. Source: PEP 503, normalised names."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _from_package(entry: EntryPoint) -> tuple[tuple[Operator, ...], tuple[Variant, ...]]:
    """Operators and rows of an installed package, named after it; none, and a warning, where they cannot be loaded."""
    package = _normalised(entry.dist.name if entry.dist else entry.name)
    try:
        module = entry.load()
        named = tuple(
            row
            if row.flavour == package or row.flavour.startswith(f"{package}-")
            else replace(row, flavour=f"{package}-{row.flavour}")
            for row in module.ROWS
        )
        return tuple(getattr(module, "OPERATORS", ())), named
    except Exception as error:
        warnings.warn(f"rows of {package} are left out: {type(error).__name__}: {error}", stacklevel=2)
        return (), ()


def _packages() -> Iterator[tuple[tuple[Operator, ...], tuple[Variant, ...]]]:
    entries = sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name)
    # A folder that is on the import path twice lists its entry points twice.
    yield from map(_from_package, dict.fromkeys(entries))


_INSTALLED = tuple(_packages())
OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        *(operator for operators, _ in _INSTALLED for operator in operators),
        # Ours come last: no package redefines them.
        *(operator for module in MODULES for operator in module.OPERATORS),
    )
}
VARIANTS: tuple[Variant, ...] = (
    *(row for module in MODULES for row in module.ROWS),
    *(row for _, rows in _INSTALLED for row in rows if row.operator in OPERATORS),
)
STEPS: tuple[StepVariant, ...] = cnn.ROWS


def variants(operator: str, direction: Direction | None = None) -> tuple[Variant, ...]:
    """The rows of an operator, or of one direction of it, in the order of the catalog."""
    return tuple(row for row in VARIANTS if row.operator == operator and direction in (None, row.direction))


def find(operator: str, direction: str, name: str) -> Variant:
    """The row of one operator and direction with this name.

    Raises LookupError that lists the names there are.
    """
    rows = [row for row in VARIANTS if (row.operator, row.direction) == (operator, direction)]
    for row in rows:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in rows) or f"no variant; operators: {', '.join(OPERATORS)}"
    raise LookupError(f"no variant {name!r} of {operator} {direction}; there are: {known}")


def find_step(name: str) -> StepVariant:
    """The row of a training step with this name.

    Raises LookupError that lists the names there are.
    """
    for row in STEPS:
        if row.name == name:
            return row
    raise LookupError(f"no training step {name!r}; there are: {', '.join(row.name for row in STEPS)}")
