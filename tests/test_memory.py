"""Test that measured bytes equal those that the catalog computes, for every row that can run here."""

import shutil

import pytest

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.processes import plan
from benchmarks.harness.truth import operators
from impls.catalog import VARIANTS
from impls.variant import ITEMSIZE_BYTES

ELEMENTS = 2**17 + 5
ROWS = [row for row in VARIANTS if row.device == "cpu" and not row.needs]
FRAMEWORKS = sorted({row.framework for row in ROWS})


def cases(rows):
    quantities = [("transient_bytes", row) for row in rows] + [
        ("saved_bytes", row) for row in rows if row.direction == "roundtrip"
    ]
    return [
        (OperatorCase(quantity, row.operator, row.direction, row.name, ELEMENTS, row.dtypes[-1]), row)
        for quantity, row in quantities
    ]


def compare(case, row, measurement):
    # The harness refuses bytes that differ from the declared ones.
    assert measurement.status == "ok", measurement.reason + measurement.output_tail
    size = row.saved_size if case.quantity == "saved_bytes" else row.transient
    elements = operators.whole_rows(row, ELEMENTS)
    assert size.explains(measurement.value, elements, ITEMSIZE_BYTES[case.dtype]), (case, measurement.value)


def compare_all(rows):
    pairs = cases(rows)
    measurements = plan.measured([case for case, _ in pairs], Settings(limit_s=600, threads=1))
    for case, row in pairs:
        compare(case, row, measurements[case])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_measured_bytes_equal_the_declared(framework):
    compare_all([row for row in ROWS if row.framework == framework])


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_measured_bytes_of_compiled_rows_equal_the_declared():
    compare_all([row for row in VARIANTS if row.device == "cpu" and row.needs])
