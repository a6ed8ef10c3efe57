"""The values of asv's parameters, apart from the rows: sizes, threads and batches. Standard library only."""

from impls.variant import Variant

ELEMENTS = (2**10, 2**15, 2**20, 2**25)
# Cold caches matter where the arrays fit into one.
COLD_ELEMENTS = (2**15, 2**20)
SCALING_ELEMENTS = (2**20, 2**25)
FIRST_CALL_ELEMENTS = (2**10,)
THREADS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCHES = (16, 64, 256)
# Of steps on a GPU only: smaller ones do not fill it.
LARGE_BATCHES = (1024, 4096)
# From a float16 array of the fewest elements to a float64 array of the most: four times a last-level cache of 64 MiB.
ARRAY_BYTES = tuple(2**power for power in range(11, 29))
# On a GPU also where bandwidth no longer rises.
DEVICE_BYTES = (*ARRAY_BYTES, 2**30)


def is_timed_cold(row: Variant) -> bool:
    """Return whether a row is timed with cold caches: round trips of a GPU are not."""
    return row.direction != "roundtrip" or row.device == "cpu"
