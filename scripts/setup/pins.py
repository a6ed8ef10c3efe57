"""Read the pinned versions from asv.conf.json and pyproject.toml. Standard library only."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def frameworks() -> dict[str, str]:
    """Return the version of each framework, and of each package that they compute with."""
    matrix = json.loads((ROOT / "asv.conf.json").read_text())["matrix"]["req"]
    return {name: versions[0] for name, versions in matrix.items() if not name.startswith("pip+")}


def extra(name: str) -> list[str]:
    """Return the requirements of an extra of pyproject.toml."""
    return _pyproject()["project"]["optional-dependencies"][name]


def row_packages() -> list[str]:
    """Return the requirements of packages that add rows to the catalog."""
    return _pyproject()["tool"]["relu-bench"]["packages"]


def _pyproject() -> dict[str, Any]:
    # Imported here so that a Python older than 3.11, which lacks it, gets as far as environment.main's error message.
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())
