"""What is measured: asv's classes. How it is measured is in `benchmarks.harness`.

Importing this package imports no framework; one process drives one framework.
"""
