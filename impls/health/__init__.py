"""Find dead units, and watch activations while a network trains: for use in a training loop of one's own.

A unit is a channel of images or a feature of vectors. It is dead where its activation stayed at or below a threshold
for every sample and every pixel of a data set: behind ReLU it then gets no gradient, and does not learn.

torch_        `dead_units` and `ActivationMonitor` for any `torch.nn.Module` with modules like ReLU
jax_          `tag` activations in a function, `captured` returns them, `dead_units` counts over batches
handwritten   `dead_units` of the training steps in NumPy and Numba
states        `observed`: activations for the parameters of a training step, whichever framework trained them
units         what they return, and the counting itself; imports NumPy only
"""
