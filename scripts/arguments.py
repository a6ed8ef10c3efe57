"""Argument types for the command lines of several scripts."""

import argparse
import re

UNITS_S = {"s": 1, "m": 60, "h": 3600}


def positive(text: str) -> int:
    """Parse an integer of at least 1. Raises argparse.ArgumentTypeError."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, an integer of at least 1 needed")
    return number


def seconds(text: str) -> float:
    """Parse a time such as 90s, 10m or 1h. Raises argparse.ArgumentTypeError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} given, a time such as 90s, 10m or 1h needed")
    return float(found[1]) * UNITS_S[found[2] or "s"]


def pattern(text: str) -> re.Pattern[str]:
    """Parse a regular expression. Raises argparse.ArgumentTypeError."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} given, a regular expression needed: {error}") from None


def percent(text: str) -> float:
    """Parse a number from 0 to 100; NaN is none, because nothing exceeds it. Raises argparse.ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} given, a number from 0 to 100 needed")
    return number
