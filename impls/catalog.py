"""Every variant of every operator, one row each.

This table is the only place that knows names: benchmarks take their parameters from it, the
harness finds functions and predictions in it, and reports print its small print. Adding a variant
is a function and a row here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

Operator = Literal["relu.forward", "relu.backward", "relu.roundtrip"]
Memory = Literal["fresh", "out", "inplace"]
Saves = Literal["none", "input", "output", "bool", "bits"]

ITEMSIZE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
DTYPES = tuple(ITEMSIZE_BYTES)


# What NumPy's casting buffers and blocks take at the most, whatever the array size.
SCRATCH_BYTES = 256 * 1024


@dataclass(frozen=True)
class Size:
    """Memory that grows with the number of elements n.

    arrays: arrays of n elements. element_bytes: bytes an element besides, as masks have.
    scratch: a constant working buffer besides, which no formula of ours predicts.
    """

    arrays: float = 0
    element_bytes: float = 0
    scratch: bool = False

    def bytes(self, elements: int, itemsize_bytes: int) -> int:
        """Bytes for n elements; a packed mask takes whole bytes."""
        return round(self.arrays * elements * itemsize_bytes) + -int(-self.element_bytes * elements // 1)

    def explains(self, measured_bytes: float, elements: int, itemsize_bytes: int) -> bool:
        """Whether so many bytes are these, to the byte where there is no scratch."""
        excess_bytes = measured_bytes - self.bytes(elements, itemsize_bytes)
        return 0 <= excess_bytes <= (SCRATCH_BYTES if self.scratch else 0)


@dataclass(frozen=True)
class Traffic:
    """Memory traffic of one call.

    reads, writes: arrays of n elements. mask_reads, mask_writes: bytes an element besides.
    write_allocate: arrays written without having been read, which an ordinary store fetches
    first; masks that are written always count so.
    """

    reads: float
    writes: float
    write_allocate: float = 0
    mask_reads: float = 0
    mask_writes: float = 0

    def algorithmic_bytes(self, elements: int, itemsize_bytes: int) -> float:
        """Bytes read and written, each once (the convention of STREAM)."""
        arrays = self.reads + self.writes
        return elements * (arrays * itemsize_bytes + self.mask_reads + self.mask_writes)

    def bus_bytes(self, elements: int, itemsize_bytes: int) -> float:
        """The same with the fetches of write-allocate counted."""
        fetched = elements * (self.write_allocate * itemsize_bytes + self.mask_writes)
        return self.algorithmic_bytes(elements, itemsize_bytes) + fetched

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Semantics:
    """Where a form may depart from the definition; the defaults are the definition.

    nan: forward of NaN. minus_infinity: forward of -inf. blocked_infinity: gradient where an
    infinite or NaN grad is blocked. gradient_at_nan: gradient where the kept value is NaN.
    keeps_minus_zero: dtypes in which forward(-0.0) is -0.0, seen on x86-64. flushes_subnormals:
    dtypes in which positive subnormals count as 0.
    """

    nan: Literal["nan", "0"] = "nan"
    minus_infinity: Literal["0", "nan"] = "0"
    gradient_at_nan: Literal["0", "grad"] = "0"
    blocked_infinity: Literal["0", "nan"] = "0"
    keeps_minus_zero: tuple[str, ...] = ()
    flushes_subnormals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """One implementation of one operator.

    name: the parameter asv shows, flavour "." memory mode, unique in its operator.
    function: "module:name", imported only in a measuring process.
    saves: what backward needs; for a roundtrip, what is kept between its halves.
    traffic: what this form moves; `required_traffic` is what the operator cannot do without.
    transient: predicted peak of memory allocated during the call, its result included.
    kept: predicted bytes kept between forward and backward; None: as `saves` says.
    needs: a tool besides the framework ("c++ compiler").
    threaded: whether it uses all threads.
    compiled: whether a first call compiles.
    contract: the small print beside the number.
    """

    name: str
    op: Operator
    framework: str
    function: str
    memory: Memory
    traffic: Traffic
    contract: str
    saves: Saves = "none"
    device: Literal["cpu", "cuda"] = "cpu"
    transient: Size = Size()
    kept: Size | None = None
    semantics: Semantics = Semantics()
    dtypes: tuple[str, ...] = DTYPES
    needs: str | None = None
    threaded: bool = True
    compiled: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where a row could not be right."""
        if self.op != "relu.backward" and self.memory == "inplace" and self.saves == "input":
            raise ValueError(f"{self.op} {self.name}: in place it overwrites the input that backward needs")

    def load(self) -> Callable[..., Any]:
        """Import the implementation and return the function."""
        return _load(self.function)

    @property
    def required_traffic(self) -> Traffic:
        """What any implementation of this operator must move, given what was saved."""
        return REQUIRED_TRAFFIC[self.op, self.saves]

    @property
    def kept_size(self) -> Size:
        """What is predicted to be kept between forward and backward."""
        return self.kept or KEPT[self.saves]


