"""A training step of each convolutional network, over the rows of the catalog and batch sizes."""

from benchmarks.harness.asv_classes import of_network
from impls.cnn.architecture import NETWORKS

# asv takes classes by name from the module.
globals().update({cls.__name__: cls for cls in (of_network(network, __name__) for network in NETWORKS)})
