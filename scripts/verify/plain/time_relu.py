"""The rows of the catalog as asv's documentation would have them timed: a setup, and a method that makes the call.

Not a part of the suite: `python -m scripts.verify.repeatability --plain` runs it twice, to show what the harness
is for.
"""

import os
from contextlib import ExitStack

from benchmarks.harness.case import Case
from benchmarks.harness.frameworks import started
from benchmarks.harness.truth.bench import Bench
from impls.catalog import VARIANTS, find

# JAX's in-place rows lose their arguments in a call, which a setup that serves several cannot mend.
ROWS = [f"{row.op} {row.name}" for row in VARIANTS if row.framework in ("numpy", "numba", "torch") and not row.needs]


class Relu:
    params = ([row for row in ROWS if "cuda" not in row], [2**15, 2**20])
    param_names = ("row", "elements")

    def setup(self, row, elements):
        variant = find(*row.split())
        self.stack = ExitStack()
        framework = self.stack.enter_context(started(variant.framework, variant.device, len(os.sched_getaffinity(0))))
        case = Case("time", variant.op, variant.name, elements, "float32")
        bench = Bench(variant, case, framework, variant.load())
        self.call, self.arguments = bench.call, bench.make()
        self.call(*self.arguments)

    def teardown(self, row, elements):
        self.stack.close()

    def time_call(self, row, elements):
        self.call(*self.arguments)
