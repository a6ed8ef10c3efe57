"""Show a training while it runs, and what the network's ReLUs output: for scripts.training.learn --monitor.

Observed is the step's state at the end of each epoch: its parameters, put into the float64 reference at inference, over
all training images (`impls.health.states`). So all frameworks are observed alike, after the training of an epoch and
outside of it. What a step computed while it learned, with parameters that changed from batch to batch, is not observed.
"""

import sys
from dataclasses import dataclass
from statistics import fmean

from tqdm import tqdm

from impls.cnn.networks import Array, Network
from impls.cnn.reference import State
from impls.health.states import Activations, observed


@dataclass(frozen=True)
class Record:
    """The activations of a layer after an epoch, counted from 1, of the training of a row.

    mean, std: of all values. sparsity: the share of values at or below 0. dead_share: the share of units (channels or
    features) that are above 0 in no training image.
    """

    row: str
    epoch: int
    layer: str
    mean: float
    std: float
    sparsity: float
    dead_share: float


class Monitor:
    """Shows the training of a row on standard error, and keeps what its ReLUs output: `records`.

    A line for each epoch and layer; on a terminal also a bar over all batches, which elsewhere would be control
    characters. images: those that it trains on. batches: in an epoch.
    """

    def __init__(self, row: str, network: Network, images: Array, epochs: int, batches: int) -> None:
        self.row, self.network, self.images, self.epochs = row, network, images, epochs
        self.records: list[Record] = []
        self.epoch = 1
        self._losses: list[float] = []
        self._bar = tqdm(total=epochs * batches, desc=row, unit="batch", file=sys.stderr, disable=None, leave=False)

    def trained(self, loss: float) -> None:
        """Show that a batch was trained on."""
        self._losses.append(loss)
        self._bar.set_postfix_str(f"epoch {self.epoch} of {self.epochs}, loss {loss:.4f}", refresh=False)
        self._bar.update()

    def observe(self, state: State, accuracy: float) -> None:
        """Record and show the activations at the end of an epoch. accuracy: on the test images."""
        layers = observed(self.network, state, self.images)
        self.records += [
            Record(self.row, self.epoch, layer, seen.mean, seen.std, seen.units.sparsity, seen.dead_share)
            for layer, seen in layers.items()
        ]
        about = f"mean loss {fmean(self._losses):.4f}, test accuracy {accuracy:.2%}"
        self._say(f"{self.row}, epoch {self.epoch} of {self.epochs}: {about}")
        for layer, seen in layers.items():
            self._say(f"    {layer:8} {_text(seen)}")
        self.epoch += 1
        self._losses.clear()

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def _say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)


def _text(seen: Activations) -> str:
    dead = f"{len(seen.units.dead)} of {len(seen.units.active)} units dead ({seen.dead_share:.1%})"
    return f"mean {seen.mean:.4f}, standard deviation {seen.std:.4f}, sparsity {seen.units.sparsity:.1%}, {dead}"
