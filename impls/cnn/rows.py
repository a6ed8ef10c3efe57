"""The rows of a training step: what each `build` function in this folder makes.

ReLU networks have all of them, networks with another activation one of each kind of step.
"""

from collections.abc import Iterable
from dataclasses import replace

from impls.cnn.architecture import RELU, Network
from impls.variant import CPP_COMPILER, Memory, StepVariant

DTYPES = ("float32", "float64")
# Memory modes of ReLU where a framework has both.
MODES: tuple[Memory, ...] = ("fresh", "inplace")
BY_HAND = (
    "written by hand; Winograd's products from 16 channels on where sizes are even, else im2col; "
    "activations that never decrease after pooling, others before it; activations {memory}"
)
EAGER = "eager autograd; fused SGD; {layout}; activations {{memory}}"
NO_TF32 = "products of float32, no TF32"


def _modes(row: StepVariant, memory: tuple[Memory, ...] = MODES) -> tuple[StepVariant, ...]:
    """The row with its activations in each memory mode, which its notes name; others than ReLU are fresh."""
    return tuple(
        replace(
            row,
            memory=mode,
            notes=row.notes.format(memory=mode),
            other_activations=row.other_activations and mode == "fresh",
        )
        for mode in memory
    )


def _on_cuda(rows: Iterable[StepVariant], function_suffix: str = "") -> tuple[StepVariant, ...]:
    """The same steps on CUDA. JAX's driver chooses its device; torch has a function of its own for each."""
    return tuple(
        replace(
            row,
            flavour=f"{row.flavour}-cuda",
            function=f"{row.function}{function_suffix}",
            device="cuda",
            notes=f"{row.notes}; {NO_TF32}",
            threaded=False,
            saved_model=None,
        )
        for row in rows
    )


NUMPY = StepVariant(
    "numpy", "fresh", "numpy", "impls.cnn.numpy_:build", BY_HAND, dtypes=DTYPES,
    winograd=True, saved_model="hand-written", other_activations=True,
)  # fmt: skip
NUMBA = StepVariant(
    "numba", "fresh", "numba", "impls.cnn.numba_cpu:build", BY_HAND, dtypes=DTYPES, compiled=True,
    winograd=True, saved_model="hand-written", other_activations=True,
)  # fmt: skip
TORCH = StepVariant(
    "torch", "fresh", "torch", "impls.cnn.torch_:build", EAGER.format(layout="usual layout"), dtypes=DTYPES,
    saved_model="eager autograd", other_activations=True,
)  # fmt: skip
CHANNELS_LAST = StepVariant(
    "torch-channels-last", "fresh", "torch", "impls.cnn.torch_:build_channels_last",
    EAGER.format(layout="channels last"), dtypes=DTYPES,
)  # fmt: skip
COMPILE = StepVariant(
    "torch-compile", "fresh", "torch", "impls.cnn.torch_:build_compile",
    "forward pass and loss compiled; fused SGD; activations {memory}", dtypes=DTYPES, compiled=True, needs=CPP_COMPILER,
)  # fmt: skip
JAX = StepVariant(
    "jax", "fresh", "jax", "impls.cnn.jax_:build", "one program, state donated; XLA's convolutions", dtypes=DTYPES,
    compiled=True,
)  # fmt: skip
PATCHES = StepVariant(
    "jax-patches", "fresh", "jax", "impls.cnn.jax_:build_patches",
    "one program, state donated; convolutions as matrix products", dtypes=DTYPES, compiled=True,
    other_activations=True,
)  # fmt: skip
NUMBA_CUDA = StepVariant(
    "numba-cuda", "inplace", "numba_cuda", "impls.cnn.numba_cuda:build",
    "written by hand; implicit tiled products in float32; ReLU in registers, after pooling", device="cuda",
    dtypes=DTYPES, threaded=False, compiled=True,
)  # fmt: skip

TORCH_ROWS = (*_modes(TORCH), *_modes(CHANNELS_LAST), *_modes(COMPILE))
JAX_ROWS = (JAX, PATCHES)
ROWS = (
    *_modes(NUMPY),
    *_modes(NUMBA),
    *TORCH_ROWS,
    *JAX_ROWS,
    *_on_cuda(TORCH_ROWS, function_suffix="_cuda"),
    *_on_cuda(JAX_ROWS),
    NUMBA_CUDA,
)


def of_network(network: Network) -> tuple[StepVariant, ...]:
    """The rows that are measured for a network."""
    return tuple(row for row in ROWS if network.activation == RELU or row.other_activations)
