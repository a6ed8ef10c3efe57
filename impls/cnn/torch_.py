"""A training step in PyTorch: a module, autograd and SGD.

build                 eager, images in the default layout (n, channels, height, width)
build_channels_last   eager, the same shapes with channels innermost in memory
build_compile         `torch.compile` of forward pass and loss; autograd derives the backward pass
build_*cuda           the same on CUDA

On CUDA alone; the argument `device` is for tests:

build_bfloat16        autocast: products and activations in bfloat16, parameters and updates in float32
build_float16         the same in float16; GradScaler multiplies the loss, so that gradients do not vanish
build_tf32            products of float32 with factors rounded to TF32
build_graph           a whole eager step captured in a CUDA graph, which a call replays
build_max_autotune    `torch.compile(mode="max-autotune")` of forward pass and loss with their backward pass, and of the
                      update; on CUDA it replays CUDA graphs

In-place ReLU is valid after a convolution, a batch norm and a dense layer: none of them saves its output. Other
activations write to new memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from impls.activations.constants import LEAKY_SLOPE
from impls.cnn import operations, unmarked
from impls.cnn.architecture import KERNEL, RELU, Network, blocks, layers
from impls.cnn.networks import (
    LEARNING_RATE,
    MOMENTUM,
    NORM_EPSILON,
    NORM_MOMENTUM,
    Array,
    Batch,
    random_batch,
    require,
    require_batch,
)
from impls.cnn.operations import Variable
from impls.cnn.reference import State

# torch's attributes for the kinds of a norm's parameters and statistics; other kinds have the same name.
NORM_ATTRIBUTES = {"scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var"}
# A power of two above float16's smallest gradients and far below its largest. It never grows: GradScaler finds the
# largest scale by leaving out updates.
LOSS_SCALE, NEVER = 2.0**12, 2**31 - 1
# Eager steps before a capture: libraries choose and allocate in the first ones.
WARM_UP_STEPS = 3
# Activations besides ReLU.
MODULES: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": partial(nn.LeakyReLU, LEAKY_SLOPE),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def build(network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, device: str = "cpu") -> "Step":
    return Step(network, parameters, n, dtype, relu, torch.contiguous_format, device)


def build_channels_last(
    network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, device: str = "cpu"
) -> "Step":
    return Step(network, parameters, n, dtype, relu, torch.channels_last, device)


def build_compile(
    network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, device: str = "cpu"
) -> "Step":
    step = Step(network, parameters, n, dtype, relu, torch.contiguous_format, device)
    compiled = torch.compile(step.net.loss)

    def loss_of(images: Tensor, labels: Tensor, masks: list[Tensor], mark: Callable[[str], None]) -> Tensor:
        loss = compiled(images, labels, masks)
        # The compiled program includes the loss.
        mark("forward")
        return loss

    step.loss_of = loss_of
    return step


build_cuda, build_channels_last_cuda, build_compile_cuda = (
    partial(builder, device="cuda") for builder in (build, build_channels_last, build_compile)
)


def build_bfloat16(
    network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, device: str = "cuda"
) -> "Step":
    step = Step(network, parameters, n, dtype, relu, torch.channels_last, device)
    step.loss_of = torch.autocast(device, torch.bfloat16)(step.net.loss)
    return step


def build_float16(
    network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, device: str = "cuda"
) -> "ScaledStep":
    step = ScaledStep(network, parameters, n, dtype, relu, torch.channels_last, device)
    step.loss_of = torch.autocast(device, torch.float16)(step.net.loss)
    return step


def build_tf32(
    network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, device: str = "cuda"
) -> "TF32Step":
    return TF32Step(network, parameters, n, dtype, relu, torch.channels_last, device)


def build_graph(
    network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, device: str = "cuda"
) -> "GraphStep":
    return GraphStep(network, parameters, n, dtype, relu, torch.contiguous_format, device)


def build_max_autotune(
    network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str, device: str = "cuda"
) -> "AutotunedStep":
    return AutotunedStep(network, parameters, n, dtype, relu, torch.contiguous_format, device)


class Net(nn.Module):
    """The network as a module. Its children have the names of the `operations`."""

    def __init__(self, network: Network, relu: str) -> None:
        super().__init__()
        self.network = network
        self.activation = _activation(network, relu)
        self.pool = nn.MaxPool2d(2)
        for number, block in enumerate(blocks(network), 1):
            conv = block.conv
            bias = not conv.norm
            self.add_module(
                f"conv{number}", nn.Conv2d(block.image[-1], conv.filters, KERNEL, padding=conv.padding, bias=bias)
            )
            if conv.norm:
                self.add_module(f"norm{number}", nn.BatchNorm2d(conv.filters, NORM_EPSILON, NORM_MOMENTUM))
        for number, layer in enumerate(layers(network), 1):
            self.add_module(f"dense{number}", nn.Linear(layer.inputs, layer.units))

    def forward(self, images: Tensor, masks: list[Tensor]) -> Tensor:
        y = images
        for number, block in enumerate(blocks(self.network), 1):
            y = self.get_submodule(f"conv{number}")(y)
            if block.conv.norm:
                y = self.get_submodule(f"norm{number}")(y)
            y = self.activation(y)
            if block.conv.pool:
                y = self.pool(y)
        y = y.mean((2, 3)) if self.network.average else y.flatten(1)
        for number, layer in enumerate(layers(self.network), 1):
            y = self.get_submodule(f"dense{number}")(y)
            if layer.hidden:
                # Dropout with a given mask.
                y = self.activation(y) * masks[number - 1]
        return y

    def loss(
        self, images: Tensor, labels: Tensor, masks: list[Tensor], mark: Callable[[str], None] = unmarked
    ) -> Tensor:
        scores = self(images, masks)
        mark("forward")
        loss = nn.functional.cross_entropy(scores, labels)
        mark("loss")
        return loss


def _activation(network: Network, relu: str) -> nn.Module:
    if relu == "none":
        return nn.Identity()
    return nn.ReLU(inplace=relu == "inplace") if network.activation == RELU else MODULES[network.activation]()


class Step:
    """A step on a device (`impls.cnn`): forward, loss, backward, update."""

    def __init__(
        self,
        network: Network,
        parameters: dict[str, Array],
        n: int,
        dtype: str,
        relu: str,
        layout: torch.memory_format,
        device: str,
    ) -> None:
        require(network, parameters, n, dtype, relu)
        self.network, self.n, self.dtype, self.layout = network, n, getattr(torch, dtype), layout
        self.device = device
        self.net = Net(network, relu).to(device, self.dtype)
        with torch.no_grad():
            for parameter in operations.parameters(network):
                value = _to_torch(parameter, parameters[parameter.name])
                self._tensor(parameter).copy_(torch.from_numpy(value))
        self.net = self.net.to(memory_format=layout)  # type: ignore[call-overload]
        self.loss_of: Callable[..., Tensor] = self.net.loss
        self.optimizer = torch.optim.SGD(self.net.parameters(), LEARNING_RATE, MOMENTUM, fused=True)

    def put(self, batch: Batch) -> Any:
        require_batch(self.network, self.n, batch)
        # Copy: from_numpy would alias the batch.
        images = torch.from_numpy(batch.images.transpose(0, 3, 1, 2).astype(np.float64))
        masks = [torch.from_numpy(mask.astype(np.float64)).to(self.device, self.dtype) for mask in batch.masks]
        labels = torch.from_numpy(batch.labels.astype(np.int64)).to(self.device)
        return images.to(self.device, self.dtype, memory_format=self.layout), labels, masks

    def __call__(self, given: Any, mark: Callable[[str], None] = unmarked) -> Tensor:
        loss = self.loss_of(*given, mark)
        self.backward(loss)
        mark("backward")
        self.update()
        mark("update")
        return loss.detach()

    def backward(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def update(self) -> None:
        self.optimizer.step()

    def state(self) -> State:
        learned, statistics = operations.parameters(self.network), operations.statistics(self.network)
        return State(
            {parameter.name: _from_torch(parameter, self._tensor(parameter)) for parameter in learned},
            {parameter.name: _from_torch(parameter, self._momentum(parameter)) for parameter in learned},
            {statistic.name: _from_torch(statistic, self._tensor(statistic)) for statistic in statistics},
        )

    def _tensor(self, variable: Variable) -> Tensor:
        module = self.net.get_submodule(variable.operation.name)
        return getattr(module, NORM_ATTRIBUTES.get(variable.kind, variable.kind))

    def _momentum(self, parameter: Variable) -> Tensor:
        tensor = self._tensor(parameter)
        return self.optimizer.state[tensor].get("momentum_buffer", torch.zeros_like(tensor))


class ScaledStep(Step):
    """A step that multiplies its loss by LOSS_SCALE before the backward pass, and divides the gradients by it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scaler = torch.amp.GradScaler(self.device, init_scale=LOSS_SCALE, growth_interval=NEVER)

    def backward(self, loss: Tensor) -> None:
        super().backward(self.scaler.scale(loss))

    def update(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


class TF32Step(Step):
    """A step whose products may round their factors to TF32; the process's settings are as before after each call."""

    def __call__(self, given: Any, mark: Callable[[str], None] = unmarked) -> Tensor:
        with _tf32():
            return super().__call__(given, mark)


@contextmanager
def _tf32() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


class GraphStep(Step):
    """A step captured in a CUDA graph, on a batch at fixed addresses, to which each call copies its own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        _start_velocities(self.optimizer)
        self.given = self.put(random_batch(self.network, self.n))
        self._warm_up()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = super().__call__(self.given)

    def _warm_up(self) -> None:
        """Make steps on a stream of their own, as capturing requires, and take back what they changed."""
        velocities = [state["momentum_buffer"] for state in self.optimizer.state.values()]
        changed = [*self.net.parameters(), *self.net.buffers(), *velocities]
        # On the host: they are no memory that training needs.
        before = [tensor.detach().to("cpu", copy=True) for tensor in changed]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                super().__call__(self.given)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.no_grad():
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
        self.optimizer.zero_grad(set_to_none=True)

    def __call__(self, given: Any, mark: Callable[[str], None] = unmarked) -> Tensor:
        images, labels, masks = given
        own_images, own_labels, own_masks = self.given
        for own, tensor in zip((own_images, own_labels, *own_masks), (images, labels, *masks), strict=True):
            own.copy_(tensor)
        self.graph.replay()
        # The next replay overwrites it.
        return self.loss.clone()


class AutotunedStep(Step):
    """A step in two compiled programs, forward to backward pass, and update, whose kernels are chosen by time."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        compiled = partial(torch.compile, mode="max-autotune")
        # A fused update is not compiled.
        self.optimizer = torch.optim.SGD(self.net.parameters(), LEARNING_RATE, MOMENTUM, foreach=True)
        _start_velocities(self.optimizer)
        self.loss_of, self.update = compiled(self.net.loss), compiled(self.optimizer.step)  # type: ignore[method-assign]

    def __call__(self, given: Any, mark: Callable[[str], None] = unmarked) -> Tensor:
        # Allows the graphs of this step to overwrite what those of the last one returned.
        torch.compiler.cudagraph_mark_step_begin()
        loss = self.loss_of(*given)
        self.backward(loss)
        self.update()
        return loss.detach().clone()


def _start_velocities(optimizer: torch.optim.Optimizer) -> None:
    """Make zero velocities: the optimizer would make them in the first step, in memory that belongs to a graph."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _to_torch(parameter: Variable, value: Array) -> Array:
    """Return a parameter in torch's layout: outputs first, channels before rows and columns."""
    if parameter.kind != "weight":
        return np.ascontiguousarray(value)
    if parameter.operation.kind == "conv":
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    image = parameter.operation.input.shape
    if len(image) == 3:
        # The layer's inputs are a flattened image: channels last here, channels first in torch.
        value = value.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(value.shape)
    return np.ascontiguousarray(value.T)


def _from_torch(variable: Variable, tensor: Tensor) -> Array:
    """Return a copy as a NumPy array in this package's layout, the inverse of `_to_torch`."""
    value = tensor.detach().cpu().numpy()
    if variable.kind != "weight":
        return np.array(value)
    if variable.operation.kind == "conv":
        return np.array(value.transpose(2, 3, 1, 0), order="C")
    value, image = value.T, variable.operation.input.shape
    if len(image) == 3:
        height, width, channels = image
        value = value.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(value.shape)
    return np.array(value)
