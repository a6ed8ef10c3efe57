"""Measure, check and record a number.

case.py            the number to measure, one type for each kind, and the settings
measurement.py     the record of a measured case
asv_classes.py     asv's classes, made from the catalog; parameters.py their parameters; series.py their names
profiles.py        the cases of each profile; selection.py those of a run of plain asv
tracking.py        called by asv's classes: measure, record, return

In the process of asv:
processes/         plan.py        answers asv's cases, one by one, from what is measured together
                   blocks.py      the cases that are measured together
                   rounds.py      a pass over blocks: prepare, time in rounds, check again
                   pairs.py       passes over pairs from two installations, until each has a verdict
                   isolation.py   workers, each with a deadline for every request
                   journal.py     what is known of a block; answers.py its medians, intervals and ratios
                   records.py     the record of every measured case

In the measuring process:
processes/         worker.py      its entry point
quantities/        dispatch.py    what a case needs, and what measures it
                   operator_row.py, training_step.py   the quantities of a row
truth/             calls.py       the calls of a row and their checks
                   operators.py   inputs, calls and expected results by direction; shared.py shares them
                   comparison.py  special inputs, and the comparison; training.py that of a training step
timing/            sampler.py     the samples of a slice; intervals.py the interval of a median
                   verdicts.py    slower, faster or the same, from the ratios of passes
                   contention.py  work on the other hyperthread of the core
roofline/          loops.py       streaming loops as data; streaming.py runs them
                   matmul.py      matrix products; ceilings.py measures both
machine/           linux.py, gpu.py, software.py   facts; provenance.py collects them
                   memory.py      whether a case fits; threads.py sets their number
frameworks/        base.py        the interface of drivers, one file each
"""
