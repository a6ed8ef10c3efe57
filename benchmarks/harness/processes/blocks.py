"""Group cases: blocks are compared and measured in the same rounds, sweeps hold the blocks that passes go over.

A block holds all rows of one operator, direction, size and dtype, or of one network and batch, and the roofs of the
same traffic. The other activations are measured beside ReLU: their small arrays share blocks, so do networks that have
them, and each block holds ReLU's rows of the same names as well. A sweep holds the blocks of ReLU, of the other
activations, or of all training steps: several passes go over it, in random order, each with new processes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.harness.case import (
    ROOFS,
    Case,
    DeviceLoopCase,
    DeviceProductCase,
    LoopCase,
    OperatorCase,
    ProductCase,
    StepCase,
)
from benchmarks.harness.roofline.loops import DEVICE_LOOPS, LOOPS, parts_of
from impls.catalog import find, find_step
from impls.cnn.architecture import NETWORKS, RELU, with_relu
from impls.variant import ITEMSIZE_BYTES

# Libraries of matrix products, and their size.
LIBRARIES = ("numpy", "torch", "jax")
PRODUCT_ELEMENTS = 2048
# Smaller arrays fit in a cache, where a non-temporal store to memory is never faster.
LEAST_NONTEMPORAL_BYTES = 2**20
# The operator that other activations are compared with.
BASELINE = RELU
# The name of the blocks, and of a sweep, of other activations.
OTHERS = "activations"
# Larger arrays of several operators would not fit into memory together.
SHARED_ELEMENTS = 2**20
# Arrays that take long to make and to check.
SLOW_ELEMENTS = 2**24


@dataclass(frozen=True)
class Block:
    """Cases that are timed in the same rounds: rows, and what they are compared with.

    sweep: the sweep that it belongs to. name: its name among all blocks. baselines: rows of ReLU, whose own numbers
    come from another block.
    """

    sweep: str
    name: str
    rows: tuple[Case, ...]
    roofs: tuple[Case, ...]
    baselines: tuple[Case, ...] = ()

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases that are timed."""
        return self.rows + self.baselines + self.roofs

    @property
    def answered(self) -> tuple[Case, ...]:
        """The cases whose numbers come from this block."""
        return self.rows + self.roofs

    def passes(self, most: int) -> int:
        """The number of passes, of `most`: half of them, rounded up, where one takes tens of seconds.

        Cold rows have one, because their arguments lie in thousands of places anyway. So have networks with other
        activations: their figure is the ratio to ReLU, and a pass of them all takes minutes.
        """
        if any(case.quantity == "cold" or (case.kind == "step" and self.baselines) for case in self.rows):
            return 1
        is_slow = any(case.kind == "step" or case.axes.get("elements", 0) >= SLOW_ELEMENTS for case in self.rows)
        return -(-most // 2) if is_slow else most


def of(cases: Iterable[Case], with_roofs: bool = True) -> list[Block]:
    """The blocks of the cases that are timed in rounds; roofs that no block of rows holds have blocks of their own.

    with_roofs: add to rows the roofs of their traffic, and ReLU's rows that they are compared with.
    """
    timed = [case for case in cases if case.varies]
    rows: dict[tuple[str, str], list[Case]] = {}
    for case in timed:
        if case.kind not in ROOFS:
            rows.setdefault(_names(case), []).append(case)
    blocks = [
        Block(*names, tuple(members), _roofs(members), _baselines(members))
        if with_roofs
        else Block(*names, tuple(members), ())
        for names, members in rows.items()
    ]
    held = {case for block in blocks for case in block.roofs}
    alone: dict[tuple[str, str], list[Case]] = {}
    for case in timed:
        if case.kind in ROOFS and case not in held:
            alone.setdefault(_names(case), []).append(case)
    return blocks + [Block(*names, (), tuple(members)) for names, members in alone.items()]


def _names(case: Case) -> tuple[str, str]:
    """The sweep and the block of a case."""
    axes = {name: value for name, value in case.axes.items() if name not in ("variant", "kernel", "library", "threads")}
    sweep = "training" if isinstance(case, StepCase) else "roofs"
    if isinstance(case, StepCase) and NETWORKS[case.network].activation != BASELINE:
        axes["network"] = OTHERS
    if isinstance(case, OperatorCase):
        sweep = BASELINE if case.operator == BASELINE else OTHERS
        if case.operator != BASELINE and case.quantity == "time" and case.elements <= SHARED_ELEMENTS:
            axes["operator"] = sweep
    return sweep, "-".join(map(str, (case.kind, *axes.values(), case.quantity)))


def _baselines(rows: Sequence[Case]) -> tuple[Case, ...]:
    """ReLU's rows with the names of warm rows of other activations, as far as there are such."""
    baselines = [baseline(case) for case in rows if case.quantity == "time"]
    return tuple(dict.fromkeys(case for case in baselines if case))


def baseline(case: Case) -> Case | None:
    """The row of the same name of ReLU, or of the network with ReLU; None for ReLU itself, and where there is none."""
    if isinstance(case, StepCase):
        network = with_relu(NETWORKS[case.network])
        return replace(case, network=network.name) if network and network.name != case.network else None
    if not isinstance(case, OperatorCase) or case.operator == BASELINE:
        return None
    other = replace(case, operator=BASELINE)
    return other if _exists(other) else None


def _exists(case: OperatorCase) -> bool:
    try:
        return case.dtype in find(case.operator, case.direction, case.variant).dtypes
    except LookupError:
        return False


def _roofs(rows: Sequence[Case]) -> tuple[Case, ...]:
    """The roofs of rows of one block: streaming loops over arrays of their size, or matrix products."""
    if not isinstance(rows[0], OperatorCase):
        on_gpu = [_is_on_gpu(case) for case in rows]
        products: list[Case] = []
        if not all(on_gpu):
            products += [ProductCase("time", library, PRODUCT_ELEMENTS) for library in LIBRARIES]
        if any(on_gpu):
            products.append(DeviceProductCase("time", "torch", PRODUCT_ELEMENTS))
        return tuple(products)
    operator_rows = [row for row in rows if isinstance(row, OperatorCase)]
    array_bytes = rows[0].elements * ITEMSIZE_BYTES[rows[0].dtype]
    needed = {device: {name for row in operator_rows for name in _patterns(row, device)} for device in ("cpu", "cuda")}
    return (
        *(
            LoopCase("time", name, array_bytes)
            for name in loops(array_bytes)
            if LOOPS[name].pattern.name in needed["cpu"]
        ),
        *(
            DeviceLoopCase("time", name, array_bytes)
            for name, pattern in DEVICE_LOOPS.items()
            if pattern.name in needed["cuda"]
        ),
    )


def _is_on_gpu(case: Case) -> bool:
    try:
        return find_step(case.axes["variant"]).device == "cuda"
    except LookupError:
        return False


def loops(array_bytes: int) -> list[str]:
    """The names of the loops that rows may be compared with at a size: those that read."""
    return [
        name
        for name, loop in LOOPS.items()
        if loop.pattern.reads and (array_bytes >= LEAST_NONTEMPORAL_BYTES or not loop.pattern.nontemporal)
    ]


def _patterns(case: OperatorCase, device: str) -> set[str]:
    """The patterns that the required traffic of a row is composed of; none for a row of another device, and where this
    commit has no such row.
    """
    try:
        row = find(case.operator, case.direction, case.variant)
    except LookupError:
        return set()
    parts = parts_of(row.required_traffic, row.memory == "inplace", ITEMSIZE_BYTES[case.dtype])
    return set(parts) if row.device == device else set()
