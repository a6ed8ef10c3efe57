"""Activations besides ReLU: one file per framework, with a formula for each activation and loops that all share.

The interface is that of `impls.relu`. `reference.py` defines the functions, `rows.py` declares the rows of all
frameworks from a line of data for each activation, and `errors.py` their tolerances.

To add one: a `Reference`, a formula in each framework's file, an `Activation` in `rows.py`, and its `Errors`.
"""
