"""Test the catalog: names, functions, and the arithmetic of predicted bytes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from impls.catalog import OPERATORS, VARIANTS, find, variants
from impls.variant import (
    DIRECTIONS,
    DTYPES,
    ITEMSIZE_BYTES,
    Direction,
    Operator,
    Size,
    Traffic,
    Variant,
    required_traffic,
)

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("impls", "impls.catalog", "benchmarks", "benchmarks.relu", "benchmarks.roofs")
every_row = pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{row.operator}.{row.direction}-{row.name}") for row in VARIANTS]
)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_names_are_unique(operator: str, direction: Direction) -> None:
    names = [row.name for row in variants(operator, direction)]
    assert sorted(set(names)) == sorted(names)


@every_row
def test_row_is_valid(row: Variant) -> None:
    assert row.name == f"{row.flavour}.{row.memory}"
    assert find(row.operator, row.direction, row.name) is row
    assert callable(row.load())
    assert row.notes
    assert row.dtypes
    assert set(row.dtypes) <= set(DTYPES)
    assert set(row.semantics.keeps_minus_zero + row.semantics.flushes_subnormals) <= set(DTYPES)


def test_inplace_is_refused_if_backward_needs_the_input() -> None:
    row = find("relu", "roundtrip", "numpy.inplace")
    with pytest.raises(ValueError, match="overwrites the input that backward needs"):
        replace(row, saved_for_backward="input")


@pytest.mark.parametrize(
    ("field", "value"),
    [("memory", "weird"), ("direction", "sideways"), ("dtypes", ("int9",)), ("tolerance_ulps", -1.0),
     ("tolerance_ulps", float("inf")), ("flavour", "a/b")],
)  # fmt: skip
def test_impossible_declarations_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match="accepted"):
        replace(find("relu", "forward", "numpy.fresh"), **{field: value})


def test_find_lists_the_existing_names() -> None:
    with pytest.raises(LookupError, match=r"numpy\.out"):
        find("relu", "forward", "no such name")


@every_row
def test_declared_traffic_is_at_least_the_required(row: Variant) -> None:
    for name, required in vars(row.required_traffic).items():
        assert getattr(row.traffic, name) >= required, name


@every_row
def test_traffic_fits_the_memory_mode(row: Variant) -> None:
    """A store fetches at most the written memory on a CPU, and none on CUDA."""
    assert row.traffic.write_allocate <= (row.traffic.writes if row.device == "cpu" else 0)


@pytest.mark.parametrize(
    ("direction", "saved", "traffic"),
    [
        ("forward", "none", Traffic(1, 1)),
        ("backward", "input", Traffic(2, 1)),
        ("backward", "output", Traffic(2, 1)),
        ("backward", "bool", Traffic(1, 1, mask_reads=1)),
        ("backward", "bits", Traffic(1, 1, mask_reads=1 / 8)),
        ("roundtrip", "input", Traffic(3, 2)),
        ("roundtrip", "output", Traffic(3, 2)),
        ("roundtrip", "bool", Traffic(2, 2, mask_reads=1, mask_writes=1)),
        ("roundtrip", "bits", Traffic(2, 2, mask_reads=1 / 8, mask_writes=1 / 8)),
    ],
)
def test_required_traffic(direction, saved, traffic) -> None:
    assert required_traffic(direction, saved) == traffic


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a b", "a.b", "-a", "a\0", "ä"])
def test_names_invalid_in_file_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"flavour: .* given; letters, digits"):
        replace(VARIANTS[0], flavour=name)
    with pytest.raises(ValueError, match=r"operator: .* given; lower-case letters, digits"):
        Operator(name, "impls.relu.reference", {})


@pytest.mark.parametrize(
    ("row", "saved"),
    [(find("relu", "forward", "numpy.out"), "output"), (find("relu", "backward", "numpy.out"), "none")],
    ids=["forward", "backward"],
)
def test_forward_with_and_backward_without_saved_values_are_refused(row: Variant, saved) -> None:
    with pytest.raises(ValueError, match=f"saved_for_backward='{saved}' given"):
        replace(row, saved_for_backward=saved)


@pytest.mark.parametrize(
    ("traffic", "algorithmic", "bus"),
    [
        # 1000 float32: 4000 bytes per array, 1000 per mask, 125 as packed bits.
        (Traffic(1, 1), 8000, 8000),
        (Traffic(1, 1, write_allocate=1), 8000, 12000),
        (Traffic(2, 1, write_allocate=1), 12000, 16000),
        (Traffic(1, 1, mask_reads=1), 9000, 9000),
        (Traffic(1, 1, 1, mask_reads=1 / 8), 8125, 12125),
        (Traffic(2, 1, 1, mask_reads=1, mask_writes=1), 14000, 19000),
        (Traffic(1, 1, 1) + Traffic(2, 1, 1, mask_reads=1), 21000, 29000),
    ],
)
def test_bytes_of_traffic(traffic: Traffic, algorithmic: int, bus: int) -> None:
    assert traffic.algorithmic_bytes(1000, 4) == algorithmic
    assert traffic.bus_bytes(1000, 4) == bus


@pytest.mark.parametrize(
    ("size", "elements", "itemsize_bytes", "expected_bytes"),
    [
        (Size(), 1000, 4, 0),
        (Size(arrays=2), 1000, 8, 16000),
        (Size(arrays=1, element_bytes=1), 1001, 2, 3003),
        (Size(element_bytes=1 / 8), 0, 4, 0),
        (Size(element_bytes=1 / 8), 1, 4, 1),
        (Size(element_bytes=1 / 8), 8, 4, 1),
        (Size(element_bytes=1 / 8), 9, 4, 2),
        (Size(arrays=2, element_bytes=1 + 1 / 8), 9, 4, 72 + 11),
    ],
)
def test_bytes_of_size(size: Size, elements: int, itemsize_bytes: int, expected_bytes: int) -> None:
    assert size.bytes(elements, itemsize_bytes) == expected_bytes


@pytest.mark.parametrize(
    ("name", "expected_bytes"),
    [("numpy.fresh", 4004), ("numpy-bool.inplace", 1001), ("numpy-bits.fresh", 126), ("jax-vjp.fresh", 5005)],
)
def test_bytes_saved_by_a_roundtrip(name: str, expected_bytes: int) -> None:
    assert find("relu", "roundtrip", name).saved_size.bytes(1001, ITEMSIZE_BYTES["float32"]) == expected_bytes


@pytest.mark.parametrize("module", MODULES)
def test_importing_imports_no_framework(module: str) -> None:
    """asv discovers benchmarks in a process that may have no framework; one process drives one framework."""
    program = f"import sys, {module}; print(*sorted({{'torch', 'jax', 'jaxlib', 'numba'}} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert process.stdout == "\n"
