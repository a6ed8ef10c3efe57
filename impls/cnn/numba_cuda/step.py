"""The kernels of a step, its memory, and the order in which the kernels run. Read this file of the package first."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numba import cuda

from impls import cuda_vectors
from impls.cnn import operations, unmarked
from impls.cnn.architecture import Network, blocks, layers
from impls.cnn.networks import LEARNING_RATE, MOMENTUM, Array, Batch, initial_statistics, require, require_batch
from impls.cnn.numba_cuda.convolution import Convolution
from impls.cnn.numba_cuda.dense import Dense, average, cross_entropy
from impls.cnn.numba_cuda.norm import Norm
from impls.cnn.numba_cuda.parts import sum_of_parts
from impls.cnn.numba_cuda.products import RESIDENT, WINDOW, Kernel, Launch, Maker, padded
from impls.cnn.reference import State
from impls.relu.numba_cuda import multiprocessors


def _update(make: Maker, name: str, size: int, splits: int) -> Kernel:
    """Make the kernel that sums the parts of a gradient and updates (velocities, parameters); all padded."""
    kind, element, accesses = np.dtype(make.dtype).type, make.element, make.accesses
    momentum, rate = kind(MOMENTUM), kind(LEARNING_RATE)

    @cuda.jit(device=True)
    def finish(gradient, arrays, item):
        velocities, parameters = arrays
        velocity, parameter = cuda.local.array(WINDOW, element), cuda.local.array(WINDOW, element)
        for k in range(accesses):
            cuda_vectors.load(velocity, k, velocities, item * accesses + k)
            cuda_vectors.load(parameter, k, parameters, item * accesses + k)
        for i in range(WINDOW):
            velocity[i] = momentum * velocity[i] + gradient[i]
            parameter[i] -= rate * velocity[i]
        for k in range(accesses):
            cuda_vectors.store(velocities, item * accesses + k, velocity, k)
            cuda_vectors.store(parameters, item * accesses + k, parameter, k)

    return sum_of_parts(make, f"{name}.update", size, splits, finish, 2)


def device_launch() -> Launch:
    """Return how kernels are launched on the current device."""
    return Launch(blocks=RESIDENT * multiprocessors())


class Kernels:
    """The kernels of a step on n images, independent of its memory. They are compiled at their first call."""

    def __init__(self, network: Network, n: int, dtype: str, relu: bool, launch: Launch) -> None:
        make = Maker(dtype, launch)
        sized, dense = blocks(network), layers(network)
        self.convs = [Convolution(make, number, block, n, relu) for number, block in enumerate(sized, 1)]
        self.norms = [
            Norm(make, number, block, n, relu) if block.conv.norm else None for number, block in enumerate(sized, 1)
        ]
        height, width, channels = sized[-1].output
        self.average = average(make, n, height * width, channels, relu) if network.average else None
        self.dense = [
            Dense(make, number, layer, n, relu, gated=number > 1 or not network.average, dropped=number > 1)
            for number, layer in enumerate(dense, 1)
        ]
        self.loss = cross_entropy(make, n, network.classes, self.dense[-1].splits)
        # Parts of each gradient. That of a norm is summed before the update; a dense layer sums over the images only.
        self.splits = {conv.name: conv.splits for conv in self.convs}
        self.splits |= {norm.name: 1 for norm in self.norms if norm} | {layer.name: 1 for layer in self.dense}
        learned = operations.parameters(network)
        self.groups = {group: [p for p in learned if p.operation.name == group] for group in self.splits}
        self.sizes = {group: sum(prod(p.shape) for p in members) for group, members in self.groups.items()}
        self.updates = {group: _update(make, group, self.sizes[group], self.splits[group]) for group in self.splits}

    def listed(self) -> list[Kernel]:
        """Return every kernel that a step launches."""
        kernels = [self.loss, *self.updates.values(), *(self.average or ())]
        for owner in (*self.convs, *filter(None, self.norms), *self.dense):
            kernels += [member for member in vars(owner).values() if isinstance(member, Kernel)]
        return kernels


@dataclass(frozen=True)
class Loss:
    """The loss of a call of a step, on the device until `float` copies it, which waits for the device.

    The next call overwrites it; `float` raises RuntimeError from then on.
    """

    step: "Step"
    call: int

    def __float__(self) -> float:
        if self.step.calls != self.call:
            raise RuntimeError(
                f"loss of call {self.call}: call {self.step.calls} has overwritten it; use float() before"
            )
        return float(self.step.loss.copy_to_host()[0])


class Step:
    """A step on the current device (`impls.cnn`). launch: `device_launch` by default."""

    def __init__(
        self,
        network: Network,
        parameters: dict[str, Array],
        n: int,
        dtype: str,
        relu: str,
        launch: Launch | None = None,
    ) -> None:
        require(network, parameters, n, dtype, relu, ("inplace", "none"))
        self.network, self.n, self.dtype = network, n, np.dtype(dtype)
        self.kernels = Kernels(network, n, dtype, relu != "none", launch or device_launch())
        self.parameters = {group: self._grouped(group, parameters) for group in self.kernels.sizes}
        zeros = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.velocities = {group: self._grouped(group, zeros) for group in self.kernels.sizes}
        splits = self.kernels.splits | {norm.name: norm.splits for norm in self.kernels.norms if norm}
        self.parts = {
            # Zeros: the padding of a part is summed with it.
            group: cuda.to_device(np.zeros(count * padded(self.kernels.sizes[group]), dtype))
            for group, count in splits.items()
        }
        self.statistics = {
            name: cuda.to_device(value.astype(dtype)) for name, value in initial_statistics(network).items()
        }
        self._allocate()
        self.given: Any = None
        self.calls = 0

    def _allocate(self) -> None:
        """Allocate the arrays that a step writes.

        inputs: inputs of the dense layers; the first is the last block's output, or its average.
        """
        n, sized = self.n, blocks(self.network)
        self.outputs = [self._empty(n * prod(block.output)) for block in sized]
        self.output_grads = [self._empty(n * prod(block.output)) for block in sized]
        self.winners = [
            cuda.device_array(n * prod(block.output) if block.conv.pool else 1, np.uint8) for block in sized
        ]
        norms = [block.conv.filters if block.conv.norm else 0 for block in sized]
        self.convolved = [self._empty(n * prod(b.used) if f else 0) for b, f in zip(sized, norms, strict=True)]
        self.kept = [self._empty(padded(2 * filters)) for filters in norms]
        self.totals = [self._empty(padded(2 * filters)) for filters in norms]
        # The gradient of each group, in parts; that of a norm is the totals of its backward pass.
        totals = {norm.name: total for norm, total in zip(self.kernels.norms, self.totals, strict=True) if norm}
        self.gradients = self.parts | totals
        dense = layers(self.network)
        self.scores = [
            self._empty(kernels.splits * padded(n * layer.units))
            for kernels, layer in zip(self.kernels.dense, dense, strict=True)
        ]
        first = self._empty(n * dense[0].inputs) if self.network.average else self.outputs[-1]
        self.inputs = [first, *(self._empty(n * layer.units) for layer in dense if layer.hidden)]
        first_grad = self._empty(n * dense[0].inputs) if self.network.average else self.output_grads[-1]
        self.input_grads = [first_grad, *(self._empty(n * layer.units) for layer in dense if layer.hidden)]
        self.logits_grad, self.loss = self._empty(n * self.network.classes), self._empty(1)

    def _empty(self, size: int) -> Any:
        return cuda.device_array(size, self.dtype)

    def _grouped(self, group: str, values: dict[str, Array]) -> Any:
        """Return a layer's arrays concatenated on the device, padded."""
        whole = np.zeros(padded(self.kernels.sizes[group]), self.dtype)
        flat = np.concatenate([values[parameter.name].ravel() for parameter in self.kernels.groups[group]])
        whole[: flat.size] = flat
        return cuda.to_device(whole)

    def put(self, batch: Batch) -> Any:
        require_batch(self.network, self.n, batch)
        masks = [cuda.to_device(mask.ravel().astype(self.dtype)) for mask in batch.masks]
        images = cuda.to_device(batch.images.ravel().astype(self.dtype))
        return images, cuda.to_device(batch.labels.astype(np.int64)), masks

    def __call__(self, given: Any, mark: Callable[[str], None] = unmarked) -> Loss:
        self.launch(given, mark)
        return self._called()

    def _called(self) -> Loss:
        self.calls += 1
        return Loss(self, self.calls)

    def launch(self, given: Any, mark: Callable[[str], None] = unmarked) -> None:
        """Launch every kernel of a step."""
        self.forward(given)
        mark("forward")
        self.kernels.loss(self.scores[-1], given[1], self.logits_grad, self.loss)
        mark("loss")
        self.backward(given)
        mark("backward")
        for group, update in self.kernels.updates.items():
            update(self.gradients[group], (self.velocities[group], self.parameters[group]))
        mark("update")

    def forward(self, given: Any) -> None:
        """Run the forward pass up to the parts of the logits."""
        self.given, (image, _, masks) = given, given
        for i, (conv, norm) in enumerate(zip(self.kernels.convs, self.kernels.norms, strict=True)):
            weight, output = self.parameters[conv.name], self.outputs[i]
            if norm:
                conv.forward((image,), (weight,), (self.convolved[i],))
                self._normalise(i, norm)
            else:
                outputs = (output, self.winners[i]) if conv.block.conv.pool else (output,)
                conv.forward((image,), (weight,), outputs)
            image = output
        if self.kernels.average:
            self.kernels.average[0](image, self.inputs[0])
        for i, dense in enumerate(self.kernels.dense):
            dense.forward((self.inputs[i],), (self.parameters[dense.name],), (self.scores[i],))
            if dense.rectify:
                dense.rectify(self.scores[i], masks[i], self.inputs[i + 1])

    def _normalise(self, i: int, norm: Norm) -> None:
        convolved, kept, parts, totals = (self.convolved[i],), (self.kept[i],), self.parts[norm.name], self.totals[i]
        mean, variance = (self.statistics[f"{norm.name}.{name}"] for name in ("mean", "variance"))
        norm.moments(convolved, convolved, (mean,), parts)
        norm.totals(parts, (totals,))
        norm.statistics(totals, self.kept[i], mean, variance)
        norm.forward(convolved, kept, (self.parameters[norm.name],), self.outputs[i], self.winners[i])

    def backward(self, given: Any) -> None:
        """Run the backward pass up to the parts of all gradients."""
        image, _, masks = given
        grad = self.logits_grad
        for i, dense in reversed(list(enumerate(self.kernels.dense))):
            x, x_grad = self.inputs[i], self.input_grads[i]
            dense.by_weight((x,), (grad,), (self.parts[dense.name],))
            outputs = (x_grad, x, masks[i - 1]) if i else (x_grad, x)
            dense.by_input((grad,), (self.parameters[dense.name],), outputs)
            grad = x_grad
        if self.kernels.average:
            self.kernels.average[1](grad, self.outputs[-1], self.output_grads[-1])
        for i, (conv, norm) in reversed(list(enumerate(zip(self.kernels.convs, self.kernels.norms, strict=True)))):
            pooled = conv.block.conv.pool
            grads = (self.output_grads[i], self.winners[i]) if pooled else (self.output_grads[i],)
            if norm:
                grads = self._normalise_backward(i, norm, grads)
            before = self.outputs[i - 1] if i else image
            conv.by_weight((before,), grads, (self.parts[conv.name],))
            if conv.by_image:
                conv.by_image(grads, (self.parameters[conv.name],), (self.output_grads[i - 1], before))

    def _normalise_backward(self, i: int, norm: Norm, grads: Any) -> Any:
        convolved, kept, parts, totals = (self.convolved[i],), (self.kept[i],), self.parts[norm.name], (self.totals[i],)
        norm.sums(convolved, grads, kept, parts)
        norm.totals(parts, totals)
        norm.backward(convolved, grads, kept, (self.parameters[norm.name],), totals)
        return convolved

    def state(self) -> State:
        statistics = {name: value.copy_to_host() for name, value in self.statistics.items()}
        return State(self._named(self.parameters), self._named(self.velocities), statistics)

    def _named(self, groups: dict[str, Any]) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        for group, array in groups.items():
            whole, start = array.copy_to_host(), 0
            for parameter in self.kernels.groups[group]:
                end = start + prod(parameter.shape)
                arrays[parameter.name] = whole[start:end].reshape(parameter.shape).copy()
                start = end
        return {parameter.name: arrays[parameter.name] for parameter in operations.parameters(self.network)}

    def saved(self) -> list[Any]:
        """Return the arrays that the backward pass reads of the forward pass and its input, without parameters."""
        norms = [self.statistics.get(f"norm{number}.mean") for number in range(1, len(self.kept) + 1)]
        kept = [array for array in self.convolved if array.size]
        kept += [array[: 2 * norm.size] for array, norm in zip(self.kept, norms, strict=True) if norm is not None]
        winners = [w for w, conv in zip(self.winners, self.kernels.convs, strict=True) if conv.block.conv.pool]
        inputs = self.inputs if self.network.average else self.inputs[1:]
        return [self.given[0], *self.outputs, *winners, *kept, *inputs, *self.given[2]]
