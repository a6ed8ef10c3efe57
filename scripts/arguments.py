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
