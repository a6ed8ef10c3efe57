"""Half of ReLU's outputs are zero: before and after training."""

import numpy as np

from impls.initialisation import he
from scripts.claims.claim import Claim
from scripts.claims.document import Panel, Result, result
from scripts.claims.figures import share, within
from scripts.claims.networks import Perceptrons, digits, trained
from scripts.claims.pictures import reference, series

SIZES = (64, 128, 128, 128, 10)
EPOCHS, BATCH, RATE, MOMENTUM = 20, 32, 0.01, 0.9
# "About" 50 %.
LOW_PERCENT, HIGH_PERCENT = 45, 55


def experiment(seeds: int) -> Result:
    """Count the zeros behind each ReLU on all digits, after each epoch of training."""
    runs = range(seeds)
    networks = Perceptrons(SIZES, "ReLU", he, runs)
    data = digits()
    rates = np.full(seeds, RATE, np.float32)
    # By epoch, hidden layer and seed.
    zeros = np.array(
        [
            [(y == 0).mean((1, 2)) for y in networks.layers(data.images)[1:-1]]
            for _ in trained(networks, runs, rates, EPOCHS, BATCH, MOMENTUM)
        ]
    )
    whole = zeros.mean(1)
    figures = [share("zeros at initialisation", whole[0]), share(f"zeros after {EPOCHS} epochs", whole[-1])]
    figures += [
        share(f"hidden layer {number} after {EPOCHS} epochs", layer) for number, layer in enumerate(zeros[-1], 1)
    ]
    epochs = list(range(EPOCHS + 1))
    lines = [
        series(f"hidden layer {number}", epochs, [share("", seeds_) for seeds_ in zeros[:, number - 1]])
        for number in range(1, len(SIZES) - 1)
    ]
    error = share("", networks.errors(data))
    return result(
        figures,
        [within(figure, LOW_PERCENT, HIGH_PERCENT) for figure in figures[:2]],
        [Panel("Share of zeros", "epochs of training", "zeros in %", [*lines, reference("50 %", epochs, 50)])],
        f"At initialisation the sums before ReLU have a symmetric distribution, whatever the size of the weights. "
        f"Training moves it; the training error is {error.value:.1f} % at the end.",
    )


CLAIM = Claim(
    "zeros",
    "Half of the outputs are zero",
    "With standard initialization, approximately 50% of neurons output zero at any given time.",
    "Note 002, “Sparse representations”; note 001, “Sparsity”. At initialisation also Glorot, Bordes and Bengio, “Deep "
    "sparse rectifier neural networks”, AISTATS 2011.",
    experiment,
)
