"""The rows of a training step: what each `build` function in this folder makes.

ReLU networks have all of them, networks with another activation one of each kind of step.
"""

from collections.abc import Iterable
from dataclasses import replace

from impls.cnn.architecture import RELU, Network
from impls.variant import CPP_COMPILER, Memory, Precision, StepVariant

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


def _torch_cuda(
    flavour: str, function: str, notes: str, precision: Precision = "", needs: str | None = None
) -> StepVariant:
    """A way to run torch's step on CUDA alone, with fresh activations: each changes one thing of a row above."""
    return StepVariant(
        f"torch-{flavour}-cuda", "fresh", "torch", f"impls.cnn.torch_:{function}", notes, device="cuda",
        dtypes=("float32",) if precision else DTYPES, threaded=False, precision=precision, compiled=needs is not None,
        needs=needs,
    )  # fmt: skip


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
TORCH_CUDA = (
    _torch_cuda("float16", "build_float16", "autocast to float16, fixed GradScaler; channels last", "float16"),
    _torch_cuda("bfloat16", "build_bfloat16", "autocast to bfloat16; channels last", "bfloat16"),
    _torch_cuda("tf32", "build_tf32", "products in TF32; channels last", "tf32"),
    _torch_cuda("graph", "build_graph", f"step replayed as one CUDA graph; copies its batch; usual layout; {NO_TF32}"),
    _torch_cuda(
        "max-autotune", "build_max_autotune", f"forward to update compiled, max-autotune; {NO_TF32}", needs=CPP_COMPILER
    ),
)
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
NUMBA_CUDA_GRAPH = replace(
    NUMBA_CUDA, flavour="numba-cuda-graph", function="impls.cnn.numba_cuda:build_graph",
    notes=f"{NUMBA_CUDA.notes}; replayed as one CUDA graph; copies its batch",
)  # fmt: skip

TORCH_ROWS = (*_modes(TORCH), *_modes(CHANNELS_LAST), *_modes(COMPILE))
JAX_ROWS = (JAX, PATCHES)
ROWS = (
    *_modes(NUMPY),
    *_modes(NUMBA),
    *TORCH_ROWS,
    *JAX_ROWS,
    *_on_cuda(TORCH_ROWS, function_suffix="_cuda"),
    *TORCH_CUDA,
    *_on_cuda(JAX_ROWS),
    NUMBA_CUDA,
    NUMBA_CUDA_GRAPH,
)


def of_network(network: Network) -> tuple[StepVariant, ...]:
    """The rows that are measured for a network."""
    return tuple(row for row in ROWS if network.activation == RELU or row.other_activations)
