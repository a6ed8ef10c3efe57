"""Measure the claims of four tutorials on ReLU, and give a verdict on each.

python -m scripts.claims [--quick] [--only NAME ...]: needs an environment with the frameworks (.venv/test). Prints
figures with 95 % intervals over seeds, and writes them to reports/claims.json, with a picture of each claim; the report
then has a section of them. Fails if an experiment fails; the others are measured all the same.
"""

import argparse
import sys
from pathlib import Path

from scripts.claims import command
from scripts.claims.document import CLAIMS
from scripts.claims.registry import CLAIMS as ALL
from scripts.setup.pins import ROOT


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.claims", description=(__doc__ or "").split("\n\n")[0])
    names = [claim.name for claim in ALL]
    parser.add_argument("--quick", action="store_true", help="with fewer seeds: a minute or two")
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME",
        help=f"only these claims, which are then alone in the file: {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "reports", help="where to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    chosen = [claim for claim in ALL if claim.name in options.only]
    return command.run(CLAIMS, chosen, options.out, options.quick)


if __name__ == "__main__":
    sys.exit(main())
