"""Counts of active units, statistics of a layer's activations, and their history. Imports NumPy only."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import nan, prod
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray


# Arrays have no single truth, so comparing two is not offered.
@dataclass(frozen=True, eq=False)
class Units:
    """The units of a layer over a data set.

    active: for each unit, how many of its values were above the threshold; int64, shape (units,). NaN counts as active.
    values: the number of values of each unit: samples, times pixels of a channel.
    """

    active: NDArray[np.int64]
    values: int

    @property
    def dead(self) -> list[int]:
        """The units that were never active, in order; all where there was no value."""
        return np.flatnonzero(self.active == 0).tolist()

    @property
    def sparsity(self) -> float:
        """The share of all values at or below the threshold; NaN without any value."""
        values = self.values * len(self.active)
        return 1 - float(self.active.sum()) / values if values else nan

    def __add__(self, other: "Units") -> "Units":
        """The units over both data sets. Raises ValueError for another number of units."""
        if self.active.shape != other.active.shape:
            raise ValueError(f"units: {len(self.active)} and {len(other.active)} given, the same layer needed")
        return Units(self.active + other.active, self.values + other.values)


def counted(activations: NDArray[Any], threshold: float = 0.0) -> Units:
    """The units of activations whose last axis holds them: (n, features) or (n, height, width, channels).

    Raises ValueError for fewer than two dimensions.
    """
    if activations.ndim < 2:
        raise ValueError(f"activations: shape {activations.shape} given, samples and units needed: (n, ..., units)")
    active = ~(activations <= threshold)
    samples = tuple(range(activations.ndim - 1))
    return Units(active.sum(samples, dtype=np.int64), prod(activations.shape[:-1]))


class Counts(Protocol):
    """Statistics of a layer over a data set, such as `Units`; two of them add up."""

    def __add__(self, other: Self, /) -> Self: ...


Counted = TypeVar("Counted", bound=Counts)


def totals(batches: Iterable[Mapping[str, Counted]]) -> dict[str, Counted]:
    """The sum for each layer over all batches. Raises ValueError where there is no batch, or no layer in them."""
    total: dict[str, Counted] = {}
    for layers in batches:
        total |= {name: total[name] + counts if name in total else counts for name, counts in layers.items()}
    if not total:
        raise ValueError("no activation was seen: give at least one batch, and a model whose activations can be seen")
    return total


@dataclass
class Record:
    """A layer in one step: statistics of its activations, and the norm of their gradient; None before backward.

    Computed in float32, or float64 for such activations. sparsity: the share of values at or below 0. gradient_norm: of
    the loss as it was scaled.
    """

    step: int
    layer: str
    mean: float
    std: float
    sparsity: float
    max: float
    gradient_norm: float | None = None


@dataclass
class History:
    """The records of all steps, in order."""

    records: list[Record] = field(default_factory=list)

    def of(self, layer: str) -> list[Record]:
        """The records of a layer."""
        return [record for record in self.records if record.layer == layer]

    def to_csv(self, path: Path | str) -> None:
        """Write one line for each record."""
        with Path(path).open("w", newline="") as file:
            writer = csv.DictWriter(file, [each.name for each in fields(Record)])
            writer.writeheader()
            writer.writerows(map(asdict, self.records))

    def plot(self, path: Path | str) -> None:
        """Draw each statistic over the steps, a line for each layer, with matplotlib.

        The format follows from the name of the file.
        """
        import matplotlib.pyplot as plt

        statistics = [each.name for each in fields(Record) if each.name not in ("step", "layer")]
        figure, axes = plt.subplots(len(statistics), 1, figsize=(8, 2.2 * len(statistics)), sharex=True)
        for axis, statistic in zip(axes, statistics, strict=True):
            for layer in dict.fromkeys(record.layer for record in self.records):
                known = [record for record in self.of(layer) if getattr(record, statistic) is not None]
                steps, values = [record.step for record in known], [getattr(record, statistic) for record in known]
                axis.plot(steps, values, label=layer, linewidth=1)
            axis.set_ylabel(statistic.replace("_", " "))
        axes[0].legend(fontsize="small")
        axes[-1].set_xlabel("step")
        figure.tight_layout()
        figure.savefig(path)
        plt.close(figure)
