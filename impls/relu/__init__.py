"""The rectified linear unit, y = max(x, 0), in one file per framework.

Interface of every file
-----------------------
Arrays are the framework's own, of any shape, with a floating dtype.

===========  ==========================================  =======================================
operator     signature                                   result
===========  ==========================================  =======================================
forward      `f(x)`, `f(x, out)`, `f(x)` in place        y = max(x, 0)
backward     `b(grad, saved)`, `b(grad, saved, out)`,    grad where y > 0, else 0
             `b(grad, saved)` in place
roundtrip    `r(x) -> (y, backward)`                     y; `backward(grad)` returns its gradient
===========  ==========================================  =======================================

Memory modes: *fresh* allocates the result, *out* writes it into the given buffer and returns that buffer, *in place*
overwrites the first argument (in a roundtrip: `x`, then `grad`) and returns it.

`saved` is the tensor kept by the forward pass: its `input` or `output` (either passes the gradient where it is > 0), a
`bool` mask of the same shape, or packed `bits`: the flattened mask, eight elements a byte, the first in the lowest bit
(`numpy.packbits(mask, bitorder="little")`).

NaN inputs give NaN, and the gradient at 0 is 0 (`reference.py` is the definition). Where an implementation departs from
that, its row in `impls.catalog` says so (`Semantics`), and a test asserts the departure.

Every function refuses a buffer of another shape or dtype, a read-only buffer, and a buffer that overlaps an input in
part. The error names the argument and is raised before anything is written. Where the work is a single NumPy ufunc,
NumPy copies overlapping inputs first, and the result is correct.
"""
