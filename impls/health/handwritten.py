"""Dead units of the training steps in NumPy and Numba (`impls.cnn`)."""

from collections.abc import Iterable

from impls.cnn.networks import Batch
from impls.cnn.workspace import HandWritten
from impls.health.units import Units, counted, totals


def dead_units(step: HandWritten, batches: Iterable[Batch], threshold: float = 0.0) -> dict[str, Units]:
    """Count the active values of each unit behind the step's ReLUs, over all batches, without training.

    Behind a max-pool, a value is the largest of its window: it is active where one of them was. Batch norm uses the
    mean and variance of each batch, and its running statistics stay as they were.

    Raises ValueError where there is no batch.
    """
    running = {name: value.copy() for name, value in step.statistics.items()}
    try:
        return totals(_layers(step, batch, threshold) for batch in batches)
    finally:
        for name, value in running.items():
            step.statistics[name][...] = value


def _layers(step: HandWritten, batch: Batch, threshold: float) -> dict[str, Units]:
    step.forward(step.put(batch))
    outputs = {conv.name: conv.output.inside for conv in step.convs}
    outputs |= {dense.name: dense.output for dense in step.dense if dense.hidden}
    return {name: counted(output, threshold) for name, output in outputs.items()}
