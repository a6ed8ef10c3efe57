"""Time the rows of the catalog as in asv's documentation: a setup method, and a method that makes the call.

Not part of the suite. `python -m scripts.verify.repeatability --plain` runs it twice to show what the harness improves.
"""

import os
from contextlib import ExitStack

from benchmarks.harness.case import OperatorCase
from benchmarks.harness.frameworks import started
from benchmarks.harness.truth.calls import Calls
from impls.catalog import VARIANTS

# Without JAX: its in-place rows donate their arguments, and asv makes several calls for each setup.
ROWS = {
    f"{row.operator} {row.direction} {row.name}": row
    for row in VARIANTS
    if row.framework in ("numpy", "numba", "torch") and row.device == "cpu" and not row.needs
}


class Relu:
    params = (list(ROWS), [2**15, 2**20])
    param_names = ("row", "elements")

    def setup(self, row, elements):
        variant = ROWS[row]
        self.stack = ExitStack()
        framework = self.stack.enter_context(started(variant.framework, variant.device, len(os.sched_getaffinity(0))))
        case = OperatorCase("time", variant.operator, variant.direction, variant.name, elements)
        calls = Calls(variant, case, framework, variant.load())
        self.call, self.arguments = calls.call, calls.make()
        self.call(*self.arguments)

    def teardown(self, row, elements):
        self.stack.close()

    def time_call(self, row, elements):
        self.call(*self.arguments)