@dataclass(frozen=True)
class StepVariant:
    """One implementation of a training step, for every network (`impls.cnn`).

    function: "module:name" of what builds it. memory: of each ReLU. winograd: whether convolutions may take 16
    multiplications where the network's figures count 36. The other fields are as a Variant's.
    """

    name: str
    framework: str
    function: str
    memory: Literal["fresh", "inplace"]
    contract: str
    device: Literal["cpu", "cuda"] = "cpu"
    dtypes: tuple[str, ...] = ("float32", "float64")
    needs: str | None = None
    threaded: bool = True
    compiled: bool = False
    winograd: bool = False

    def load(self) -> Callable[..., Any]:
        """Import the implementation and return what builds a step."""
        return _load(self.function)

    @property
    def by_hand(self) -> bool:
        """Whether it is written without autograd, in memory that the network table predicts."""
        return self.framework in ("numpy", "numba")


def _load(function: str) -> Callable[..., Any]:
    module, name = function.split(":")
    return getattr(import_module(module), name)


KEPT = {
    "none": Size(),
    "input": Size(arrays=1),
    "output": Size(arrays=1),
    "bool": Size(element_bytes=1),
    "bits": Size(element_bytes=1 / 8),
}
REQUIRED_TRAFFIC: dict[tuple[str, str], Traffic] = {
    ("relu.forward", "none"): Traffic(1, 1),
    ("relu.backward", "input"): Traffic(2, 1),
    ("relu.backward", "output"): Traffic(2, 1),
    ("relu.backward", "bool"): Traffic(1, 1, mask_reads=1),
    ("relu.backward", "bits"): Traffic(1, 1, mask_reads=1 / 8),
    ("relu.roundtrip", "output"): Traffic(3, 2),
    ("relu.roundtrip", "bool"): Traffic(2, 2, mask_reads=1, mask_writes=1),
    ("relu.roundtrip", "bits"): Traffic(2, 2, mask_reads=1 / 8, mask_writes=1 / 8),
}

# The streams of the single-pass forms: x to y; grad and what was kept to the new gradient.
FORWARD, FORWARD_INPLACE = Traffic(1, 1, write_allocate=1), Traffic(1, 1)
BACKWARD, BACKWARD_INPLACE = Traffic(2, 1, write_allocate=1), Traffic(2, 1)
BOOL, BOOL_INPLACE = Traffic(1, 1, 1, mask_reads=1), Traffic(1, 1, mask_reads=1)
BITS, BITS_INPLACE = Traffic(1, 1, 1, mask_reads=1 / 8), Traffic(1, 1, mask_reads=1 / 8)
# NumPy without a fused loop writes a boolean temporary and reads it again.
MASKED_FORWARD = Traffic(2, 1, 1, mask_reads=1, mask_writes=1)
MASKED_BACKWARD = Traffic(2, 1, 1, mask_reads=1, mask_writes=1)
MASKED_BACKWARD_INPLACE = Traffic(2, 1, 0, mask_reads=1, mask_writes=1)

ONE = Size(arrays=1)
TWO = Size(arrays=2)
ONE_AND_MASK = Size(arrays=1, element_bytes=1)

