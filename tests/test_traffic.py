"""Test that each row declares the bytes that its call moves, for every row that can run here.

`tests/tracing/` traces the calls and documents the limits of each tracer. Each dtype is traced separately: the size of
arrays depends on it and that of masks does not, so bytes distinguish the two.
"""

from dataclasses import fields, replace
from itertools import product

import pytest

from impls.catalog import find
from impls.variant import ITEMSIZE_BYTES, Traffic, Variant
from tests.conftest import cases, eager
from tests.tracing import UNTRACED, Moved, trace

FIELDS = [field.name for field in fields(Traffic)]
# Bytes per element of packed bits, the smallest array.
BIT = 1 / 8
# Per element: XLA also counts scalars and tables of pointers, and non-temporal stores leave the ends of an array out.
TOLERANCE_BYTES = BIT / 8
# Rows of torch.compile take seconds to compile for each dtype, so they have one.
ROWS = [case for case in [*cases(), *cases(family=True)] if eager(case.values[0]) or "float32" in case.values]


def key(row: Variant) -> tuple[str, str, str]:
    return row.operator, row.direction, row.name


every_row = pytest.mark.parametrize(("row", "dtype"), [case for case in ROWS if key(case.values[0]) not in UNTRACED])


def declared(traffic: Traffic, dtype: str) -> Moved:
    """Return the declared traffic in the terms of a trace."""
    itemsize_bytes = ITEMSIZE_BYTES[dtype]
    return Moved(
        read=traffic.reads * itemsize_bytes + traffic.mask_reads,
        written=traffic.writes * itemsize_bytes + traffic.mask_writes,
        fetched=traffic.write_allocate * itemsize_bytes + traffic.mask_writes,
    )


def agrees(traffic: Traffic, dtype: str, traced: Moved) -> bool:
    return declared(traffic, dtype) == pytest.approx(traced, abs=TOLERANCE_BYTES)


@every_row
def test_declared_traffic_equals_the_trace(row: Variant, dtype: str) -> None:
    traced = trace(row, dtype)
    assert declared(row.traffic, dtype) == pytest.approx(traced, abs=TOLERANCE_BYTES)
    # Reports divide this number by the time.
    assert row.traffic.bus_bytes(1, ITEMSIZE_BYTES[dtype]) == pytest.approx(sum(traced), abs=3 * TOLERANCE_BYTES)


@every_row
def test_a_wrong_declaration_is_detected(row: Variant, dtype: str) -> None:
    """Understate and overstate each field by the size of packed bits."""
    traced = trace(row, dtype)
    for field, change in product(FIELDS, (-BIT, BIT)):
        wrong = replace(row.traffic, **{field: getattr(row.traffic, field) + change})
        assert not agrees(wrong, dtype, traced), (field, change)


@pytest.mark.parametrize("key", UNTRACED, ids=" ".join)
def test_a_row_without_a_trace_has_none_that_agrees(key: tuple[str, str, str]) -> None:
    row = find(*key)
    assert not agrees(row.traffic, "float32", trace(row, "float32"))


def test_a_mask_declared_as_an_array_is_detected() -> None:
    """The wrong declaration agrees with the trace of one dtype only."""
    row = find("relu", "backward", "numpy.fresh")
    traffic = row.traffic
    wrong = replace(traffic, reads=traffic.reads + 1 / 4, mask_reads=traffic.mask_reads - 1)
    assert [dtype for dtype in row.dtypes if agrees(wrong, dtype, trace(row, dtype))] == ["float32"]
