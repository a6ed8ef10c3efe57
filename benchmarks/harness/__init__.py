"""How a number is measured, checked and recorded.

The way of a number, file by file:

    case.py        what to measure, and under which settings
    bundles.py     which processes measure a case
    isolation.py   runs cases in a process of its own, with a deadline; every ending is an outcome
    child.py       the entry point of that process
    measuring.py   in that process: driver, inputs, truth, then the quantity asked for, then truth again
    bench.py       there: the arrays of a variant, and the checks of its calls
    ceilings.py    there: what the machine can do, for which the best sample counts
    operators.py   per operator: its inputs, its call and its reference
    truth.py       compares with the float64 reference
    sampler.py     warm-up, calibration, samples
    core.py        whether the core has all of its speed meanwhile
    threads.py     sets the thread count, and reads back what was got
    frameworks/    how to drive each framework
    memory.py      whether a case fits
    kernels.py     the loops that tell what the memory of this machine can do, as data
    roofs.py       those loops in Numba
    gemm.py        what its arithmetic can do, by each library
    outcomes.py    the record of every ending, one JSON line each
    provenance.py  the machine and the software, and the fingerprint of what makes them fast
    machine.py     what Linux tells of the machine
    gpu.py         what NVIDIA's driver tells of a GPU: clocks, power, and what slows it
    software.py    what the software tells of itself
    tracking.py    the one function that asv's classes call
"""
