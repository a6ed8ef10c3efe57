"""Rows of a package of its own: the example of how a package adds rows (see impls/README.md)."""

from impls.declare import Framework

NUMPY = Framework("relu", "numpy", "acme_kernels.relu", dtypes=("float32",), threaded=False)
ROWS = NUMPY.flavour("fast", "one thread").forward("fmax", out="forward_out")
