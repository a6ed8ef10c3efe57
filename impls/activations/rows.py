"""The rows of the activation family: a line of data for each activation, from which the rows of each framework follow.

Backward rows of the flavours numpy, numba, numba-threads and jax take the output where it determines the gradient, else
the input; "-input" marks those that take the input although the output would do. Rows of torch take what autograd
saves, torch-output the output.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import inf, nan

from impls.activations.errors import ERRORS
from impls.declare import Flavour, Framework, Rows, on_cuda
from impls.variant import C_COMPILER, Learnable, Operator, Saved, Semantics, Size, Traffic, Variant

DTYPES = ("float32", "float64")
FOLDER = "impls.activations"
REFERENCE = f"{FOLDER}.reference"
BLOCKS = "one thread; blocks in cache"
VJP = "jax.vjp at the input"
EXACT = Semantics()
# The product of an infinite grad and a derivative of 0.
MULTIPLIES = Semantics(blocked_infinity="nan")
# A factor x is infinite where the other one is 0.
NAN_AT_INFINITIES = Semantics(nan_outside=(-inf, nan), gradient_nan_outside=(-inf, inf))
# The gradient squares x, too.
NAN_AT_LARGE = Semantics(nan_outside=(-inf, nan), gradient_nan_outside=(-1e19, 1e19))
# PyTorch's vectorised loop returns another gradient than its scalar one, which handles the end of an array.
ANY_AT_NAN = Semantics(gradient_at_nan="any")
# Names of the gradients of a reference.
FROM_INPUT: dict[Saved, str] = {"input": "backward"}
GRADIENTS: dict[Saved, str] = {**FROM_INPUT, "output": "backward_from_output"}
# Squares of larger finite values overflow in float32.
LARGEST = 1e18
# Slopes of 16 channels, all different, around the usual 0.25.
SLOPES = tuple((channel + 0.5) / 32 for channel in range(16))
SCRATCH, ONE = Size(scratch=True), Size(arrays=1)
RAW, REPLAYS = "raw operator", "autograd records and replays"
# A second pass over the result.
PASS = Traffic(reads=1, writes=1)
NEW_PASS = PASS + Traffic(write_allocate=1)
# Traffic of XLA's kernels beyond one for each half of a round trip, or for a gradient.
ONE_EACH, ELU_KERNELS, PRELU_KERNELS = Traffic(), Traffic(reads=3, writes=1, mask_reads=1), NEW_PASS + Traffic(reads=2)


@dataclass(frozen=True)
class Residuals:
    """The residuals that jax.vjp stores: arrays of the dtype, arrays of bool, and scalars if there are any.

    kernels: traffic beyond a pass for each half. On the CPU, XLA has a kernel for each array that the first half
    stores, and some share an intermediate result in memory.
    """

    arrays: int
    masks: int = 0
    scalars: bool = False
    kernels: Traffic = ONE_EACH


@dataclass(frozen=True)
class Activation:
    """An activation. from_output: its output determines its gradient, so that it can work in place in training.

    like_relu: the gradient is the same function of the input and of the output. saturates: as of an `Operator`.
    selects: made of straight lines, so that NumPy's products give NaN where others select. inplace: PyTorch has a form
    in place. torch_dtypes: in which PyTorch computes the function; its softplus is x above 20, which in float64 is off
    by 600,000 ulps. torch_copies: PyTorch computes the gradient apart and copies it into a given array. torch_saves:
    what its autograd saves. torch, jax: departures of the libraries. residuals: of jax.vjp.
    """

    name: str
    from_output: bool
    saturates: tuple[float, float]
    residuals: Residuals
    like_relu: bool = False
    selects: bool = False
    inplace: bool = True
    torch_dtypes: tuple[str, ...] = DTYPES
    torch_copies: bool = False
    torch_saves: Saved = "input"
    torch: Semantics = EXACT
    jax: Semantics = EXACT

    @property
    def saved(self) -> Saved:
        """The value that backward takes where both would do."""
        return "output" if self.from_output else "input"

    def gradient(self, saved: Saved) -> str:
        """The name of the gradient from a saved value in the files of the frameworks."""
        return f"{self.name}_backward" + ("_from_output" if saved == "output" and not self.like_relu else "")


ACTIVATIONS = (
    Activation(
        "leaky_relu", True, (-1, 1), Residuals(0, 1, True, Traffic(reads=1)), like_relu=True,
        jax=Semantics(derivative_at=((0.0, 1.0),)),
    ),
    Activation("relu6", True, (-6, 6), Residuals(1, 1), like_relu=True, selects=True, torch=ANY_AT_NAN),
    Activation("elu", True, (-20, 20), Residuals(2, 2, False, ELU_KERNELS), torch=ANY_AT_NAN),
    Activation("selu", True, (-20, 20), Residuals(2, 2, True, ELU_KERNELS), torch=ANY_AT_NAN),
    Activation(
        "gelu", False, (-6, 6), Residuals(3, 0, True, Traffic(reads=5)),
        # In float32 a kernel of oneDNN; with AVX-512 it returns NaN at inf.
        torch=replace(NAN_AT_INFINITIES, infinity="any"), jax=NAN_AT_INFINITIES,
    ),
    Activation(
        "gelu_tanh", False, (-6, 6), Residuals(5, 0, True, Traffic(reads=6)),
        torch=NAN_AT_LARGE, jax=NAN_AT_LARGE,
    ),
    Activation(
        "silu", False, (-20, 20), Residuals(3, kernels=Traffic(reads=4)),
        torch=NAN_AT_INFINITIES, jax=NAN_AT_INFINITIES,
    ),
    Activation("sigmoid", True, (-20, 20), Residuals(1, kernels=Traffic(reads=1)), torch_saves="output"),
    Activation("tanh", True, (-10, 10), Residuals(2, kernels=Traffic(reads=2)), torch_saves="output"),
    Activation(
        "softplus", True, (-20, 20), Residuals(2, kernels=Traffic(reads=2)),
        inplace=False, torch_dtypes=("float32",),
    ),
    Activation(
        "hardswish", False, (-3, 3), Residuals(3, 1, kernels=Traffic(reads=2)), selects=True, torch_copies=True,
        torch=Semantics(nan_outside=(-inf, nan), gradient_at_nan="any"),
        jax=Semantics(nan_outside=(-inf, nan), blocked_infinity="nan"),
    ),
    Activation(
        "squared_relu", False, (-1, 1), Residuals(2, 1, kernels=Traffic(reads=1)),
        selects=True, torch=ANY_AT_NAN,
    ),
)  # fmt: skip

OPERATORS = (
    *(
        Operator(
            each.name,
            reference=f"{REFERENCE}:{each.name}",
            gradients=GRADIENTS if each.from_output else FROM_INPUT,
            saturates=each.saturates,
            largest=LARGEST,
        )
        for each in ACTIVATIONS
    ),
    Operator(
        "prelu",
        reference=f"{REFERENCE}:prelu",
        gradients=FROM_INPUT,
        learnable=(Learnable("slope", 0.25),),
        largest=LARGEST,
    ),
    Operator(
        "prelu_channels",
        reference=f"{REFERENCE}:prelu",
        gradients=FROM_INPUT,
        learnable=(Learnable("slope", SLOPES),),
        largest=LARGEST,
    ),
)


def _numpy(each: Activation) -> Iterator[Variant]:
    numpy = Framework(each.name, "numpy", f"{FOLDER}.numpy_", BLOCKS, DTYPES, threaded=False)
    plain, from_input = numpy.flavour("numpy"), numpy.flavour("numpy-input")
    multiplies = MULTIPLIES if each.selects else EXACT
    yield from plain.forward(**_names(each.name, "fresh", "out", "inplace"), temporary=SCRATCH)
    yield from plain.backward(
        each.saved,
        **_names(each.gradient(each.saved), "fresh", "out", "inplace"),
        semantics=multiplies,
        temporary=SCRATCH,
    )
    if each.from_output and not each.like_relu:
        yield from from_input.backward(
            "input", **_names(each.gradient("input"), "out"), semantics=multiplies, temporary=SCRATCH
        )
    modes = ("fresh", "inplace") if each.from_output else ("fresh",)
    yield from plain.roundtrip(
        each.saved,
        "hand-written pair",
        **_names(f"{each.name}_roundtrip", *modes),
        semantics=multiplies,
        temporary=SCRATCH,
    )


def _numba(each: Activation) -> Iterator[Variant]:
    numba = Framework(each.name, "numba", f"{FOLDER}.numba_cpu", "no fast-math", DTYPES, compiled=True)
    one = numba.flavour("numba", "one thread; no fast-math", threaded=False)
    threads, from_input = numba.flavour("numba-threads"), numba.flavour("numba-threads-input")
    yield from one.forward(**_names(f"one.{each.name}", "out", "inplace"))
    yield from threads.forward(**_names(f"threads.{each.name}", "fresh", "out", "inplace"))
    yield from one.backward(each.saved, **_names(f"one.{each.gradient(each.saved)}", "out", "inplace"))
    yield from threads.backward(each.saved, **_names(f"threads.{each.gradient(each.saved)}", "fresh", "out", "inplace"))
    if each.from_output and not each.like_relu:
        yield from from_input.backward("input", **_names(f"threads.{each.gradient('input')}", "out"))
    modes = ("fresh", "inplace") if each.from_output else ("fresh",)
    yield from threads.roundtrip(each.saved, "hand-written pair", **_names(f"{each.name}_roundtrip", *modes))


def _torch(each: Activation) -> Iterator[Variant]:
    torch = Framework(each.name, "torch", f"{FOLDER}.torch_", "eager", each.torch_dtypes, semantics=each.torch)
    eager, from_output, autograd = map(torch.flavour, ("torch", "torch-output", "torch-autograd"))
    if each.name == "squared_relu":
        yield from _composed(eager, autograd)
        return
    gradient = each.gradient(each.torch_saves)
    copies = {"temporary": ONE, "extra_traffic": NEW_PASS} if each.torch_copies else {}
    modes = ("fresh", "out", "inplace") if each.inplace else ("fresh", "out")
    yield from eager.forward("no graph", **_names(each.name, *modes))
    yield from eager.backward(each.torch_saves, RAW, **_names(gradient, "fresh"))
    yield from eager.backward(each.torch_saves, RAW, **_names(gradient, "out", "inplace"), **copies)
    if each.name in ("elu", "selu"):
        yield from from_output.backward("output", RAW, **_names(each.gradient("output"), "out"))
    yield from autograd.roundtrip(each.torch_saves, REPLAYS, fresh=f"{each.name}.autograd", autograd=True)


def _composed(eager: Flavour, autograd: Flavour) -> Iterator[Variant]:
    """The rows of squared_relu in PyTorch, which has no such operator: relu, then the square."""
    name, gradient = "squared_relu", "squared_relu_backward"
    yield from eager.forward("two operators", **_names(name, "fresh"), temporary=ONE, extra_traffic=NEW_PASS)
    yield from eager.forward("two operators", **_names(name, "out", "inplace"), extra_traffic=PASS)
    four = {"extra_traffic": PASS + PASS + PASS + Traffic(reads=1), "temporary": SCRATCH}
    yield from eager.backward("input", "four operators", **_names(gradient, "fresh", "out"), **four)
    yield from eager.backward(
        "input",
        "four operators",
        **_names(gradient, "inplace"),
        temporary=ONE + SCRATCH,
        extra_traffic=NEW_PASS + PASS + PASS + Traffic(reads=1),
    )
    yield from autograd.roundtrip(
        "input", f"{REPLAYS}; two operators", fresh=f"{name}.autograd", autograd=True,
        temporary=Size(arrays=3, scratch=True),
        extra_traffic=NEW_PASS + NEW_PASS + NEW_PASS + NEW_PASS + Traffic(reads=1),
    )  # fmt: skip


def _jax(each: Activation) -> Iterator[Variant]:
    jax = Framework(each.name, "jax", f"{FOLDER}.jax_", "jit", DTYPES, compiled=True)
    jit, from_input, vjp = (
        jax.flavour("jax"),
        jax.flavour("jax-input"),
        jax.flavour("jax-vjp", "jit, one program a half"),
    )
    flushes = Semantics(flushes_subnormals=DTYPES)
    semantics = replace(each.jax, flushes_subnormals=DTYPES)
    yield from jit.forward(**_names(each.name, "fresh"), semantics=semantics)
    yield from jit.forward("argument donated", **_names(each.name, "inplace"), semantics=semantics)
    gradient = _names(each.gradient(each.saved), "fresh", "inplace")
    if each.from_output:
        yield from jit.backward("output", **gradient, semantics=flushes)
    else:
        yield from jit.backward("input", VJP, **gradient, semantics=semantics)
    if each.from_output and not each.like_relu:
        yield from from_input.backward("input", VJP, **_names(each.gradient("input"), "fresh"), semantics=semantics)
    yield from _vjp(vjp, each, semantics)


def _vjp(flavour: Flavour, each: Activation, semantics: Semantics) -> Rows:
    """The round trip of jax.vjp, which stores residuals: as if it saved one mask or array, and more beside it."""
    kept = each.residuals
    saved: Saved = "bool" if kept.masks else "input"
    more = Size(kept.arrays - (not kept.masks), max(0, kept.masks - 1), scratch=kept.scalars)
    arrays, masks = kept.arrays, max(0, kept.masks - 1)
    return flavour.roundtrip(
        saved,
        "keeps what jax.vjp stores",
        fresh=f"{each.name}.vjp",
        extra_saved=more,
        temporary=Size(arrays, masks, scratch=kept.scalars),
        extra_traffic=kept.kernels
        + Traffic(reads=more.arrays, writes=arrays, write_allocate=arrays, mask_reads=masks, mask_writes=masks),
        autograd=True,
        semantics=semantics,
    )


def _on_numba_cuda(name: str) -> Framework:
    return Framework(
        name, "numba_cuda", f"{FOLDER}.numba_cuda", "16 bytes an access; no fast-math", DTYPES, device="cuda",
        threaded=False, compiled=True,
    )  # fmt: skip


def _on_triton(name: str) -> Framework:
    return Framework(
        name, "triton", f"{FOLDER}.triton_", "block size tuned", ("float32",), device="cuda", threaded=False,
        compiled=True,
    )  # fmt: skip


def _numba_cuda(each: Activation) -> Iterator[Variant]:
    numba = _on_numba_cuda(each.name)
    kernel, from_input = numba.flavour("numba-cuda"), numba.flavour("numba-cuda-input")
    yield from kernel.forward(**_names(f"device.{each.name}", "out", "inplace"))
    yield from kernel.backward(each.saved, **_names(f"device.{each.gradient(each.saved)}", "out", "inplace"))
    if each.from_output and not each.like_relu:
        yield from from_input.backward("input", **_names(f"device.{each.gradient('input')}", "out"))
    if each.from_output:
        yield from kernel.roundtrip("output", "hand-written pair", **_names(f"roundtrip.{each.name}", "inplace"))


def _triton(each: Activation) -> Iterator[Variant]:
    triton = _on_triton(each.name)
    tuned = triton.flavour("triton-cuda", needs=C_COMPILER)
    from_input = triton.flavour("triton-cuda-input", needs=C_COMPILER)
    modes = ("fresh", "out", "inplace")
    yield from tuned.forward(**_names(f"device.{each.name}", *modes))
    yield from tuned.backward(each.saved, **_names(f"device.{each.gradient(each.saved)}", *modes))
    if each.from_output and not each.like_relu:
        yield from from_input.backward("input", **_names(f"device.{each.gradient('input')}", "out"))
    kept = ("fresh", "inplace") if each.from_output else ("fresh",)
    yield from tuned.roundtrip(each.saved, "hand-written pair", **_names(f"roundtrip.{each.name}", *kept))


def _prelu(name: str, kernels: Traffic) -> Iterator[Variant]:
    """The rows of a function with learnable slopes, whose gradients are sums over elements.

    kernels: traffic of XLA's gradient beyond one pass; what it writes are temporary arrays.
    """
    numpy = Framework(name, "numpy", f"{FOLDER}.numpy_", BLOCKS, DTYPES, threaded=False).flavour("numpy")
    yield from numpy.forward(fresh=name, out=f"{name}_out", inplace=f"{name}_inplace", temporary=SCRATCH)
    yield from numpy.backward(
        "input",
        "a second pass sums",
        fresh=f"{name}_backward",
        out=f"{name}_backward_out",
        temporary=SCRATCH,
        extra_traffic=Traffic(reads=2),
    )
    threads = Framework(name, "numba", f"{FOLDER}.numba_cpu", "no fast-math", DTYPES, compiled=True)
    yield from threads.flavour("numba-threads").forward(fresh=name, out=f"{name}_out", inplace=f"{name}_inplace")
    yield from threads.flavour("numba-threads").backward("input", fresh=f"{name}_backward", out=f"{name}_backward_out")
    torch = Framework(name, "torch", f"{FOLDER}.torch_", "eager", DTYPES)
    terms = {"temporary": ONE + SCRATCH, "extra_traffic": NEW_PASS}
    yield from torch.flavour("torch").forward("no graph", fresh=name)
    yield from torch.flavour("torch").backward("input", "raw operator", fresh=f"{name}_backward", **terms)
    yield from torch.flavour("torch-autograd").roundtrip(
        "input", REPLAYS, fresh=f"{name}_autograd", autograd=True, extra_saved=SCRATCH, **terms
    )
    flushes = Semantics(flushes_subnormals=DTYPES)
    jax = Framework(name, "jax", f"{FOLDER}.jax_", "jit", DTYPES, compiled=True, semantics=flushes).flavour("jax")
    yield from jax.forward(fresh=name, inplace=f"{name}_inplace")
    written = Size(arrays=kernels.writes, scratch=True)
    yield from jax.backward("input", VJP, fresh=f"{name}_backward", temporary=written, extra_traffic=kernels)


def _prelu_cuda(name: str) -> Iterator[Variant]:
    """The rows of a function with learnable slopes in Numba and Triton on CUDA."""
    kernel = _on_numba_cuda(name).flavour("numba-cuda")
    tuned = _on_triton(name).flavour("triton-cuda", needs=C_COMPILER)
    for flavour, modes in ((kernel, ("out", "inplace")), (tuned, ("fresh", "out", "inplace"))):
        yield from flavour.forward(**_names(f"device.{name}", *modes))
        yield from flavour.backward(
            "input",
            "a second kernel sums over blocks",
            **_names(f"device.{name}_backward", *modes),
            temporary=SCRATCH,
        )


def _names(name: str, *modes: str) -> dict[str, str]:
    """Function names by memory mode."""
    return {mode: f"{name}.{mode}" for mode in modes}


def _tolerant(rows: Iterable[Variant]) -> Rows:
    """The rows with their tolerances."""
    return tuple(_with_tolerance(row) for row in rows)


def _with_tolerance(row: Variant) -> Variant:
    errors = ERRORS[row.framework][row.operator]
    kind = row.saved_for_backward if row.direction == "backward" else row.direction
    return replace(row, tolerance_ulps=getattr(errors, kind), tolerance_floor=float(kind in errors.floored))


PRELUS = ("prelu", "prelu_channels")
CPU_ROWS = _tolerant(
    (
        *(row for rows in (_numpy, _numba, _torch, _jax) for each in ACTIVATIONS for row in rows(each)),
        *(row for name in PRELUS for row in _prelu(name, PRELU_KERNELS)),
    )
)
# On a GPU, a kernel of XLA may have several results.
FUSED = tuple(replace(each, residuals=replace(each.residuals, kernels=ONE_EACH)) for each in ACTIVATIONS)
FUSED_ROWS = _tolerant(
    (
        *(row for rows in (_torch, _jax) for each in FUSED for row in rows(each)),
        *(row for name in PRELUS for row in _prelu(name, ONE_EACH)),
    )
)
ROWS = (
    *CPU_ROWS,
    *on_cuda(row for row in FUSED_ROWS if row.framework in ("torch", "jax")),
    *_tolerant(row for rows in (_numba_cuda, _triton) for each in ACTIVATIONS for row in rows(each)),
    *_tolerant(row for name in PRELUS for row in _prelu_cuda(name)),
)
