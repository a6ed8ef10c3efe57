"""The types of a row: what one implementation computes, moves, allocates, and where it departs from the definition.

A row is a `Variant` (an operator) or a `StepVariant` (a training step). Rows are declared beside the code that they
name, in `impls/*/rows.py`, and assembled by `impls.catalog`. Importing this module imports no framework.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from operator import attrgetter
from typing import Any, Literal

Direction = Literal["forward", "backward", "roundtrip"]
Memory = Literal["fresh", "out", "inplace"]
Saved = Literal["none", "input", "output", "bool", "bits"]
Device = Literal["cpu", "cuda"]

DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "roundtrip")
MEMORY_MODES: tuple[Memory, ...] = ("fresh", "out", "inplace")
ITEMSIZE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
DTYPES = tuple(ITEMSIZE_BYTES)
# The tools that a row may need besides its framework. On CUDA either includes the C compiler and Python.h, with which
# Triton compiles its launchers, also for torch.compile.
CPP_COMPILER, C_COMPILER = "c++ compiler", "c compiler"
# Upper bound of NumPy's casting buffers and blocks, whatever the array size.
SCRATCH_BYTES = 256 * 1024
OBJECTS_BYTES = 4096
# Numbers of channels that a learnable parameter may have: rows of them fill the shortest array that is measured.
CHANNELS = tuple(2**power for power in range(11))
# Names become parts of file names and of asv's parameters; operators also of class names.
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
OPERATOR_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Size:
    """Memory proportional to the number of elements n.

    arrays: arrays of n elements. element_bytes: further bytes per element, as masks need.
    scratch: a working buffer of at most SCRATCH_BYTES besides, whose size is not predicted.
    """

    arrays: float = 0
    element_bytes: float = 0
    scratch: bool = False

    def bytes(self, elements: int, itemsize_bytes: int) -> int:
        """Bytes for n elements, without scratch; a packed mask takes whole bytes."""
        return round(self.arrays * elements * itemsize_bytes) + -int(-self.element_bytes * elements // 1)

    def explains(self, measured_bytes: float, elements: int, itemsize_bytes: int) -> bool:
        """Return whether a measurement is this size: to the byte without scratch, else within SCRATCH_BYTES above.

        With scratch, Python's own objects may be counted wrongly by OBJECTS_BYTES.
        """
        excess_bytes = measured_bytes - self.bytes(elements, itemsize_bytes)
        return -OBJECTS_BYTES <= excess_bytes <= SCRATCH_BYTES if self.scratch else excess_bytes == 0

    def __add__(self, other: "Size") -> "Size":
        return Size(self.arrays + other.arrays, self.element_bytes + other.element_bytes, self.scratch or other.scratch)


@dataclass(frozen=True)
class Traffic:
    """Memory traffic of one call.

    reads, writes: arrays of n elements. mask_reads, mask_writes: further bytes per element.
    write_allocate: arrays written without having been read, which an ordinary store fetches
    first. Masks that are written always count as fetched.
    """

    reads: float = 0
    writes: float = 0
    write_allocate: float = 0
    mask_reads: float = 0
    mask_writes: float = 0

    def algorithmic_bytes(self, elements: int, itemsize_bytes: int) -> float:
        """Bytes read and written, each counted once (the convention of STREAM)."""
        arrays = self.reads + self.writes
        return elements * (arrays * itemsize_bytes + self.mask_reads + self.mask_writes)

    def bus_bytes(self, elements: int, itemsize_bytes: int) -> float:
        """Bytes read and written, and those that write-allocate fetches."""
        fetched = elements * (self.write_allocate * itemsize_bytes + self.mask_writes)
        return self.algorithmic_bytes(elements, itemsize_bytes) + fetched

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


# Bytes per element of each mask that can be saved.
MASK_BYTES: dict[Saved, float] = {"bool": 1, "bits": 1 / 8}
SAVED_SIZE: dict[Saved, Size] = {
    "none": Size(),
    "input": Size(arrays=1),
    "output": Size(arrays=1),
    "bool": Size(element_bytes=MASK_BYTES["bool"]),
    "bits": Size(element_bytes=MASK_BYTES["bits"]),
}


def required_traffic(direction: Direction, saved: Saved) -> Traffic:
    """Traffic that no implementation can avoid, given the saved value.

    Forward reads an array and writes one. Backward reads the gradient and the saved value and writes one. A round
    trip does both and also writes the mask that it saves; a saved input or output is there already.
    """
    mask = MASK_BYTES.get(saved, 0)
    forward = Traffic(reads=1, writes=1)
    backward = Traffic(reads=1, writes=1, mask_reads=mask) if mask else Traffic(reads=2, writes=1)
    if direction == "roundtrip":
        return forward + backward + Traffic(mask_writes=mask)
    return forward if direction == "forward" else backward


def results(direction: Direction) -> int:
    """Number of arrays of n elements that a call returns."""
    return 2 if direction == "roundtrip" else 1


@dataclass(frozen=True)
class Semantics:
    """Departures of a row from the reference; the defaults are the reference.

    nan: forward of NaN. minus_infinity: forward of -inf; "0" is that of the reference.
    gradient_at_nan: gradient where the saved value is NaN; "any": it depends on the position in the array.
    blocked_infinity: gradient where an infinite or NaN grad is blocked.
    infinity: forward of inf; "any": the limit or NaN, depending on the processor.
    nan_outside: inputs that are not between these give NaN, though the limit is finite.
    gradient_nan_outside: the same of saved values and gradients.
    derivative_at: the derivative at saved values where it is not the reference's, as at a kink.
    keeps_minus_zero: dtypes in which forward(-0.0) is -0.0, seen on x86-64.
    flushes_subnormals: dtypes in which positive subnormals count as 0.
    """

    nan: Literal["nan", "0"] = "nan"
    minus_infinity: Literal["0", "nan"] = "0"
    infinity: Literal["limit", "any"] = "limit"
    gradient_at_nan: Literal["0", "grad", "any"] = "0"
    blocked_infinity: Literal["0", "nan"] = "0"
    nan_outside: tuple[float, float] | None = None
    gradient_nan_outside: tuple[float, float] | None = None
    derivative_at: tuple[tuple[float, float], ...] = ()
    keeps_minus_zero: tuple[str, ...] = ()
    flushes_subnormals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Learnable:
    """A learnable scalar of an activation, or one value per channel: an array of shape (1,) or (channels,).

    It is passed after the array inputs. backward returns its gradient, of the same shape and dtype, after the gradient
    of x. With one value per channel, element i of x belongs to channel i mod channels (channels last), and calls get
    whole rows of channels.
    initial: the value that calls are timed with, and checked with; a tuple of one per channel.
    """

    name: str
    initial: float | tuple[float, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for a number of channels that does not divide every size that is measured."""
        if isinstance(self.initial, tuple) and len(self.initial) not in CHANNELS:
            raise ValueError(
                f"{self.name}: {len(self.initial)} initial values given; a power of two from {CHANNELS[0]} to "
                f"{CHANNELS[-1]} is accepted"
            )


