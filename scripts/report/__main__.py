"""python -m scripts.report: write the report."""

import sys

from scripts.report.page import main

sys.exit(main())
