"""Dead units and activations of PyTorch modules.

    for name, units in dead_units(model, loader).items():
        print(name, units.dead)

    with ActivationMonitor(model) as monitor:
        for x, labels in loader:
            loss = criterion(model(x), labels)
            loss.backward()
            ...
    monitor.history.to_csv("activations.csv")

Both see modules, such as `nn.ReLU`, not functions such as `torch.relu`; and of a model that `torch.compile` has
compiled, nothing: give the model itself. A module that a forward pass calls several times appears as often: "relu",
"relu:2", "relu:3".
"""

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from impls.health.units import History, Record, Units, totals

RELU_LIKE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Hardswish, nn.Threshold,
)  # fmt: skip
# Steps whose backward pass may still come.
KEPT_STEPS = 8
Forward = Callable[[nn.Module, Any], Any]


def first_input(model: nn.Module, batch: Any) -> Any:
    """Call a model with a batch, or with its first element: data loaders give (input, label)."""
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


class Watch:
    """Calls a function with the name and the output of each module like ReLU, until it is closed.

    Raises ValueError for a model without such a module.
    """

    def __init__(
        self, model: nn.Module, see: Callable[[str, Tensor], None], kinds: tuple[type[nn.Module], ...] = RELU_LIKE
    ) -> None:
        self.see = see
        self.calls: dict[str, int] = {}
        watched = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
        if not watched:
            accepted = ", ".join(kind.__name__ for kind in kinds)
            raise ValueError(
                f"model: {type(model).__name__} has none of the modules {accepted}; functions are not seen"
            )
        self.handles: list[RemovableHandle] = [model.register_forward_pre_hook(self._start)]
        self.handles += [
            module.register_forward_hook(self._seen(name or type(module).__name__)) for name, module in watched.items()
        ]

    def _start(self, model: nn.Module, arguments: Any) -> None:
        self.calls = {}

    def _seen(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            self.calls[name] = number = self.calls.get(name, 0) + 1
            if isinstance(output, Tensor):
                self.see(name if number == 1 else f"{name}:{number}", output)

        return hook

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self.handles:
            handle.remove()


def dead_units(
    model: nn.Module,
    batches: Iterable[Any],
    threshold: float = 0.0,
    forward: Forward = first_input,
    unit_axis: int = 1,
) -> dict[str, Units]:
    """Count the active values of each unit behind modules like ReLU, over all batches.

    The model runs without gradients and in evaluation mode; afterwards each module has the mode that it had.
    forward(model, batch): runs the model. unit_axis: the axis of channels or features in activations; -1 for
    (n, positions, features).

    Raises ValueError where there is no batch, or no module like ReLU is called.
    """
    of_batch: dict[str, Units] = {}

    def see(name: str, output: Tensor) -> None:
        active = ~(output.detach() <= threshold).movedim(unit_axis, -1)
        samples = tuple(range(active.ndim - 1))
        found = Units(active.sum(samples).cpu().numpy(), prod(active.shape[:-1]))
        of_batch[name] = of_batch[name] + found if name in of_batch else found

    def layers() -> Iterable[dict[str, Units]]:
        for batch in batches:
            of_batch.clear()
            with torch.no_grad():
                forward(model, batch)
            yield dict(of_batch)

    modes = {module: module.training for module in model.modules()}
    watch = Watch(model, see)
    try:
        model.eval()
        return totals(layers())
    finally:
        watch.close()
        for module, training in modes.items():
            module.training = training


class ActivationMonitor:
    """Context manager that records what modules like ReLU output, and the gradients that they get.

    A call of the model is a step, also one without gradients; one of its `forward` or of a part of it is none. every:
    record each step, or every so many. history: the records. All hooks are removed at the end, also after an exception.
    Meanwhile the model must not be copied or pickled: hooks would go with it.

    Raises ValueError for a model without a module like ReLU, and RuntimeError where it watches already.
    """

    def __init__(self, model: nn.Module, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every: {every} given, a number of steps from 1 on needed")
        self.model, self.every, self.history = model, every, History()
        self.step = -1
        self._hooks = ExitStack()
        self._watches = False
        # By step and layer, until backward has called them.
        self._gradients: dict[tuple[int, str], RemovableHandle] = {}

    def __enter__(self) -> "ActivationMonitor":
        if self._watches:
            raise RuntimeError("the monitor watches already; make another one")
        self._hooks.callback(Watch(self.model, self._record).close)
        self._hooks.callback(self.model.register_forward_pre_hook(self._start).remove)
        self._hooks.callback(self._forget, sys.maxsize)
        self._watches = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.close()
        self._watches = False

    def _start(self, model: nn.Module, arguments: Any) -> None:
        self.step += 1
        # They had no backward pass.
        self._forget(self.step - KEPT_STEPS)

    def _forget(self, before: int) -> None:
        """Remove the hooks of gradients of the steps before this one."""
        for key in [key for key in self._gradients if key[0] < before]:
            self._gradients.pop(key).remove()

    def _record(self, name: str, output: Tensor) -> None:
        if self.step < 0 or self.step % self.every or not output.numel():
            return
        seen = output.detach().to(torch.promote_types(output.dtype, torch.float32))
        numbers = torch.stack([seen.mean(), seen.std(correction=0), (seen <= 0).to(seen.dtype).mean(), seen.max()])
        record = Record(self.step, name, *numbers.tolist())
        self.history.records.append(record)
        key = self.step, name

        def gradient(grad: Tensor) -> None:
            record.gradient_norm = float(grad.to(seen.dtype).norm())
            if handle := self._gradients.pop(key, None):
                handle.remove()

        if output.requires_grad:
            self._gradients[key] = output.register_hook(gradient)
