"""The rectified linear unit, y = max(x, 0), one file per framework.

What every file promises
------------------------
Arrays are the framework's own, of any shape, in a floating dtype.

===========  ==========================================  =======================================
operator     signature                                   result
===========  ==========================================  =======================================
forward      `f(x)`, `f(x, out)`, `f(x)` in place        y = max(x, 0)
backward     `b(grad, saved)`, `b(grad, saved, out)`,    grad where y > 0, else 0
             `b(grad, saved)` in place
roundtrip    `r(x) -> (y, backward)`                     y, and `backward(grad)` for its gradient
===========  ==========================================  =======================================

Memory modes: *fresh* allocates its result, *out* writes into the buffer given and returns it,
*in place* overwrites its first argument (the roundtrip: `x`, then `grad`) and returns it.

`saved` is what the forward pass kept: the `input` or the `output` (for both the gradient passes
where it is > 0), a `bool` mask of the same shape, or packed `bits`: that mask flattened, eight
elements a byte, the first in the lowest bit (`numpy.packbits(mask, bitorder="little")`).

NaN in gives NaN out, and the gradient at 0 is 0 (`reference.py` is the definition). Where a
framework or a form departs from it, its row in `impls.catalog` says so (`Semantics`), and a test
asserts the departure.

A buffer of another shape or dtype, one that is read-only, and one that overlaps an input only in
part are refused with an error that names the argument, before anything is written; where a lone
NumPy ufunc does the work, NumPy copies what overlaps and comes out right.
"""
