"""ReLU forward, backward and round trip, over the rows of the catalog.

Time with warm and with cold caches and over the number of threads, first call, and memory: Forward, ForwardCold,
ForwardScaling, ForwardFirstCall, and the same of Backward and Roundtrip.
"""

from benchmarks.harness.asv_classes import of_operator

# asv takes classes by name from the module.
globals().update(of_operator("relu", __name__))