NUMPY = Semantics(keeps_minus_zero=("float16",))
NUMPY_CLIP = Semantics(keeps_minus_zero=DTYPES)
NUMPY_MULTIPLY = Semantics(minus_infinity="nan", blocked_infinity="nan", keeps_minus_zero=DTYPES)
NUMPY_WHERE = Semantics(nan="0")
MULTIPLY = Semantics(blocked_infinity="nan")
NUMPY_BOOL = replace(NUMPY, blocked_infinity="nan")
TORCH = Semantics(gradient_at_nan="grad", keeps_minus_zero=DTYPES)
JAX = Semantics(flushes_subnormals=("bfloat16", "float32", "float64"))

NUMPY_DTYPES = ("float16", "float32", "float64")
NUMBA_DTYPES = ("float32", "float64")

_NUMPY, _NUMBA = "impls.relu.numpy_", "impls.relu.numba_cpu"
_TORCH, _JAX = "impls.relu.torch_", "impls.relu.jax_"
_NUMBA_CUDA, _TRITON = "impls.relu.numba_cuda", "impls.relu.triton_"

Rows = tuple[Variant, ...]

# fmt: off
_NUMPY_ROWS: Rows = (
    Variant("numpy.fresh", "relu.forward", "numpy", f"{_NUMPY}:forward", "fresh", FORWARD, "one thread; one ufunc", transient=ONE, semantics=NUMPY, threaded=False),
    Variant("numpy-where.fresh", "relu.forward", "numpy", f"{_NUMPY}:forward_where", "fresh", MASKED_FORWARD, "one thread; drops NaN", transient=ONE_AND_MASK, semantics=NUMPY_WHERE, threaded=False),
    Variant("numpy-multiply.fresh", "relu.forward", "numpy", f"{_NUMPY}:forward_multiply", "fresh", MASKED_FORWARD, "one thread; -inf gives NaN", transient=Size(1, 1, scratch=True), semantics=NUMPY_MULTIPLY, threaded=False),
    Variant("numpy.out", "relu.forward", "numpy", f"{_NUMPY}:forward_out", "out", FORWARD, "one thread; one ufunc", semantics=NUMPY, threaded=False),
    Variant("numpy.inplace", "relu.forward", "numpy", f"{_NUMPY}:forward_inplace", "inplace", FORWARD_INPLACE, "one thread; one ufunc", semantics=NUMPY, threaded=False),
    Variant("numpy-clip.out", "relu.forward", "numpy", f"{_NUMPY}:forward_clip_out", "out", FORWARD, "one thread; clip to [0, inf]", semantics=NUMPY_CLIP, threaded=False),
    Variant("numpy-clip.inplace", "relu.forward", "numpy", f"{_NUMPY}:forward_clip_inplace", "inplace", FORWARD_INPLACE, "one thread; clip to [0, inf]", semantics=NUMPY_CLIP, threaded=False),
    Variant("numpy-threads.out", "relu.forward", "numpy", f"{_NUMPY}:forward_threads_out", "out", FORWARD, "clip; a slice a core, in a thread pool", transient=Size(scratch=True), semantics=NUMPY_CLIP),
    Variant("numpy-threads.inplace", "relu.forward", "numpy", f"{_NUMPY}:forward_threads_inplace", "inplace", FORWARD_INPLACE, "clip; a slice a core, in a thread pool", transient=Size(scratch=True), semantics=NUMPY_CLIP),

    Variant("numpy.fresh", "relu.backward", "numpy", f"{_NUMPY}:backward", "fresh", MASKED_BACKWARD, "one thread; grad * (x > 0); blocked inf gives NaN", "input", transient=Size(1, 1, scratch=True), semantics=MULTIPLY, threaded=False),
    Variant("numpy-where.fresh", "relu.backward", "numpy", f"{_NUMPY}:backward_where", "fresh", MASKED_BACKWARD, "one thread; np.where", "output", transient=ONE_AND_MASK, threaded=False),
    Variant("numpy.out", "relu.backward", "numpy", f"{_NUMPY}:backward_out", "out", Traffic(3, 2, write_allocate=1), "one thread; two passes, no mask; blocked inf gives NaN", "output", transient=Size(scratch=True), semantics=MULTIPLY, threaded=False),
    Variant("numpy.inplace", "relu.backward", "numpy", f"{_NUMPY}:backward_inplace", "inplace", MASKED_BACKWARD_INPLACE, "one thread; allocates a mask; blocked inf gives NaN", "output", transient=Size(0, 1, scratch=True), semantics=MULTIPLY, threaded=False),
    Variant("numpy-bool.out", "relu.backward", "numpy", f"{_NUMPY}:backward_bool_out", "out", BOOL, "one thread; one ufunc; blocked inf gives NaN", "bool", transient=Size(scratch=True), semantics=MULTIPLY, threaded=False),
    Variant("numpy-bool.inplace", "relu.backward", "numpy", f"{_NUMPY}:backward_bool_inplace", "inplace", BOOL_INPLACE, "one thread; one ufunc; blocked inf gives NaN", "bool", transient=Size(scratch=True), semantics=MULTIPLY, threaded=False),
    Variant("numpy-bits.fresh", "relu.backward", "numpy", f"{_NUMPY}:backward_bits", "fresh", Traffic(1, 1, 1, mask_reads=1 + 1 / 8, mask_writes=1), "one thread; unpacks to a mask; blocked inf gives NaN", "bits", transient=Size(1, 1, scratch=True), semantics=MULTIPLY, threaded=False),
    Variant("numpy-threads.out", "relu.backward", "numpy", f"{_NUMPY}:backward_threads_out", "out", BACKWARD, "blocks in cache, in a thread pool; blocked inf gives NaN", "output", transient=Size(scratch=True), semantics=MULTIPLY),
    Variant("numpy-threads.inplace", "relu.backward", "numpy", f"{_NUMPY}:backward_threads_inplace", "inplace", BACKWARD_INPLACE, "blocks in cache, in a thread pool; blocked inf gives NaN", "output", transient=Size(scratch=True), semantics=MULTIPLY),

    Variant("numpy.fresh", "relu.roundtrip", "numpy", f"{_NUMPY}:roundtrip", "fresh", FORWARD + MASKED_BACKWARD, "one thread; hand-written pair; blocked inf gives NaN", "output", transient=Size(2, 1, scratch=True), semantics=NUMPY_BOOL, threaded=False),
    Variant("numpy.inplace", "relu.roundtrip", "numpy", f"{_NUMPY}:roundtrip_inplace", "inplace", FORWARD_INPLACE + MASKED_BACKWARD_INPLACE, "one thread; hand-written pair; blocked inf gives NaN", "output", transient=Size(0, 1, scratch=True), semantics=NUMPY_BOOL, threaded=False),
    Variant("numpy-bool.inplace", "relu.roundtrip", "numpy", f"{_NUMPY}:roundtrip_bool_inplace", "inplace", Traffic(1, 0, mask_writes=1) + FORWARD_INPLACE + BOOL_INPLACE, "one thread; hand-written pair; blocked inf gives NaN", "bool", transient=Size(0, 1, scratch=True), semantics=NUMPY_BOOL, threaded=False),
    Variant("numpy-bits.fresh", "relu.roundtrip", "numpy", f"{_NUMPY}:roundtrip_bits", "fresh", FORWARD + Traffic(1, 0, mask_reads=1, mask_writes=1 + 1 / 8) + Traffic(1, 1, 1, mask_reads=1 + 1 / 8, mask_writes=1), "one thread; hand-written pair; packs and unpacks; blocked inf gives NaN", "bits", transient=Size(2, 1 + 1 / 8, scratch=True), semantics=NUMPY_BOOL, threaded=False),
)

