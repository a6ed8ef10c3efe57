"""Measure, check and record a number.

case.py            the number to measure, one type for each kind, and the settings
measurement.py     the record of a measured case
asv_classes.py     asv's classes, made from the catalog
tracking.py        called by those classes: measure, record, return

In the process of asv:
processes/         plan.py        the processes that measure a case
                   isolation.py   a case in a process of its own, with a deadline
                   records.py     the record of every measured case; schema2.py reads older ones

In the measuring process:
processes/         child.py       its entry point
quantities/        dispatch.py    the row of a case, its framework, its quantity
                   operator_row.py, training_step.py   the quantities of a row
truth/             calls.py       the calls of a row and their checks
                   operators.py   inputs, calls and expected results by direction
                   comparison.py  special inputs, and the comparison; training.py that of a training step
timing/            sampler.py     warm-up, calibration, samples
                   contention.py  work on the other hyperthread of the core
roofline/          loops.py       streaming loops as data; streaming.py runs them
                   matmul.py      matrix products; ceilings.py measures both
machine/           linux.py, gpu.py, software.py   facts; provenance.py collects them
                   memory.py      whether a case fits; threads.py sets their number
frameworks/        base.py        the interface of drivers, one file each
"""
