"""The pinned versions of what is measured, read from the matrix of asv.conf.json. Standard library only."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def frameworks() -> dict[str, str]:
    """Package to version, for what is measured, and what it computes with."""
    matrix = json.loads((ROOT / "asv.conf.json").read_text())["matrix"]["req"]
    return {name: versions[0] for name, versions in matrix.items() if not name.startswith("pip+")}
