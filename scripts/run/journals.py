"""Tell from the journals of a run what is being measured. Standard library only, as asv's own process imports it."""

from pathlib import Path


def latest_block(folder: Path, since_s: float) -> str:
    """Return the name of the block that was measured last, and its rounds so far; empty if none was since then.

    folder: of the run's plan. since_s: in seconds since 1970.
    """
    written_s = {path: path.stat().st_mtime for path in folder.rglob("*.jsonl")}
    latest = max(written_s, key=written_s.__getitem__, default=None)
    if latest is None or written_s[latest] <= since_s:
        return ""
    with latest.open("rb") as lines:
        rounds = sum(b'"slices":' in line for line in lines)
    return f"{latest.stem}: {rounds} rounds"