_NUMBA_ROWS: Rows = (
    Variant("numba.fresh", "relu.forward", "numba", f"{_NUMBA}:forward", "fresh", FORWARD, "one thread; no fast-math", transient=ONE, threaded=False),
    Variant("numba.out", "relu.forward", "numba", f"{_NUMBA}:forward_out", "out", FORWARD, "one thread; no fast-math", threaded=False),
    Variant("numba.inplace", "relu.forward", "numba", f"{_NUMBA}:forward_inplace", "inplace", FORWARD_INPLACE, "one thread; no fast-math", threaded=False),
    Variant("numba-threads.fresh", "relu.forward", "numba", f"{_NUMBA}:forward_threads", "fresh", FORWARD, "all threads; no fast-math", transient=ONE),
    Variant("numba-threads.out", "relu.forward", "numba", f"{_NUMBA}:forward_threads_out", "out", FORWARD, "all threads; no fast-math"),
    Variant("numba-threads.inplace", "relu.forward", "numba", f"{_NUMBA}:forward_threads_inplace", "inplace", FORWARD_INPLACE, "all threads; no fast-math"),

    Variant("numba.fresh", "relu.backward", "numba", f"{_NUMBA}:backward", "fresh", BACKWARD, "one thread; no fast-math", "output", transient=ONE, threaded=False),
    Variant("numba.out", "relu.backward", "numba", f"{_NUMBA}:backward_out", "out", BACKWARD, "one thread; no fast-math", "output", threaded=False),
    Variant("numba.inplace", "relu.backward", "numba", f"{_NUMBA}:backward_inplace", "inplace", BACKWARD_INPLACE, "one thread; no fast-math", "output", threaded=False),
    Variant("numba-threads.fresh", "relu.backward", "numba", f"{_NUMBA}:backward_threads", "fresh", BACKWARD, "all threads; no fast-math", "output", transient=ONE),
    Variant("numba-threads.out", "relu.backward", "numba", f"{_NUMBA}:backward_threads_out", "out", BACKWARD, "all threads; no fast-math", "output"),
    Variant("numba-threads.inplace", "relu.backward", "numba", f"{_NUMBA}:backward_threads_inplace", "inplace", BACKWARD_INPLACE, "all threads; no fast-math", "output"),
    Variant("numba-threads-bool.inplace", "relu.backward", "numba", f"{_NUMBA}:backward_bool_threads_inplace", "inplace", BOOL_INPLACE, "all threads; no fast-math", "bool"),
    Variant("numba-threads-bits.out", "relu.backward", "numba", f"{_NUMBA}:backward_bits_threads_out", "out", BITS, "all threads; no fast-math", "bits"),
    Variant("numba-threads-bits.inplace", "relu.backward", "numba", f"{_NUMBA}:backward_bits_threads_inplace", "inplace", BITS_INPLACE, "all threads; no fast-math", "bits"),

    Variant("numba-threads.fresh", "relu.roundtrip", "numba", f"{_NUMBA}:roundtrip_threads", "fresh", FORWARD + BACKWARD, "all threads; hand-written pair", "output", transient=TWO),
    Variant("numba-threads.inplace", "relu.roundtrip", "numba", f"{_NUMBA}:roundtrip_threads_inplace", "inplace", FORWARD_INPLACE + BACKWARD_INPLACE, "all threads; hand-written pair", "output"),
    Variant("numba-threads-bits.inplace", "relu.roundtrip", "numba", f"{_NUMBA}:roundtrip_bits_threads_inplace", "inplace", FORWARD_INPLACE + Traffic(0, 0, mask_writes=1 / 8) + BITS_INPLACE, "all threads; hand-written pair", "bits", transient=Size(element_bytes=1 / 8)),
)