@dataclass(frozen=True)
class Operator:
    """An activation function: its float64 reference, and the values that its gradient can be computed from.

    reference: "module", or "module:name" of an object there, with `forward(x, *learnable, **parameters)`, the functions
    named in `gradients`, and, if there are learnable parameters, `learnable_terms(grad, x, *learnable, **parameters)`:
    a tuple of arrays with a term for each element, which sum to the gradient of one of them, channel by channel.
    gradients: for each value that may be saved, the reference function `f(grad, saved, *learnable, **parameters)`.
    A round trip is judged by that from the input, whatever it saves.
    parameters: scalar constants. The reference takes them by keyword; implementations have them as defaults, and the
    checks show that both agree.
    learnable: learnable parameters, in the order of their arguments.
    saturates: the range outside which the function is constant or linear, to rounding; checks use inputs on both sides
    of each end.
    largest: the magnitude up to which checks use finite inputs and gradients; for larger ones, intermediate results of
    an implementation may overflow where the result does not.
    """

    name: str
    reference: str
    gradients: Mapping[Saved, str]
    parameters: Mapping[str, float] = field(default_factory=dict)
    learnable: tuple[Learnable, ...] = ()
    saturates: tuple[float, float] | None = None
    largest: float = math.inf

    def __post_init__(self) -> None:
        """Raises ValueError for a name that no class can be named after."""
        if not OPERATOR_NAME.fullmatch(self.name):
            raise ValueError(f"operator: {self.name!r} given; lower-case letters, digits and '_' are accepted")

    def load_reference(self) -> Any:
        """Import the reference and return the module or object that holds its functions."""
        return _loaded(self.reference)


