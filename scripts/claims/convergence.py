"""ReLU converges six times as fast as tanh and sigmoid."""

from collections.abc import Sequence
from itertools import chain
from math import inf

import numpy as np

from impls.initialisation import he, xavier
from scripts.claims.claim import Claim
from scripts.claims.document import Panel, Result, Value, result
from scripts.claims.figures import above, mean, overlaps, ratio, share
from scripts.claims.networks import Array, Draw, Perceptrons, batches, digits, trained
from scripts.claims.pictures import reference, series

# Three hidden layers and the output are the four layers of the network in the paper; batch and momentum are its, too.
SIZES = (64, 64, 64, 64, 10)
BATCH, MOMENTUM = 128, 0.9
# Of training errors; the first is that of the paper.
TARGETS = (0.25, 0.05)
INITIAL: dict[str, Draw] = {"ReLU": he, "tanh": xavier, "sigmoid": xavier}
OTHERS = ("tanh", "sigmoid")
RATES = 2.0 ** np.arange(-6, 3)
# Other seeds than those that are measured choose the learning rate.
TUNING_SEEDS = range(1000, 1005)
# A run that has not arrived then ends.
MOST_EPOCHS = 100
# All samples are classified only after a step whose batch had an error at most so much larger than the target: more
# than the error of a batch deviates by chance, and falls in a step.
NEAR = 0.35
CURVE_EPOCHS = 12
# "About" six times.
FACTOR, MARGIN = 6.0, 1.5


class NeverReached(Exception):
    """A network did not reach a training error."""


def experiment(seeds: int) -> Result:
    """Tune the learning rate of each activation for each target; then count epochs with other seeds."""
    rates = {(name, target): fastest_rate(name, target) for name in INITIAL for target in TARGETS}
    epochs = {key: epochs_needed(key[0], [rate], range(seeds), key[1])[0] for key, rate in rates.items()}
    needed = [
        mean(f"{name}: to {percent(target)} at rate {rates[name, target]:g}", epochs[name, target], "epochs")
        for target in TARGETS
        for name in INITIAL
    ]
    ratios = {
        (other, target): ratio(
            f"{other} / ReLU: epochs to {percent(target)}",
            epochs[other, target] / epochs["ReLU", target],
            "times",
        )
        for other in OTHERS
        for target in TARGETS
    }
    parts = [
        part for each in ratios.values() for part in (above(each, 1), overlaps(each, FACTOR / MARGIN, FACTOR * MARGIN))
    ]
    return result(
        [*needed, *ratios.values()],
        parts,
        [_curves({name: rates[name, TARGETS[-1]] for name in INITIAL}, seeds), _ratios(ratios)],
        "The paper compares with tanh only, in a convolutional network on CIFAR-10. Here: digits, dense layers of 64 "
        f"units, He's weights for ReLU and Xavier's for the others; {len(TUNING_SEEDS)} other seeds chose each rate.",
    )


def _curves(rates: dict[str, float], seeds: int) -> Panel:
    """The training error after each epoch, at the rates that are fastest to the last target."""
    epochs = list(range(CURVE_EPOCHS + 1))
    lines = []
    for name, rate in rates.items():
        networks = Perceptrons(SIZES, name, INITIAL[name], range(seeds))
        steps = trained(networks, range(seeds), np.full(seeds, rate, np.float32), CURVE_EPOCHS, BATCH, MOMENTUM)
        lines.append(series(name, epochs, [share(name, networks.errors(digits())) for _ in steps]))
    targets = [reference(percent(target), epochs, 100 * target) for target in TARGETS]
    return Panel("At the fastest rates", "epochs", "training error in %", [*lines, *targets])


def _ratios(ratios: dict[tuple[str, float], Value]) -> Panel:
    names = [percent(target) for target in TARGETS]
    positions = list(range(len(TARGETS)))
    bars = [series(other, positions, [ratios[other, target] for target in TARGETS], "bars") for other in OTHERS]
    lines = [reference(f"{FACTOR:g} times", [-0.5, 1.5], FACTOR), reference("once: as fast", [-0.5, 1.5], 1)]
    return Panel("Epochs relative to ReLU", "", "times", [*bars, *lines], ticks=names)


def percent(target: float) -> str:
    """A target in words."""
    return f"{100 * target:g} % error"


def fastest_rate(activation: str, target: float) -> float:
    """The learning rate of RATES with the fewest epochs to a training error, in the mean of TUNING_SEEDS.

    Raises NeverReached where no rate reaches it, or the fastest lies at an end of RATES.
    """
    means = epochs_needed(activation, RATES, TUNING_SEEDS, target).mean(1)
    best = int(means.argmin())
    if not np.isfinite(means[best]) or best in (0, len(RATES) - 1):
        raise NeverReached(
            f"{activation}: no learning rate within {RATES[0]:g} … {RATES[-1]:g} is fastest to {percent(target)}"
        )
    return float(RATES[best])


def epochs_needed(activation: str, rates: Sequence[float] | Array, seeds: Sequence[int], target: float) -> Array:
    """The epochs that each run needs to a training error: (rates, seeds).

    A rate is given up as soon as another has a smaller mean, whatever comes; its missing runs are infinite, and those
    that do not arrive within MOST_EPOCHS.
    """
    data = digits()
    run_rates = np.repeat(np.asarray(rates, np.float32), len(seeds))
    run_seeds = np.tile(seeds, len(rates)).tolist()
    networks = Perceptrons(SIZES, activation, INITIAL[activation], run_seeds)
    epochs = np.full((len(rates), len(seeds)), inf)
    # Positions of the runs that still train.
    left = np.arange(epochs.size)
    per_epoch = len(data.labels) // BATCH
    order = chain.from_iterable(batches(run_seeds, epoch, len(data.labels), BATCH) for epoch in range(MOST_EPOCHS))
    for steps, batch in enumerate(order, 1):
        chosen = batch[left]
        with np.errstate(over="ignore", invalid="ignore"):
            seen = networks.step(data.images[chosen], data.labels[chosen], run_rates[left], MOMENTUM)
            near = np.flatnonzero(seen <= target + NEAR)
            arrived = near[networks.errors(data, near) <= target]
        now = steps / per_epoch
        epochs.flat[left[arrived]] = now
        done = np.isfinite(epochs)
        fewest = min(epochs[done.all(1)].mean(1), default=inf)
        hopeless = np.minimum(epochs, now).mean(1) > fewest
        going = (~done & ~hopeless[:, None]).flat[left]
        if not going.any():
            break
        networks.keep(going)
        left = left[going]
    return epochs


CLAIM = Claim(
    "convergence",
    "Six times as fast as tanh and sigmoid",
    "Networks with ReLU activations typically converge ~6× faster than equivalent networks with sigmoid or tanh "
    "activations, as demonstrated in the original AlexNet paper.",
    "Note 002, “Faster convergence”; Krizhevsky, Sutskever and Hinton, “ImageNet classification with deep "
    "convolutional neural networks”, NIPS 2012, section 3.1 and figure 1.",
    experiment,
)
