"""Assemble the rows of all operators and training steps, and find one by its name. Imports no framework.

Operators and their rows are declared beside their code (`impls/*/rows.py`). Installed packages add rows through the
entry point group `relu_bench.rows`: each entry names a module with ROWS, and OPERATORS where it brings operators of its
own. Its flavours carry the name of the package.
"""

import re
import warnings
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

from impls.activations import rows as activations
from impls.cnn import rows as cnn
from impls.relu import rows as relu
from impls.variant import Direction, Operator, StepVariant, Variant

ENTRY_POINTS = "relu_bench.rows"
# Each has OPERATORS and ROWS.
MODULES = (relu, activations)
# Operator, direction and name of a row.
Key = tuple[str, str, str]


def _normalised(package: str) -> str:
    """A package name as flavours carry it. Source: PEP 503, normalised names."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _named(row: Variant, package: str) -> Variant:
    """The row with a flavour that begins with the name of its package."""
    if row.flavour == package or row.flavour.startswith(f"{package}-"):
        return row
    return replace(row, flavour=f"{package}-{row.flavour}")


def _class_name(operator: str) -> str:
    """The operator's name without underscores: operators that differ only in these have asv classes of one name."""
    return operator.replace("_", "")


def _add(operators: dict[str, Operator], rows: dict[Key, Variant], module: Any, package: str | None = None) -> None:
    """Add the operators and rows of a module, those of a package under its name.

    Raises TypeError or ValueError, and adds nothing, where one of them is of another type, is there already, or does
    not fit its operator.
    """
    taken = {_class_name(name): name for name in operators}
    new_operators = dict(operators)
    for operator in getattr(module, "OPERATORS", ()):
        if not isinstance(operator, Operator):
            raise TypeError(f"OPERATORS: {operator!r} given; instances of Operator are accepted")
        if _class_name(operator.name) in taken:
            raise ValueError(
                f"operator {operator.name!r} is declared already, as {taken[_class_name(operator.name)]!r}"
            )
        taken[_class_name(operator.name)] = operator.name
        new_operators[operator.name] = operator
    new_rows = dict(rows)
    for declared in module.ROWS:
        if not isinstance(declared, Variant):
            raise TypeError(f"ROWS: {declared!r} given; instances of Variant are accepted")
        row = _named(declared, package) if package else declared
        key = (row.operator, row.direction, row.name)
        if key in new_rows:
            raise ValueError(f"{' '.join(key)} is declared already")
        _require_gradient(row, new_operators)
        new_rows[key] = row
    operators.update(new_operators)
    rows.update(new_rows)


def _require_gradient(row: Variant, operators: dict[str, Operator]) -> None:
    """Raise ValueError unless the row's operator is declared, with the gradients that the row is judged by."""
    if row.operator not in operators:
        raise ValueError(f"{row.name}: operator {row.operator!r} given; {', '.join(operators)} are declared")
    saved = {"forward": (), "backward": (row.saved_for_backward,), "roundtrip": ("input",)}[row.direction]
    gradients = operators[row.operator].gradients
    if missing := [name for name in saved if name not in gradients]:
        raise ValueError(
            f"{row.operator} {row.direction} {row.name}: judged by the gradient from {missing[0]!r}, but the operator "
            f"declares those from {', '.join(gradients)}"
        )


def _assembled() -> tuple[dict[str, Operator], tuple[Variant, ...]]:
    """Our operators and rows, then those of packages; a package that cannot be added is left out with a warning."""
    operators: dict[str, Operator] = {}
    rows: dict[Key, Variant] = {}
    for module in MODULES:
        _add(operators, rows, module)
    entries = sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name)
    # A folder that is on the import path twice lists its entry points twice.
    for entry in dict.fromkeys(entries):
        package = _normalised(entry.dist.name if entry.dist else entry.name)
        try:
            _add(operators, rows, entry.load(), package)
        except (Exception, SystemExit) as error:
            warnings.warn(f"rows of {package} are left out: {type(error).__name__}: {error}", stacklevel=2)
    return operators, tuple(rows.values())


OPERATORS, VARIANTS = _assembled()
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
