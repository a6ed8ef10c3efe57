"""Argument types for the command lines of several scripts."""

import argparse


def positive(text: str) -> int:
    """Parse an integer of at least 1. Raises argparse.ArgumentTypeError."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, an integer of at least 1 needed")
    return number


def percent(text: str) -> float:
    """Parse a number from 0 to 100; NaN is none, because nothing exceeds it. Raises argparse.ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} given, a number from 0 to 100 needed")
    return number
