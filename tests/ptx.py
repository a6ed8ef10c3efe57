"""Execute PTX, NVIDIA's portable machine code, on NumPy, so that compiled kernels can run without a GPU.

Numba's simulator and Triton's interpreter run the source with Python's types. This module runs what the compiler makes
of it: integer widths, the LLVM code that `cuda_vectors` writes, the alignment of shared memory. A misaligned access
raises `Fault`, as on a device. An access outside the kernel's arrays raises `Fault` too, which most devices allow.

Each register is one NumPy array with an element per thread of the launch. The threads that are furthest behind run
first, up to the next label, so that they meet again after a branch. Missing barriers do not show here; the shuffled
threads of `tests/simulator.py` find them. Only the instructions that our kernels use are implemented; any other raises
LookupError.
Source: NVIDIA, "PTX ISA", version 9.0.
"""

import ctypes
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WARP = 32
TYPES = {
    **{f"{kind}{bits}": np.dtype(f"u{bits // 8}") for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    "pred": np.dtype(bool),
}
# Content of a register before it is written.
GARBAGE = 0xA5A5A5A5A5A5A5A5

_ENTRY = re.compile(r"\.visible \.entry \w+\(([^)]*)\)(?:\s*\.\w+ [\d, ]+)*\s*\{(.*?)^\}", re.DOTALL | re.MULTILINE)
_PARAMETER = re.compile(r"\.param [^,]*?(\w+)\s*(?:,|$)")
_REGISTERS = re.compile(r"\.reg \.(\w+)\s+(%\w+?)(?:<\d+>)?;")
_SHARED = re.compile(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d*)\]")
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.]*)\s*(.*)", re.DOTALL)
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
_ADDRESS = re.compile(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\d+)\s*)?\]")


class Fault(Exception):
    """An access that would stop a device or touch memory that is not the kernel's."""


@dataclass(frozen=True)
class Instruction:
    """One line. guard: the predicate register, "" for none. name: the opcode and its modifiers, split at the dots."""

    guard: str
    negated: bool
    name: tuple[str, ...]
    operands: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Program:
    """A kernel. labels: index of the instruction after each label. registers: types, by the prefix of their names.

    shared: offset of each array in shared memory, by name. shared_bytes: of all arrays with a size.
    """

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    parameters: tuple[str, ...]
    registers: dict[str, np.dtype]
    shared: dict[str, int]
    shared_bytes: int


