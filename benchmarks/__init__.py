"""The benchmarks, as classes of airspeed velocity (asv). The measurement itself is in `benchmarks.harness`.

Importing this package imports no framework; one process drives one framework.
"""