_TORCH_ROWS: Rows = (
    Variant("torch.fresh", "relu.forward", "torch", f"{_TORCH}:forward", "fresh", FORWARD, "eager; no graph", transient=ONE),
    Variant("torch.out", "relu.forward", "torch", f"{_TORCH}:forward_out", "out", FORWARD, "eager; no graph"),
    Variant("torch.inplace", "relu.forward", "torch", f"{_TORCH}:forward_inplace", "inplace", FORWARD_INPLACE, "eager; no graph"),
    Variant("torch-compile.fresh", "relu.forward", "torch", f"{_TORCH}:forward_compiled", "fresh", FORWARD, "inductor; no graph", transient=ONE, needs="c++ compiler", compiled=True),

    Variant("torch.fresh", "relu.backward", "torch", f"{_TORCH}:backward", "fresh", BACKWARD, "eager; raw threshold_backward", "output", transient=ONE),
    Variant("torch.out", "relu.backward", "torch", f"{_TORCH}:backward_out", "out", BACKWARD, "eager; raw threshold_backward", "output"),
    Variant("torch.inplace", "relu.backward", "torch", f"{_TORCH}:backward_inplace", "inplace", BACKWARD_INPLACE, "eager; raw threshold_backward", "output"),
    Variant("torch-bool.fresh", "relu.backward", "torch", f"{_TORCH}:backward_bool", "fresh", BOOL, "eager; where", "bool", transient=Size(1, scratch=True)),
    Variant("torch-bool.out", "relu.backward", "torch", f"{_TORCH}:backward_bool_out", "out", BOOL, "eager; where", "bool", transient=Size(scratch=True)),
    Variant("torch-bool.inplace", "relu.backward", "torch", f"{_TORCH}:backward_bool_inplace", "inplace", BOOL_INPLACE, "eager; where", "bool", transient=Size(scratch=True)),

    Variant("torch-autograd.fresh", "relu.roundtrip", "torch", f"{_TORCH}:roundtrip_autograd", "fresh", FORWARD + BACKWARD, "eager; autograd records and replays", "output", transient=TWO),
    Variant("torch.inplace", "relu.roundtrip", "torch", f"{_TORCH}:roundtrip_inplace", "inplace", FORWARD_INPLACE + BACKWARD_INPLACE, "eager; raw operators, no autograd", "output"),
    Variant("torch-compile.fresh", "relu.roundtrip", "torch", f"{_TORCH}:roundtrip_compiled", "fresh", FORWARD + Traffic(0, 0, mask_writes=1) + BOOL, "inductor; autograd records and replays; keeps a mask", "bool", transient=Size(2, 1), needs="c++ compiler", compiled=True),
)

