"""Print the JSON Schema of an outcome record, one line of .asv/outcomes/MACHINE/COMMIT.jsonl.

python -m scripts.report.schema: in an environment with msgspec (.venv/report).
"""

import argparse
import json
from typing import Any

import msgspec

from benchmarks.harness.measurement import SCHEMA
from benchmarks.harness.processes.records import Record


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record of the current version, `measurement.SCHEMA`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"relu-bench outcome record, schema {SCHEMA}",
        **msgspec.json.schema(Record),
    }


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m scripts.report.schema", description=(__doc__ or "").split("\n\n")[0]
    ).parse_args()
    print(json.dumps(record_schema(), indent=2))


if __name__ == "__main__":
    main()
