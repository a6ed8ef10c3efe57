"""ReLU, forward and backward, in several frameworks: the mathematics, with no measuring inside.

Importing this package imports no framework; `impls.catalog` lists every variant.
"""
