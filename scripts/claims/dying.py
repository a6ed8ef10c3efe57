"""Dead neurons: more at high learning rates, none with leaky ReLU, and they never recover."""

import numpy as np

from impls.initialisation import he
from scripts.claims.claim import Claim
from scripts.claims.document import Panel, Result, result
from scripts.claims.figures import above, below, mean, share
from scripts.claims.networks import Array, Perceptrons, digits, trained
from scripts.claims.pictures import series

SIZES = (64, 64, 64, 10)
EPOCHS, BATCH = 15, 32
# The slowest and the fastest are compared; at faster ones, runs with leaky ReLU diverge.
RATES = (0.05, 0.2, 0.4, 0.5, 0.6)
LAYERS = ("hidden layer 1", "hidden layer 2")
# "Never", and "entirely".
MOST_PERCENT = 1.0


class Diverged(Exception):
    """Parameters became infinite: such networks have no dead units."""


def experiment(seeds: int) -> Result:
    """Look for units that are above 0 for none of the digits, after each epoch of training, at each learning rate."""
    dead = {activation: dead_units(activation, seeds) for activation in ("ReLU", "leaky ReLU")}
    # After the last epoch, of both hidden layers: by rate and seed.
    shares = {activation: each[-1].mean((0, 3)) for activation, each in dead.items()}
    slow, fast = (share(f"ReLU: dead at rate {RATES[rate]:g}", shares["ReLU"][rate]) for rate in (0, -1))
    leaky = share(f"leaky ReLU: never above 0 at rate {RATES[-1]:g}", shares["leaky ReLU"][-1])
    more = mean(
        f"ReLU: dead at rate {RATES[-1]:g} minus at {RATES[0]:g}", 100 * (shares["ReLU"][-1] - shares["ReLU"][0]), "%"
    )
    fewer = mean(
        f"at rate {RATES[-1]:g}: ReLU minus leaky ReLU", 100 * (shares["ReLU"][-1] - shares["leaky ReLU"][-1]), "%"
    )
    back = {
        (activation, layer): share(
            f"{activation}, {layer}: active again, of those once dead", recovered(each[:, number])
        )
        for activation, each in dead.items()
        for number, layer in enumerate(LAYERS)
    }
    lines = [
        series(
            f"{activation}, {layer}",
            RATES,
            [share("", of_rate.mean(1)) for of_rate in each[-1, number]],
        )
        for activation, each in dead.items()
        for number, layer in enumerate(LAYERS)
    ]
    return result(
        [slow, fast, more, leaky, fewer, *back.values()],
        [
            above(more, 0),
            *(below(back["ReLU", layer], MOST_PERCENT) for layer in LAYERS),
            above(fewer, 0),
            below(leaky, MOST_PERCENT),
        ],
        [Panel(f"Never above 0, after {EPOCHS} epochs", "learning rate", "units in %", lines)],
        "Plain gradient descent, batches of 32. The inputs of the first layer never change, so a unit without gradient "
        "stays dead there; in the second layer, training of the first moves the inputs of dead units. Units "
        "are counted as detect_dead_neurons of note 002 counts them: those of leaky ReLU still get a hundredth of the "
        "gradient.",
    )


def dead_units(activation: str, seeds: int) -> Array:
    """Find the units that are at or below 0 for all digits: (epochs + 1, hidden layers, rates, seeds, units), bool.

    Counts as `impls.health` does. Raises Diverged.
    """
    run_seeds = np.tile(np.arange(seeds), len(RATES)).tolist()
    rates = np.repeat(np.array(RATES, np.float32), seeds)
    networks = Perceptrons(SIZES, activation, he, run_seeds)
    images = digits().images
    found = []
    for _ in trained(networks, run_seeds, rates, EPOCHS, BATCH):
        *hidden, logits = networks.layers(images)[1:]
        found.append([(y <= 0).all(1) for y in hidden])
        if not np.isfinite(logits).all():
            raise Diverged(f"{activation}: a network diverged at a learning rate within {RATES[0]:g} … {RATES[-1]:g}")
    return np.array(found).reshape(EPOCHS + 1, len(LAYERS), len(RATES), seeds, -1)


def recovered(dead: Array) -> Array:
    """Of the units that were dead after some epoch, the share that is active at the end, of each seed that has such.

    dead: of a layer, (epochs + 1, rates, seeds, units).
    """
    once = dead[:-1].any(0)
    counts = once.sum((0, 2))
    return (once & ~dead[-1]).sum((0, 2))[counts > 0] / counts[counts > 0]


CLAIM = Claim(
    "dying",
    "Neurons die at high learning rates and never recover",
    "If a neuron's input becomes permanently negative (due to a large weight update), its output is always 0 and its "
    "gradient is always 0. It never recovers — it's “dead.” This happens when: Learning rate is too high […] Leaky "
    "ReLU […] — these variants allow gradient flow for negative inputs, eliminating the dead neuron problem entirely.",
    "Note 000, “Dead ReLU problem”; note 002, “The dead ReLU problem”. Leaky ReLU: Maas, Hannun and Ng, “Rectifier "
    "nonlinearities improve neural network acoustic models”, ICML workshop 2013.",
    experiment,
)
