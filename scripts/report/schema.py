"""Print the JSON Schema of a line of .asv/outcomes/MACHINE/COMMIT.jsonl, or of a file in reports/.

python -m scripts.report.schema [--comparison | --claims]: in an environment with the packages of the report
(.venv/report).
"""

import argparse
import json
from typing import Any

import msgspec

from benchmarks.harness import measurement
from benchmarks.harness.processes.records import Record
from scripts.claims import document
from scripts.report import comparison


def schema_of(kind: type, title: str) -> dict[str, Any]:
    """Return the JSON Schema of a type, with a title."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"relu-bench {title}",
        **msgspec.json.schema(kind),
    }


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record of the current version, `measurement.SCHEMA`."""
    return schema_of(Record, f"outcome record, schema {measurement.SCHEMA}")


def comparison_schema() -> dict[str, Any]:
    """Return the JSON Schema of a comparison of the current version, `comparison.SCHEMA`."""
    return schema_of(comparison.Result, f"comparison, schema {comparison.SCHEMA}")


def claims_schema() -> dict[str, Any]:
    """Return the JSON Schema of claims and examples of the current version, `document.SCHEMA`."""
    return schema_of(document.Document, f"claims or examples, schema {document.SCHEMA}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.report.schema", description=(__doc__ or "").split("\n\n")[0]
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--comparison", action="store_true", help="of reports/comparison.json")
    kind.add_argument("--claims", action="store_true", help="of reports/claims.json and examples.json")
    options = parser.parse_args()
    printed = claims_schema if options.claims else comparison_schema if options.comparison else record_schema
    print(json.dumps(printed(), indent=2))


if __name__ == "__main__":
    main()
