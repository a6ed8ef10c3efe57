"""Streaming loops that measure memory bandwidth, as data; `streaming` runs them.

fill        out[i] = s                 reads 0, writes 1
copy        out[i] = s x[i]            reads 1, writes 1
triad       out[i] = x[i] + s y[i]     reads 2, writes 1
scale       x[i] *= s                  reads 1, writes 1, in place
accumulate  x[i] += s y[i]             reads 2, writes 1, in place

s alternates between 1 and -1. Ordinary stores fetch a line before they overwrite it; the non-temporal stores of
fill-nt, copy-nt and triad-nt fetch nothing and bypass the caches. Any single-pass ReLU has the traffic of one of these
loops, or lies between two. Source: McCalpin, "Memory bandwidth and machine balance in current high performance
computers" (STREAM), 1995.
"""

from dataclasses import dataclass, replace
from typing import Literal

from impls.variant import Traffic


@dataclass(frozen=True)
class Pattern:
    """The arithmetic and stores of a loop.

    name: as above, without "-nt". reads, writes: arrays per pass. inplace: it overwrites an array that it reads.
    nontemporal: its stores are non-temporal.
    """

    name: str
    reads: int
    writes: int
    inplace: bool = False
    nontemporal: bool = False

    @property
    def label(self) -> str:
        """The name, with "-nt" for non-temporal stores."""
        return f"{self.name}-nt" if self.nontemporal else self.name

    def pass_bytes(self, array_bytes: int) -> int:
        """Return the bytes of a pass over arrays of `array_bytes` each, as STREAM counts: without fetched lines."""
        return (self.reads + self.writes) * array_bytes

    def bus_bytes(self, array_bytes: int) -> int:
        """Return the bytes of a pass, including the lines that ordinary stores fetch."""
        fetched = 0 if self.inplace or self.nontemporal else self.writes
        return self.pass_bytes(array_bytes) + fetched * array_bytes


@dataclass(frozen=True)
class Loop:
    """A pattern on one thread or on all, whose number RELU_BENCH_THREADS sets."""

    pattern: Pattern
    threads: Literal["one", "all"]

    @property
    def name(self) -> str:
        """The parameter that asv shows, such as "copy-nt.all"."""
        return f"{self.pattern.label}.{self.threads}"


ORDINARY = {
    pattern.name: pattern
    for pattern in (
        Pattern("fill", 0, 1),
        Pattern("copy", 1, 1),
        Pattern("triad", 2, 1),
        Pattern("scale", 1, 1, inplace=True),
        Pattern("accumulate", 2, 1, inplace=True),
    )
}
# Loops in place fetch the array when they read it, so non-temporal stores would save nothing.
NONTEMPORAL = {
    f"{name}-nt": replace(pattern, nontemporal=True) for name, pattern in ORDINARY.items() if not pattern.inplace
}
PATTERNS = ORDINARY | NONTEMPORAL
_THREADS: tuple[Literal["one", "all"], ...] = ("one", "all")
LOOPS = {loop.name: loop for loop in (Loop(pattern, threads) for pattern in PATTERNS.values() for threads in _THREADS)}
# The patterns of a GPU's loops, by name: that before the dot, and after it who wrote the kernel (`impls.device_loops`).
_KERNELS = {"copy": ("memcpy", "torch", "triton")} | dict.fromkeys(
    ("triad", "scale", "accumulate"), ("torch", "triton")
)
DEVICE_LOOPS = {f"{name}.{kernel}": ORDINARY[name] for name, kernels in _KERNELS.items() for kernel in kernels}
DEVICE_PATTERNS = tuple(_KERNELS)
# Of patterns in place, those with the same traffic out of place. On a GPU the roof of a row in place is the faster.
OUT_OF_PLACE = {"scale": "copy", "accumulate": "triad"}


def parts_of(traffic: Traffic, inplace: bool, itemsize_bytes: int) -> dict[str, float]:
    """The patterns whose times make up that of a traffic, each with its factor.

    Composed of a pattern that reads one array for each that it writes and one that reads two, at the same size.
    """
    one, two = ("scale", "accumulate") if inplace else ("copy", "triad")
    reads = traffic.reads + traffic.mask_reads / itemsize_bytes
    writes = traffic.writes + traffic.mask_writes / itemsize_bytes
    factors = {one: 2 * writes - reads, two: reads - writes}
    return {name: factor for name, factor in factors.items() if factor}
