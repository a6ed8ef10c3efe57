"""Build reports from thousands of damaged result files and records: none may stop the others from being shown.

python -m scripts.verify.report_fuzz [--files 10000] [--seed 0]: with .venv/test. Damages bytes and values of a result
file and of a record, and puts FOLDER_FILES of each beside an intact file. Fails if the report cannot be built, does not
show the intact number, or if a file that gave no rows is not named.
"""

import argparse
import copy
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.harness.case import Case, OperatorCase, StepCase
from scripts.arguments import positive
from scripts.report import asv_files, page, results
from scripts.report.section import Context
from tests import synthetic

FOLDER_FILES = 250
INTACT = synthetic.time("forward", "numba.out", 2**15)
INTACT_S = 1.2345e-5
NUMBERS: dict[Case, float | None] = {
    synthetic.time("forward", "numpy.out"): 1e-3,
    synthetic.time("backward", "torch.fresh"): 2e-3,
    synthetic.roof("copy.all"): 1e-4,
    StepCase("time", "mnist_cnn", "torch.fresh", 64): 0.01,
    OperatorCase("transient_bytes", "relu", "forward", "numpy.fresh", 2**20): 2**22,
}
# Values that stand in for those of a file.
WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "<script>", [], {}, [[]],
    {"": []}, [None] * 3,
)  # fmt: skip
DEPTH = 3000


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.report_fuzz", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--files", type=positive, default=10_000, help="result files to damage (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    options = parser.parse_args()
    random.seed(options.seed)
    ends: Counter[str] = Counter()
    for start in range(0, options.files, FOLDER_FILES):
        with tempfile.TemporaryDirectory(prefix="relu-bench-fuzz-") as temporary:
            ends += _of_folder(Path(temporary), min(FOLDER_FILES, options.files - start))
        print(f"{min(start + FOLDER_FILES, options.files)} files: {dict(ends)}", flush=True)
    return int(ends["unnamed"] > 0)


def _of_folder(folder: Path, files: int) -> Counter[str]:
    """Damage files, build the report, and count what became of them. Raises AssertionError for a lost number."""
    stored = synthetic.content(NUMBERS)
    record = synthetic.record(next(iter(NUMBERS)), value=1e-3, processes=[synthetic.process()], provenance={"cpu": "x"})
    synthetic.write(folder / "results", synthetic.content({INTACT: INTACT_S}), "intact")
    for number in range(files):
        _write(folder / "results" / "box" / f"{number}.json", _damaged(stored))
        _write(folder / "outcomes" / "box" / f"{number}.jsonl", _damaged(record))
    loaded = results.load(folder / "results", folder / "outcomes")
    named = "\n".join(loaded.problems)
    ends = Counter(_end(folder / "results" / "box" / f"{number}.json", named) for number in range(files))
    for machine in ("intact", "box"):
        try:
            run = page.choose(loaded.table, machine)
        except LookupError:
            continue
        html = page.build(Context(loaded, run))["index.html"].decode()
        assert "12.3 µs" in html, f"the intact number is not shown beside {machine}"
    return ends


def _end(path: Path, named: str) -> str:
    """What became of a file: it is named, or it gave rows, or neither."""
    if f"{path}: " in named:
        return "named"
    content = asv_files.read(path, [])
    return "shown" if content is not None and asv_files.rows(path, content, []) else "unnamed"


def _damaged(content: Any) -> bytes:
    """A file with damaged bytes or values."""
    if random.random() < 0.5:
        text = bytearray(json.dumps(content).encode())
        for _ in range(random.randint(1, 4)):
            _damage_bytes(text)
        return bytes(text)
    content = copy.deepcopy(content)
    for _ in range(random.randint(1, 3)):
        _damage_value(content)
    return json.dumps(content).replace('"DEEP"', "[" * DEPTH + "]" * DEPTH).encode()


def _damage_bytes(text: bytearray) -> None:
    position = random.randrange(len(text) or 1)
    kind = random.randrange(4)
    if kind == 0:
        del text[position:]
    elif kind == 1:
        del text[position : position + random.randint(1, 20)]
    elif kind == 2:
        text[position:position] = bytes(random.choices(range(256), k=random.randint(1, 4)))
    else:
        text[position : position + 1] = bytes([random.choice(b'0123456789-.eE"{}[],:')])


def _damage_value(content: Any) -> None:
    """Replace, remove or add a value somewhere in JSON content."""
    parent = content
    while True:
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        if not keys:
            return
        key = random.choice(keys)
        if isinstance(parent[key], dict | list) and parent[key] and random.random() < 0.8:
            parent = parent[key]
            continue
        if random.random() < 0.2:
            del parent[key]
        else:
            parent[key] = random.choice((*WRONG, "DEEP"))
        return


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