_JAX_ROWS: Rows = (
    Variant("jax.fresh", "relu.forward", "jax", f"{_JAX}:forward", "fresh", FORWARD, "jit", transient=ONE),
    Variant("jax.inplace", "relu.forward", "jax", f"{_JAX}:forward_inplace", "inplace", FORWARD_INPLACE, "jit; argument donated"),

    Variant("jax.fresh", "relu.backward", "jax", f"{_JAX}:backward", "fresh", BACKWARD, "jit", "output", transient=ONE),
    Variant("jax.inplace", "relu.backward", "jax", f"{_JAX}:backward_inplace", "inplace", BACKWARD_INPLACE, "jit; grad donated", "output"),
    Variant("jax-bool.fresh", "relu.backward", "jax", f"{_JAX}:backward_bool", "fresh", BOOL, "jit", "bool", transient=ONE),
    Variant("jax-bits.fresh", "relu.backward", "jax", f"{_JAX}:backward_bits", "fresh", BITS, "jit; unpacking fused", "bits", transient=ONE),

    Variant("jax-vjp.fresh", "relu.roundtrip", "jax", f"{_JAX}:roundtrip_vjp", "fresh", FORWARD + Traffic(1, 0, mask_writes=1) + Traffic(0, 1, 1) + BOOL, "jit, one program a half; keeps a mask and an array of zeros", "bool", transient=Size(3, 1), kept=ONE_AND_MASK),
    Variant("jax.inplace", "relu.roundtrip", "jax", f"{_JAX}:roundtrip_inplace", "inplace", FORWARD_INPLACE + BACKWARD_INPLACE, "jit, one program a half; both arguments donated", "output"),
)
# No allocator of its own: nothing fresh. On a device no store fetches a line, so nothing is write-allocated.
_NUMBA_CUDA_ROWS: Rows = (
    Variant("numba-cuda.out", "relu.forward", "numba_cuda", f"{_NUMBA_CUDA}:forward_out", "out", Traffic(1, 1), "16 bytes an access; no fast-math"),
    Variant("numba-cuda.inplace", "relu.forward", "numba_cuda", f"{_NUMBA_CUDA}:forward_inplace", "inplace", Traffic(1, 1), "16 bytes an access; no fast-math"),

    Variant("numba-cuda.out", "relu.backward", "numba_cuda", f"{_NUMBA_CUDA}:backward_out", "out", Traffic(2, 1), "16 bytes an access; no fast-math", "output"),
    Variant("numba-cuda.inplace", "relu.backward", "numba_cuda", f"{_NUMBA_CUDA}:backward_inplace", "inplace", Traffic(2, 1), "16 bytes an access; no fast-math", "output"),
    Variant("numba-cuda-bits.out", "relu.backward", "numba_cuda", f"{_NUMBA_CUDA}:backward_bits_out", "out", Traffic(1, 1, mask_reads=1 / 8), "16 bytes an access; no fast-math", "bits"),
    Variant("numba-cuda-bits.inplace", "relu.backward", "numba_cuda", f"{_NUMBA_CUDA}:backward_bits_inplace", "inplace", Traffic(1, 1, mask_reads=1 / 8), "16 bytes an access; no fast-math", "bits"),

    Variant("numba-cuda.inplace", "relu.roundtrip", "numba_cuda", f"{_NUMBA_CUDA}:roundtrip_inplace", "inplace", Traffic(3, 2), "hand-written pair", "output"),
    Variant("numba-cuda-bits.inplace", "relu.roundtrip", "numba_cuda", f"{_NUMBA_CUDA}:roundtrip_bits_inplace", "inplace", Traffic(2, 2, mask_reads=1 / 8, mask_writes=1 / 8), "hand-written pair; allocates its bits by cudaMalloc", "bits", transient=Size(element_bytes=1 / 8)),
)

