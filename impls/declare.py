"""Declare rows: traits of a framework once, of a flavour once, memory modes as keywords.

    NUMPY = Framework("relu", "numpy", "impls.relu.numpy_", notes="one thread", threaded=False)
    PLAIN = NUMPY.flavour("numpy")
    ROWS = (*PLAIN.forward("one ufunc", fresh="forward", out="forward_out", inplace="forward_inplace"),)

makes three rows, numpy.fresh, numpy.out and numpy.inplace, with the notes "one thread; one ufunc". A keyword that a
flavour or a direction does not give is its framework's. Importing this module imports no framework.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from impls.variant import (
    DTYPES,
    MEMORY_MODES,
    Device,
    Direction,
    Saved,
    Semantics,
    Size,
    Traffic,
    Variant,
)

Rows = tuple[Variant, ...]
NO_SIZE, NO_TRAFFIC, EXACT = Size(), Traffic(), Semantics()


@dataclass(frozen=True)
class Flavour:
    """One way to implement an operator in a framework; its methods return the rows of one direction.

    notes: begins the notes of each row. The other fields are those of a `Variant`.

    Each method takes the rest of the notes, a function name for each memory mode that exists, and any field of
    `Variant` in which these rows differ.
    """

    operator: str
    framework: str
    module: str
    name: str
    notes: str
    dtypes: tuple[str, ...]
    device: Device
    threaded: bool
    compiled: bool
    semantics: Semantics
    tolerance_ulps: float
    needs: str | None

    def forward(self, notes: str = "", **rows: Any) -> Rows:
        """Rows of the forward pass."""
        return self._rows("forward", "none", notes, **rows)

    def backward(self, saved: Saved, notes: str = "", **rows: Any) -> Rows:
        """Rows of the backward pass from a saved value."""
        return self._rows("backward", saved, notes, **rows)

    def roundtrip(self, saved: Saved, notes: str = "", **rows: Any) -> Rows:
        """Rows of both passes, with a value saved between them."""
        return self._rows("roundtrip", saved, notes, **rows)

    def _rows(
        self,
        direction: Direction,
        saved: Saved,
        notes: str,
        *,
        fresh: str | None = None,
        out: str | None = None,
        inplace: str | None = None,
        temporary: Size = NO_SIZE,
        extra_traffic: Traffic = NO_TRAFFIC,
        nontemporal: bool = False,
        extra_saved: Size = NO_SIZE,
        semantics: Semantics | None = None,
        tolerance_ulps: float | None = None,
        autograd: bool = False,
    ) -> Rows:
        functions = zip(MEMORY_MODES, (fresh, out, inplace), strict=True)
        return tuple(
            Variant(
                operator=self.operator,
                direction=direction,
                flavour=self.name,
                memory=memory,
                framework=self.framework,
                function=f"{self.module}:{function}",
                notes="; ".join(filter(None, (self.notes, notes))),
                device=self.device,
                dtypes=self.dtypes,
                needs=self.needs,
                threaded=self.threaded,
                compiled=self.compiled,
                saved_for_backward=saved,
                temporary=temporary,
                extra_traffic=extra_traffic,
                nontemporal=nontemporal,
                extra_saved=extra_saved,
                semantics=self.semantics if semantics is None else semantics,
                tolerance_ulps=self.tolerance_ulps if tolerance_ulps is None else tolerance_ulps,
                autograd=autograd,
            )
            for memory, function in functions
            if function
        )


@dataclass(frozen=True)
class Framework:
    """Traits that the rows of an operator in one framework share.

    name: also the name of its driver (`benchmarks/harness/frameworks`). module: its functions.
    notes: begins the notes of each row, unless a flavour has others.
    The other fields are those of a `Variant`.
    """

    operator: str
    name: str
    module: str
    notes: str = ""
    dtypes: tuple[str, ...] = DTYPES
    device: Device = "cpu"
    threaded: bool = True
    compiled: bool = False
    semantics: Semantics = EXACT
    tolerance_ulps: float = 0

    def flavour(
        self,
        name: str,
        notes: str | None = None,
        *,
        threaded: bool | None = None,
        compiled: bool | None = None,
        needs: str | None = None,
    ) -> Flavour:
        """A flavour with the traits of this framework, and those given."""
        return Flavour(
            operator=self.operator,
            framework=self.name,
            module=self.module,
            name=name,
            notes=self.notes if notes is None else notes,
            dtypes=self.dtypes,
            device=self.device,
            threaded=self.threaded if threaded is None else threaded,
            compiled=self.compiled if compiled is None else compiled,
            semantics=self.semantics,
            tolerance_ulps=self.tolerance_ulps,
            needs=needs,
        )


def on_cuda(rows: Iterable[Variant]) -> Rows:
    """The same functions on CUDA: `-cuda` ends their flavour, and the host runs one thread."""
    return tuple(replace(row, flavour=f"{row.flavour}-cuda", device="cuda", threaded=False) for row in rows)
