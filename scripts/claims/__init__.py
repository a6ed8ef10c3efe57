"""Measure what four tutorials on ReLU claim, and compute their examples.

python -m scripts.claims            the claims, each in its words, with figures, 95 % intervals and a verdict
python -m scripts.claims.examples   the examples that the tutorials work out, in every framework

The tutorials are called notes here: 000 "ReLU (Rectified Linear Unit)" explains why networks need it, 001 "Key Notes"
is a summary with a plot, 002 "ReLU (Rectified Linear Unit), Overview" treats initialisation and dead neurons with
PyTorch, 003 "ReLU Activation Function" works out a neuron and a network of two hidden nodes.

A claim is a file with CLAIM; `registry` lists them. `document` is what both commands write and the report reads.
"""
