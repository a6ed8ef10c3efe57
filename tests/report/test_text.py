"""Test how numbers are written for people."""

import pytest

from scripts.report.text import bytes_text, number_text, time_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1 s"), (123.4, "123 s"), (12345, "12,300 s"), (0.0123, "12.3 ms"), (1e-3, "1 ms"),
        (9.996e-4, "1,000 µs"), (1.5e-6, "1.5 µs"), (2e-9, "2 ns"), (1e-10, "0.1 ns"),
        (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_time_text(value, text):
    assert time_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.388608, "8.39"), (1234.5, "1,230"), (0.000012345, "0.0000123"), (0, "0"), (123456789, "123,000,000"),
        (100, "100"), (2.5e15, "2,500,000,000,000,000"), (-1.5, "-1.5"), (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_number_text(value, text):
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(512, "512 B"), (1000, "1000 B"), (2**22, "4 MiB"), (3 * 2**29, "1.5 GiB"), (2**41, "2048 GiB")]
)
def test_bytes_text(value, text):
    assert bytes_text(value) == text