_TRITON_ROWS: Rows = (
    Variant("triton-cuda.fresh", "relu.forward", "triton", f"{_TRITON}:forward", "fresh", Traffic(1, 1), "block size tuned", transient=ONE),
    Variant("triton-cuda.out", "relu.forward", "triton", f"{_TRITON}:forward_out", "out", Traffic(1, 1), "block size tuned"),
    Variant("triton-cuda.inplace", "relu.forward", "triton", f"{_TRITON}:forward_inplace", "inplace", Traffic(1, 1), "block size tuned"),

    Variant("triton-cuda.fresh", "relu.backward", "triton", f"{_TRITON}:backward", "fresh", Traffic(2, 1), "block size tuned", "output", transient=ONE),
    Variant("triton-cuda.out", "relu.backward", "triton", f"{_TRITON}:backward_out", "out", Traffic(2, 1), "block size tuned", "output"),
    Variant("triton-cuda.inplace", "relu.backward", "triton", f"{_TRITON}:backward_inplace", "inplace", Traffic(2, 1), "block size tuned", "output"),
    Variant("triton-cuda-bits.out", "relu.backward", "triton", f"{_TRITON}:backward_bits_out", "out", Traffic(1, 1, mask_reads=1 / 8), "block size tuned", "bits"),
    Variant("triton-cuda-bits.inplace", "relu.backward", "triton", f"{_TRITON}:backward_bits_inplace", "inplace", Traffic(1, 1, mask_reads=1 / 8), "block size tuned", "bits"),

    Variant("triton-cuda.inplace", "relu.roundtrip", "triton", f"{_TRITON}:roundtrip_inplace", "inplace", Traffic(3, 2), "hand-written pair", "output"),
    Variant("triton-cuda-bits.inplace", "relu.roundtrip", "triton", f"{_TRITON}:roundtrip_bits_inplace", "inplace", Traffic(2, 2, mask_reads=1 / 8, mask_writes=1 / 8), "hand-written pair", "bits", transient=Size(element_bytes=1 / 8)),
)
# fmt: on


def _cuda(row: Variant) -> Variant:
    """The same function on CUDA, whose caches fetch nothing before a full-line store."""
    flavour, memory = row.name.split(".")
    traffic = replace(row.traffic, write_allocate=0)
    return replace(row, name=f"{flavour}-cuda.{memory}", device="cuda", traffic=traffic, threaded=False)


_NUMPY_ROWS = tuple(replace(row, dtypes=NUMPY_DTYPES) for row in _NUMPY_ROWS)
_NUMBA_ROWS = tuple(replace(row, dtypes=NUMBA_DTYPES, compiled=True) for row in _NUMBA_ROWS)
_TORCH_ROWS = tuple(replace(row, semantics=TORCH) if row.semantics == Semantics() else row for row in _TORCH_ROWS)
# A selection by a mask compares no floats, so XLA flushes none.
_JAX_MASKED = {("relu.backward", "bool"), ("relu.backward", "bits")}
_JAX_ROWS = tuple(
    replace(row, semantics=Semantics() if (row.op, row.saves) in _JAX_MASKED else JAX, compiled=True)
    for row in _JAX_ROWS
)

# Only CUDA has them.
_NUMBA_CUDA_ROWS, _TRITON_ROWS = (
    tuple(replace(row, device="cuda", dtypes=dtypes, threaded=False, compiled=True) for row in rows)
    for rows, dtypes in ((_NUMBA_CUDA_ROWS, NUMBA_DTYPES), (_TRITON_ROWS, DTYPES))
)

