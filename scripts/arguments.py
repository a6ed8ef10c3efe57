"""Types of command-line arguments that several scripts take."""

import argparse


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, an integer of at least 1 needed")
    return number