def parse(ptx: str) -> Program:
    """Parse a module with one kernel."""
    text = re.sub(r"//[^\n]*", "", ptx)
    (entry,) = _ENTRY.finditer(text)
    labels: dict[str, int] = {}
    instructions: list[Instruction] = []
    for line in map(str.strip, entry[2].splitlines()):
        if line.endswith(":"):
            labels[line[:-1]] = len(instructions)
        elif line and line not in "{}" and not line.startswith("."):
            instructions.append(_instruction(line.removesuffix(";")))
    shared, offset = {}, 0
    for align, name, size in _SHARED.findall(text):
        # At an odd multiple of its alignment: no better aligned than it says.
        shared[name] = offset = (-(-offset // int(align)) | 1) * int(align)
        offset += int(size or 0)
    registers = {prefix: TYPES[f"b{kind[1:]}" if kind != "pred" else kind] for kind, prefix in _REGISTERS.findall(text)}
    return Program(tuple(instructions), labels, tuple(_PARAMETER.findall(entry[1])), registers, shared, offset)


def _instruction(line: str) -> Instruction:
    match = _INSTRUCTION.fullmatch(line)
    assert match, line
    return Instruction(
        match[2] or "", bool(match[1]), tuple(match[3].split(".")), tuple(_OPERAND.findall(match[4])), line
    )


def numba_values(arguments: Sequence[Any]) -> Iterator[int]:
    """Yield the values that Numba passes for arrays, integers and tuples. Source: its `_Kernel._prepare_args`."""
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from numba_values(argument)
        elif isinstance(argument, int):
            yield argument
        else:
            yield from (0, 0, argument.size, argument.dtype.itemsize, address(argument))
            yield from (*argument.shape, *argument.strides)


def address(array: Any) -> int:
    """Return the address of an array on the host, which serves as its device address."""
    return array.__array_interface__["data"][0]


class Memory:
    """Global memory: the bytes of the given contiguous arrays, at their host addresses.

    moved_bytes: bytes that were loaded and stored.
    """

    def __init__(self, arrays: Sequence[Any]) -> None:
        self.moved_bytes = 0
        spans = {address(array): array.nbytes for array in sorted(arrays, key=lambda array: array.nbytes)}
        self.spans = [
            (start, start + size, np.frombuffer((ctypes.c_uint8 * size).from_address(start), np.uint8))
            for start, size in spans.items()
            if size
        ]

    def places(
        self, addresses: np.ndarray, width: int, count: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield for each array the mask of addresses in it, its words, and word numbers, shape (count, addresses)."""
        self.moved_bytes += len(addresses) * width * count
        missing = np.ones(len(addresses), bool)
        for start, stop, content in self.spans:
            inside = missing & (addresses >= start) & (addresses + width * count <= stop)
            if inside.any():
                missing &= ~inside
                words = content[: len(content) // width * width].view(f"u{width}")
                yield inside, words, ((addresses[inside] - start) // width) + np.arange(count)[:, None]
        if missing.any():
            raise Fault(f"{width * count} bytes at {addresses[missing][0]:#x} are in no array of the kernel")


class Launch:
    """One launch of a program. Threads at the same instruction run in lockstep."""

    def __init__(
        self,
        program: Program,
        grid: tuple[int, ...],
        threads: int,
        values: Sequence[int],
        memory: Memory,
        blocks: Sequence[int] | None = None,
        shared_bytes: int = 0,
    ) -> None:
        """blocks: numbers of the blocks that run, by default all. shared_bytes: of arrays of unspecified size."""
        self.program, self.memory = program, memory
        self.parameters = dict(zip(program.parameters, values, strict=True))
        width, height, depth = (*grid, 1, 1)[:3]
        chosen = np.arange(width * height * depth) if blocks is None else np.asarray(blocks)
        number, thread = np.repeat(chosen, threads), np.tile(np.arange(threads), len(chosen))
        self.count, self.block = len(thread), np.repeat(np.arange(len(chosen)), threads)
        self.warp_start = np.arange(self.count) - thread % WARP
        self.lane = thread % WARP
        self.special = {
            "%tid.x": thread,
            "%ctaid.x": number % width,
            "%ctaid.y": number // width % height,
            "%ctaid.z": number // (width * height),
            "%ntid.x": np.full(self.count, threads),
            "%nctaid.x": np.full(self.count, width),
        }
        size = -(-(program.shared_bytes + shared_bytes) // 16) * 16
        self.shared = np.zeros((len(chosen), size), np.uint8)
        self.registers: dict[str, np.ndarray] = {}
        self.at = np.zeros(self.count, np.int64)
        self.waiting = np.zeros(self.count, bool)
        self.ended = np.zeros(self.count, bool)

    def run(self) -> None:
        starts = set(self.program.labels.values())
        with np.errstate(all="ignore"):
            while not self.ended.all():
                ready = ~self.ended & ~self.waiting
                if not ready.any():
                    # A barrier does not wait for threads that have ended.
                    self.waiting[:] = False
                    continue
                position = int(self.at[ready].min())
                lanes = np.flatnonzero(ready & (self.at == position))
                while len(lanes):
                    position = self._step(position, lanes)
                    if position < 0 or position in starts:
                        break
                    self.at[lanes] = position
                self._release()

    def _release(self) -> None:
        """Let each block go on whose threads all wait at a barrier or have ended."""
        if self.waiting.any():
            held = np.zeros(len(self.shared), bool)
            np.logical_or.at(held, self.block, ~self.waiting & ~self.ended)
            self.waiting &= held[self.block]

    def _step(self, position: int, lanes: np.ndarray) -> int:
        """Run an instruction for some threads. Return the index of the next one, or -1 where they diverge or stop."""
        instruction = self.program.instructions[position]
        try:
            return self._run(instruction, position, lanes)
        except Fault as fault:
            raise Fault(f"{fault}: {instruction.text}") from None

    def _run(self, instruction: Instruction, position: int, lanes: np.ndarray) -> int:
        guarded = lanes
        if instruction.guard:
            chosen = self._read(instruction.guard, TYPES["pred"], lanes) ^ instruction.negated
            guarded = lanes[chosen]
        self.at[lanes] = position + 1
        match instruction.name:
            case ("bra", *_):
                self.at[guarded] = self.program.labels[instruction.operands[0]]
                return -1
            case ("ret",):
                self.ended[guarded] = True
                return -1
            case ("bar", "sync"):
                self.waiting[guarded] = True
                return -1
            case ("ld", *qualifiers):
                if len(guarded):
                    self._load(qualifiers, instruction.operands, guarded)
            case ("st", *qualifiers):
                if len(guarded):
                    self._store(qualifiers, instruction.operands, guarded)
            case ("shfl", "sync", "bfly", "b32"):
                self._shuffle(instruction.operands, guarded)
            case ("mov", kind) if "{" in instruction.text:
                self._repack(kind, instruction.operands, guarded)
            case _:
                self._compute(instruction, guarded)
        return position + 1

    # Operands.

    def _read(self, operand: str, dtype: np.dtype, lanes: np.ndarray) -> np.ndarray:
        if operand in self.special:
            return self.special[operand][lanes].astype(dtype)
        if operand.startswith("%"):
            raw = self._register(operand)[lanes]
            return raw.astype(f"u{dtype.itemsize}").view(dtype) if raw.dtype.kind == "u" else raw
        if operand in self.program.shared:
            return np.full(len(lanes), self.program.shared[operand], dtype)
        return np.full(len(lanes), _immediate(operand, dtype))

    def _write(self, operand: str, value: np.ndarray, lanes: np.ndarray) -> None:
        """Write to a register, which may be wider: signed values are sign-extended, others zero-extended."""
        register = self._register(operand)
        if register.dtype == bool:
            register[lanes] = value
        elif value.dtype.kind == "i":
            register[lanes] = value.astype(f"i{register.dtype.itemsize}").view(register.dtype)
        else:
            register[lanes] = value.view(f"u{value.dtype.itemsize}")

    def _register(self, name: str) -> np.ndarray:
        if name not in self.registers:
            dtype = self.program.registers[name.rstrip("0123456789")]
            self.registers[name] = np.full(self.count, GARBAGE & (2 ** (8 * dtype.itemsize) - 1)).astype(dtype)
        return self.registers[name]

    # Memory.

    def _load(self, qualifiers: Sequence[str], operands: Sequence[str], lanes: np.ndarray) -> None:
        targets, dtype = _list(operands[0]), TYPES[qualifiers[-1]]
        if "param" in qualifiers:
            match = _ADDRESS.fullmatch(operands[1])
            assert match
            assert match[2] is None
            value = np.array(self.parameters[match[1]] & (2 ** (8 * dtype.itemsize) - 1), f"u{dtype.itemsize}")
            self._write(targets[0], np.full(len(lanes), value).view(dtype), lanes)
            return
        words = np.empty((len(targets), len(lanes)), f"u{dtype.itemsize}")
        for inside, source, numbers in self._places(qualifiers, operands[1], dtype.itemsize, len(targets), lanes):
            words[:, inside] = source[numbers]
        for name, value in zip(targets, words, strict=True):
            self._write(name, value.view(dtype), lanes)

    def _store(self, qualifiers: Sequence[str], operands: Sequence[str], lanes: np.ndarray) -> None:
        sources, dtype = _list(operands[1]), TYPES[qualifiers[-1]]
        words = np.stack([self._read(name, dtype, lanes).view(f"u{dtype.itemsize}") for name in sources])
        for inside, target, numbers in self._places(qualifiers, operands[0], dtype.itemsize, len(sources), lanes):
            target[numbers] = words[:, inside]

    def _places(self, qualifiers: Sequence[str], operand: str, width: int, count: int, lanes: np.ndarray) -> Any:
        match = _ADDRESS.fullmatch(operand)
        assert match, operand
        addresses = self._read(match[1], self._address_type(match[1]), lanes).astype(np.int64) + int(match[2] or 0)
        if (addresses % (width * count)).any():
            raise Fault(f"{width * count} bytes at {addresses[addresses % (width * count) > 0][0]:#x} are not aligned")
        if "shared" not in qualifiers:
            return self.memory.places(addresses, width, count)
        size = self.shared.shape[1]
        if ((addresses < 0) | (addresses + width * count > size)).any():
            raise Fault(f"{width * count} bytes at {addresses.max()} of {size} of shared memory")
        words = self.shared.reshape(-1).view(f"u{width}")
        numbers = (self.block[lanes] * size + addresses) // width + np.arange(count)[:, None]
        return [(np.ones(len(lanes), bool), words, numbers)]

    def _address_type(self, operand: str) -> np.dtype:
        return self._register(operand).dtype if operand.startswith("%") else TYPES["u64"]

    # Instructions that use other threads or parts of registers.

    def _shuffle(self, operands: Sequence[str], lanes: np.ndarray) -> None:
        target, source, mask = operands[0].split("|")[0], operands[1], int(operands[2], 0)
        partner = self.warp_start[lanes] + (self.lane[lanes] ^ mask)
        if not np.isin(partner, lanes).all():
            raise Fault("a shuffle with a thread that is not there")
        self._write(target, self._register(source)[partner].copy(), lanes)

    def _repack(self, kind: str, operands: Sequence[str], lanes: np.ndarray) -> None:
        """Run a mov that splits a register into parts or joins them, lowest part first."""
        targets, sources = map(_list, operands)
        whole, parts = TYPES[kind], len(targets) * len(sources)
        part = np.dtype(f"u{whole.itemsize // parts}")
        if len(targets) == 1:
            joined = np.stack([self._read(name, part, lanes) for name in sources], axis=1)
            self._write(targets[0], joined.reshape(-1).view(whole), lanes)
        else:
            split = self._read(sources[0], whole, lanes).view(part).reshape(-1, parts)
            for name, value in zip(targets, split.T, strict=True):
                self._write(name, np.ascontiguousarray(value), lanes)

    def _compute(self, instruction: Instruction, lanes: np.ndarray) -> None:
        base, *modifiers = instruction.name
        if base not in OPERATIONS:
            raise LookupError(f"no such instruction here: {instruction.text}")
        target, *sources = instruction.operands

        def read(number: int, kind: str) -> np.ndarray:
            return self._read(sources[number], TYPES[kind], lanes)

        results = OPERATIONS[base](modifiers, read)
        for name, value in zip(target.split("|"), results if isinstance(results, tuple) else (results,), strict=True):
            self._write(name, value, lanes)


def _list(operand: str) -> list[str]:
    return operand.strip("{} ").replace(",", " ").split()


def _immediate(text: str, dtype: np.dtype) -> Any:
    if text[:2] in ("0f", "0d"):
        return np.array(int(text[2:], 16), f"u{(len(text) - 2) // 2}").view(dtype)
    bits = 8 * dtype.itemsize
    return np.array(int(text.rstrip("U"), 0) & (2**bits - 1), f"u{dtype.itemsize}").view(dtype)


# Instructions as functions: (modifiers, read(number, type) of an operand) -> one value or two.

Read = Callable[[int, str], np.ndarray]


def _same(function: Callable[..., Any], count: int = 2) -> Callable[[list[str], Read], np.ndarray]:
    """Return an operation on `count` operands of one type, which is also the type of the result."""

    def operation(modifiers: list[str], read: Read) -> np.ndarray:
        return function(*(read(number, modifiers[-1]) for number in range(count)))

    return operation


def _mul(modifiers: list[str], read: Read) -> np.ndarray:
    kind = modifiers[-1]
    a, b = read(0, kind), read(1, kind)
    if "wide" in modifiers:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
        return a.astype(wide) * b.astype(wide)
    if "hi" in modifiers:
        high = (a.astype(object) * b.astype(object)) >> (8 * a.dtype.itemsize)
        return high.astype(a.dtype)
    return a * b


def _mad(modifiers: list[str], read: Read) -> np.ndarray:
    product = _mul(modifiers, read)
    return product + read(2, f"{modifiers[-1][0]}{8 * product.dtype.itemsize}")


def _div(modifiers: list[str], read: Read) -> np.ndarray:
    a, b = read(0, modifiers[-1]), read(1, modifiers[-1])
    if a.dtype.kind == "f":
        return a / b
    # Towards 0, as in C.
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)


def _rem(modifiers: list[str], read: Read) -> np.ndarray:
    return np.fmod(read(0, modifiers[-1]), read(1, modifiers[-1]))


def _shift(function: Any) -> Callable[[list[str], Read], np.ndarray]:
    def operation(modifiers: list[str], read: Read) -> np.ndarray:
        value, amount = read(0, modifiers[-1]), read(1, "u32")
        bits = 8 * value.dtype.itemsize
        shifted = function(value, np.minimum(amount, bits - 1).astype(value.dtype))
        beyond = np.where(value < 0, value.dtype.type(-1), 0) if value.dtype.kind == "i" else 0
        return np.where(amount < bits, shifted, beyond).astype(value.dtype)

    return operation


def _fma(modifiers: list[str], read: Read) -> np.ndarray:
    kind = modifiers[-1]
    wider = np.float64 if kind == "f32" else np.longdouble
    a, b, c = (read(number, kind).astype(wider) for number in range(3))
    exact = a * b + c
    if "sat" in modifiers:
        exact = np.nan_to_num(np.clip(exact, 0, 1), nan=0)
    rounded = exact.astype(TYPES[kind])
    down = np.nextafter(rounded, -np.inf, dtype=rounded.dtype)
    return np.where(rounded.astype(wider) > exact, down, rounded) if "rm" in modifiers else rounded


HALVES = ("f16", "bf16")
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


def _compared(how: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind != "f":
        return COMPARISONS[{"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(how, how)](a, b)
    unordered = np.isnan(a) | np.isnan(b)
    if how in ("nan", "num"):
        return unordered ^ (how == "num")
    if how.endswith("u"):
        return COMPARISONS[how[:-1]](a, b) | unordered
    return COMPARISONS[how](a, b) & ~unordered


def _setp(modifiers: list[str], read: Read) -> Any:
    how, kind = modifiers[0], modifiers[-1]
    if kind.endswith("x2"):
        a, b = (read(number, "b32").view(np.uint16).reshape(-1, 2) for number in range(2))
        return tuple(_compared(how, *(_half(kind[:-2], pair[:, half]) for pair in (a, b))) for half in range(2))
    if kind in HALVES:
        return _compared(how, *(_half(kind, read(number, "b16")) for number in range(2)))
    return _compared(how, read(0, kind), read(1, kind))


def _half(kind: str, bits: np.ndarray) -> np.ndarray:
    """Convert the bits of float16 or bfloat16 values to float32."""
    bits = np.ascontiguousarray(bits)
    if kind == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16).astype(np.float32)


def _selp(modifiers: list[str], read: Read) -> np.ndarray:
    return np.where(read(2, "pred"), read(0, modifiers[-1]), read(1, modifiers[-1]))


def _cvt(modifiers: list[str], read: Read) -> np.ndarray:
    to, kind = TYPES[modifiers[-2]], modifiers[-1]
    value = _half(kind, read(0, "b16")) if kind in HALVES else read(0, kind)
    if "sat" in modifiers and to.kind == "f":
        return np.nan_to_num(np.clip(value, 0, 1), nan=0).astype(to)
    return value.astype(to)


def _bfe(modifiers: list[str], read: Read) -> np.ndarray:
    """Extract a bit field, sign-extended for a signed type. The field must lie inside the value."""
    value, start, length = read(0, "u32"), read(1, "u32"), read(2, "u32")
    field = (value >> start) & ((np.uint32(1) << length) - np.uint32(1))
    if modifiers[-1] == "u32":
        return field
    unused = np.uint32(32) - length
    return (field << unused).view(np.int32) >> unused.view(np.int32)


def _bfi(modifiers: list[str], read: Read) -> np.ndarray:
    field, value, start, length = read(0, modifiers[-1]), read(1, modifiers[-1]), read(2, "u32"), read(3, "u32")
    one = value.dtype.type(1)
    mask = ((one << length.astype(value.dtype)) - one) << start.astype(value.dtype)
    return (value & ~mask) | ((field << start.astype(value.dtype)) & mask)


def _prmt(modifiers: list[str], read: Read) -> np.ndarray:
    """Select four of the eight bytes of two registers, or their sign bits."""
    both = np.stack([read(0, "b32"), read(1, "b32")], axis=1).view(np.uint8).reshape(-1, 8)
    chosen = np.empty((len(both), 4), np.uint8)
    for byte in range(4):
        selector = read(2, "b32") >> np.uint32(4 * byte)
        value = both[np.arange(len(both)), selector & 7]
        chosen[:, byte] = np.where(selector & 8, np.where(value & 0x80, 0xFF, 0), value)
    return chosen.view(np.uint32).reshape(-1)


OPERATIONS: dict[str, Callable[[list[str], Read], Any]] = {
    "mov": _same(lambda a: a, 1),
    "cvta": _same(lambda a: a, 1),
    "add": _same(np.add),
    "sub": _same(np.subtract),
    "neg": _same(np.negative, 1),
    "abs": _same(np.abs, 1),
    "min": _same(np.minimum),
    "max": _same(np.maximum),
    "and": _same(np.bitwise_and),
    "or": _same(np.bitwise_or),
    "xor": _same(np.bitwise_xor),
    "not": _same(np.invert, 1),
    "sqrt": _same(np.sqrt, 1),
    "rcp": _same(np.reciprocal, 1),
    "ex2": _same(np.exp2, 1),
    "lg2": _same(np.log2, 1),
    "mul": _mul,
    "mad": _mad,
    "div": _div,
    "rem": _rem,
    "shl": _shift(np.left_shift),
    "shr": _shift(np.right_shift),
    "fma": _fma,
    "setp": _setp,
    "selp": _selp,
    "cvt": _cvt,
    "bfe": _bfe,
    "bfi": _bfi,
    "prmt": _prmt,
}