VARIANTS: tuple[Variant, ...] = (
    *_NUMPY_ROWS,
    *_NUMBA_ROWS,
    *_TORCH_ROWS,
    *_JAX_ROWS,
    *map(_cuda, _TORCH_ROWS),
    *map(_cuda, _JAX_ROWS),
    *_NUMBA_CUDA_ROWS,
    *_TRITON_ROWS,
)

RELU: tuple[Literal["fresh", "inplace"], ...] = ("fresh", "inplace")
_BY_HAND = "written by hand; Winograd's products from 16 channels on where sizes are even, else im2col; ReLU after pooling; ReLU {memory}"
_EAGER = "eager autograd; fused SGD; {layout}; ReLU {memory}"
_STEP_ROWS: tuple[StepVariant, ...] = (
    *(
        StepVariant(f"numpy.{m}", "numpy", "impls.cnn.numpy_:build", m, _BY_HAND.format(memory=m), winograd=True)
        for m in RELU
    ),
    *(
        StepVariant(
            f"numba.{m}",
            "numba",
            "impls.cnn.numba_cpu:build",
            m,
            _BY_HAND.format(memory=m),
            compiled=True,
            winograd=True,
        )
        for m in RELU
    ),
    *(
        StepVariant(f"torch.{m}", "torch", "impls.cnn.torch_:build", m, _EAGER.format(layout="usual layout", memory=m))
        for m in RELU
    ),
    *(
        StepVariant(
            f"torch-channels-last.{m}",
            "torch",
            "impls.cnn.torch_:build_channels_last",
            m,
            _EAGER.format(layout="channels last", memory=m),
        )
        for m in RELU
    ),
    *(
        StepVariant(
            f"torch-compile.{m}",
            "torch",
            "impls.cnn.torch_:build_compile",
            m,
            f"forward pass and loss compiled; fused SGD; ReLU {m}",
            needs="c++ compiler",
            compiled=True,
        )
        for m in RELU
    ),
    StepVariant(
        "jax.fresh",
        "jax",
        "impls.cnn.jax_:build",
        "fresh",
        "one program, state donated; XLA's convolutions",
        compiled=True,
    ),
    StepVariant(
        "jax-patches.fresh",
        "jax",
        "impls.cnn.jax_:build_patches",
        "fresh",
        "one program, state donated; convolutions as matrix products",
        compiled=True,
    ),
)
_CUDA_STEP_ROWS = tuple(
    replace(
        row,
        name=row.name.replace(".", "-cuda."),
        # JAX has one default device, which its driver chooses.
        function=f"{row.function}_cuda" if row.framework == "torch" else row.function,
        device="cuda",
        contract=f"{row.contract}; products of float32, no TF32",
        threaded=False,
    )
    for row in _STEP_ROWS
    if row.framework in ("torch", "jax")
)
STEPS = (
    *_STEP_ROWS,
    *_CUDA_STEP_ROWS,
    StepVariant(
        "numba-cuda.inplace",
        "numba_cuda",
        "impls.cnn.numba_cuda:build",
        "inplace",
        "written by hand; implicit tiled products in float32; ReLU in registers, after pooling",
        device="cuda",
        threaded=False,
        compiled=True,
    ),
)


def find_step(name: str) -> StepVariant:
    """The row of a training step with this name.

    Raises LookupError that lists the names there are.
    """
    for row in STEPS:
        if row.name == name:
            return row
    raise LookupError(f"no training step {name!r}; there are: {', '.join(row.name for row in STEPS)}")


def variants(op: str) -> tuple[Variant, ...]:
    """The rows of one operator, in the order of the catalog."""
    return tuple(row for row in VARIANTS if row.op == op)


def find(op: str, name: str) -> Variant:
    """The row of one operator with this name.

    Raises LookupError that lists the names there are.
    """
    for row in variants(op):
        if row.name == name:
            return row
    known = ", ".join(row.name for row in variants(op)) or f"no variant; operators: {sorted({r.op for r in VARIANTS})}"
    raise LookupError(f"no variant {name!r} of {op!r}; there are: {known}")
