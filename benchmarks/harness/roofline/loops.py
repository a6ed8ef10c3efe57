"""The streaming loops that tell what the memory of this machine can do, as data; `streaming` runs them.

fill        out[i] = s                 reads 0, writes 1
copy        out[i] = s x[i]            reads 1, writes 1
triad       out[i] = x[i] + s y[i]     reads 2, writes 1
scale       x[i] *= s                  reads 1, writes 1, in place
accumulate  x[i] += s y[i]             reads 2, writes 1, in place

s is 1 and -1 in turn. Stores are ordinary ones, which fetch a line before they overwrite it; those of
fill-nt, copy-nt and triad-nt are streaming (non-temporal) ones, which fetch nothing and pass by the
caches. Any single-pass ReLU has the traffic of one of these, or lies between two. Source: McCalpin,
"Memory bandwidth and machine balance in current high performance computers" (STREAM), 1995.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """reads, writes: arrays a pass. inplace: whether it writes what it reads. streaming: whether its stores are."""

    reads: int
    writes: int
    inplace: bool = False
    streaming: bool = False

    def pass_bytes(self, array_bytes: int) -> int:
        """Bytes of a pass over arrays of `array_bytes` each, as STREAM counts: read or written, none fetched."""
        return (self.reads + self.writes) * array_bytes

    def bus_bytes(self, array_bytes: int) -> int:
        """The same with the lines that ordinary stores fetch."""
        fetched = 0 if self.inplace or self.streaming else self.writes
        return self.pass_bytes(array_bytes) + fetched * array_bytes


ORDINARY = {
    "fill": Kernel(0, 1),
    "copy": Kernel(1, 1),
    "triad": Kernel(2, 1),
    "scale": Kernel(1, 1, inplace=True),
    "accumulate": Kernel(2, 1, inplace=True),
}
# What is written in place was read, and so fetched: a streaming store would spare nothing.
STREAMING = {
    f"{name}-nt": Kernel(kernel.reads, kernel.writes, streaming=True)
    for name, kernel in ORDINARY.items()
    if not kernel.inplace
}
KERNELS = ORDINARY | STREAMING
# Rows of the catalog use one thread or all; "all" are as many as RELU_BENCH_THREADS asks for.
THREADS = ("one", "all")
VARIANTS = tuple(f"{name}.{threads}" for name in KERNELS for threads in THREADS)


def kernel_of(variant: str) -> str:
    """The name in KERNELS, of a variant such as "copy-nt.all"."""
    return variant.split(".")[0]


def ordinary(variant: str) -> str:
    """The name in ORDINARY, of a variant or of a kernel with either kind of stores."""
    return kernel_of(variant).removesuffix("-nt")
