"""ReLU, forward and backward, and training steps of ReLU networks, in several frameworks: no measuring inside.

`impls.catalog` has every row. Importing it, or this package, imports no framework.
"""