@dataclass(frozen=True)
class Row:
    """One implementation, in the framework that it is written in.

    flavour: distinguishes the implementations of one framework. memory: "fresh" allocates the result, "out" writes
    into a given buffer, "inplace" overwrites an input.
    function: "module:name", where the name may have dots, imported only in a measuring process.
    notes: shown beside the number. Compare rows whose notes agree.
    needs: a tool besides the framework. threaded: uses all threads. compiled: the first call compiles.
    """

    flavour: str
    memory: Memory
    framework: str
    function: str
    notes: str
    device: Device = "cpu"
    dtypes: tuple[str, ...] = DTYPES
    needs: str | None = None
    threaded: bool = True
    compiled: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a flavour that no file name can hold, an unknown memory mode or an unknown dtype."""
        if not SAFE_NAME.fullmatch(self.flavour):
            raise ValueError(f"flavour: {self.flavour!r} given; letters, digits, '-' and '_' are accepted")
        _require_one_of(f"{self.flavour}: memory", self.memory, MEMORY_MODES)
        for dtype in self.dtypes:
            _require_one_of(f"{self.flavour}: dtypes", dtype, DTYPES)

    @property
    def name(self) -> str:
        """The parameter that asv shows: flavour "." memory mode, unique for its operator and direction."""
        return f"{self.flavour}.{self.memory}"

    def load(self) -> Callable[..., Any]:
        """Import the implementation and return its function."""
        return _loaded(self.function)


@dataclass(frozen=True, kw_only=True)
class Variant(Row):
    """One implementation of one direction of an operator.

    saved_for_backward: the value that backward needs; in a round trip, the value kept between its halves.
    extra_traffic: traffic beyond one pass over what the operator requires. nontemporal: results that do not fit a cache
    are stored past it, without fetching their memory first. temporary: memory allocated during a call beside the
    results and the mask of a round trip. extra_saved: memory kept besides the saved value.
    tolerance_ulps: largest error against the float64 reference, in units in the last place; 0 is exact.
    tolerance_floor: where a result is smaller than this share of its argument (forward: x, backward: grad), the units
    are those of that share. For formulas that subtract nearly equal numbers.
    autograd: whether the framework's autograd records the forward half of a round trip.
    """

    operator: str
    direction: Direction
    saved_for_backward: Saved = "none"
    extra_traffic: Traffic = Traffic()
    nontemporal: bool = False
    temporary: Size = Size()
    extra_saved: Size = Size()
    semantics: Semantics = Semantics()
    tolerance_ulps: float = 0
    tolerance_floor: float = 0
    autograd: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where a row could not be right."""
        super().__post_init__()
        _require_one_of(f"{self.operator} {self.name}: direction", self.direction, DIRECTIONS)
        if not 0 <= self.tolerance_ulps < math.inf:
            raise ValueError(
                f"{self.operator} {self.direction} {self.name}: tolerance_ulps={self.tolerance_ulps} given; "
                "a number from 0 on is accepted"
            )
        if (self.saved_for_backward == "none") != (self.direction == "forward"):
            raise ValueError(
                f"{self.operator} {self.direction} {self.name}: saved_for_backward={self.saved_for_backward!r} given; "
                "forward saves nothing, backward and roundtrip need a value"
            )
        if self.direction == "roundtrip" and self.memory == "inplace" and self.saved_for_backward == "input":
            raise ValueError(
                f"{self.operator} {self.direction} {self.name}: in place it overwrites the input that backward needs"
            )

    @property
    def required_traffic(self) -> Traffic:
        """Traffic that no implementation can avoid, given the saved value."""
        return required_traffic(self.direction, self.saved_for_backward)

    @property
    def traffic(self) -> Traffic:
        """Traffic of this implementation. Stores on a GPU, non-temporal ones and those over an input fetch nothing."""
        fetched = 0 if self.memory == "inplace" or self.nontemporal else results(self.direction)
        traffic = self.required_traffic + self.extra_traffic + Traffic(write_allocate=fetched)
        return traffic if self.device == "cpu" else Traffic(**{**vars(traffic), "write_allocate": 0})

    @property
    def transient(self) -> Size:
        """Predicted peak of memory allocated during a call, fresh results included."""
        fresh = Size(arrays=results(self.direction)) if self.memory == "fresh" else Size()
        mask = MASK_BYTES.get(self.saved_for_backward, 0) if self.direction == "roundtrip" else 0
        return fresh + Size(element_bytes=mask) + self.temporary

    @property
    def saved_size(self) -> Size:
        """Predicted memory kept between forward and backward."""
        return SAVED_SIZE[self.saved_for_backward] + self.extra_saved


# How the saved bytes of a training step are predicted (`impls.cnn.networks`).
SavedModel = Literal["hand-written", "eager autograd"]
# Precisions of products below float32, "" for that of the dtype. TF32 has float16's mantissa and float32's exponent.
Precision = Literal["", "tf32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class StepVariant(Row):
    """One implementation of a training step, for every ReLU network (`impls.cnn`).

    function: "module:name" of the function that builds a step. memory: of each activation.
    other_activations: it is measured for networks with another activation than ReLU too.
    winograd: convolutions may take 16 multiplications where the network's figures count 36.
    saved_model: how the bytes saved for backward are predicted; None: they are not.
    precision: of the factors of products, where it is below the dtype, which parameters and updates have in any case.
    Rows are ranked among those of their precision.
    """

    other_activations: bool = False
    winograd: bool = False
    saved_model: SavedModel | None = None
    precision: Precision = ""


def _loaded(path: str) -> Any:
    """The module "module", or the object "module:name"."""
    module, _, name = path.partition(":")
    loaded = import_module(module)
    return attrgetter(name)(loaded) if name else loaded


def _require_one_of(argument: str, value: str, accepted: Iterable[str]) -> None:
    if value not in accepted:
        raise ValueError(f"{argument}: {value!r} given; {', '.join(accepted)} are accepted")
