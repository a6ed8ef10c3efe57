"""Which learnable slopes fit to an array on a GPU: one for all elements, or one for each channel."""

from typing import Any

from impls.relu import checks
from impls.variant import CHANNELS

Array = Any


def one(x: Array, slope: Array, name: str) -> None:
    """Raise unless the slope has the shape (1,) and the dtype of x. name: of x, for the message.

    Raises ValueError for another shape, TypeError for another dtype.
    """
    checks.parameter(x, slope, name)


def per_channel(x: Array, slope: Array, name: str) -> None:
    """Raise unless x, in one dimension, consists of rows with an element for each slope, and their dtypes are equal.

    At most 1,024 channels, as a block of threads processes whole rows. name: of x, for the message.
    Raises ValueError for another shape or more channels, TypeError for another dtype.
    """
    checks.channels(x, slope, name)
    if slope.shape[0] > CHANNELS[-1]:
        raise ValueError(f"slope: {slope.shape[0]} channels given, at most {CHANNELS[-1]} accepted on a GPU")
