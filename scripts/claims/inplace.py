"""ReLU in place saves memory: in PyTorch's eager mode, of mnist_cnn."""

from collections.abc import Callable
from typing import Any

from scripts.claims.claim import Claim
from scripts.claims.document import Panel, Result, result
from scripts.claims.figures import above, exact
from scripts.claims.pictures import curve

NETWORK, BATCH = "mnist_cnn", 64
# Names of torch's modes, and of what is measured in both.
MODES = {"fresh": "fresh", "inplace": "in place"}
MEASURES = ("one ReLU alone", "forward pass without gradients", "kept for backward", "peak of a training step")
FIRST = "the first convolution alone"
TICKS = ["one ReLU", "forward", "kept", "step"]
MEBIBYTE = 2**20


def experiment(seeds: int) -> Result:
    """Count bytes of PyTorch's allocator with ReLU fresh and in place, in parts of a training step and in all of it."""
    measured = {mode: measured_bytes(mode) for mode in MODES}
    figures = [
        exact(f"{name}, ReLU {word}", measured[mode][name], "bytes")
        for name in MEASURES
        for mode, word in MODES.items()
    ]
    saved = [exact(f"{name}: saved", measured["fresh"][name] - measured["inplace"][name], "bytes") for name in MEASURES]
    bars = [
        curve(f"ReLU {word}", range(len(MEASURES)), [measured[mode][name] / MEBIBYTE for name in MEASURES], "bars")
        for mode, word in MODES.items()
    ]
    kept = "its result and not its input" if relu_keeps_its_result() else "its input"
    return result(
        [*figures, exact(f"{FIRST}: peak", measured["fresh"][FIRST], "bytes"), *saved],
        [above(each, 0) for each in saved],
        [Panel(f"{NETWORK}, batch {BATCH}", "", "MiB", bars, ticks=TICKS)],
        f"For backward, torch.relu keeps {kept} (its result since PyTorch 1.10, pull request 63089), which the next "
        "layer keeps anyway: in place, there is nothing less to keep. The peak without gradients is that of the first "
        "convolution, which needs as much again as its result.",
    )


def relu_keeps_its_result() -> bool:
    """Return whether autograd keeps the result of relu, and nothing else, for its backward pass."""
    import torch

    kept: list[int] = []

    def keep(tensor: Any) -> Any:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    x = torch.ones(8, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = torch.relu(x)
    return kept == [y.untyped_storage().data_ptr()]


def measured_bytes(relu: str) -> dict[str, int]:
    """Bytes by measure, for ReLU "fresh" or "inplace".

    Each is the peak of what is allocated during a call above what was live before, its result included; but
    "kept for backward" is the sum of all distinct storages that autograd saves, without parameters.
    """
    import torch

    from benchmarks.harness.frameworks.torch_ import DRIVER

    step, given = _step(relu)
    images, _, masks = given

    def peak_bytes(function: Callable[[Any], Any], argument: Any) -> int:
        with torch.no_grad():
            return DRIVER.transient_bytes(function, function, lambda: [argument.clone()])

    with torch.no_grad():
        convolved = step.net.conv1(images)
    peaks = (
        peak_bytes(step.net.activation, convolved),
        peak_bytes(lambda x: step.net(x, masks), images),
        DRIVER.step_saved_bytes(step, given),
        DRIVER.step_peak_bytes(lambda: _step(relu)),
    )
    return {**dict(zip(MEASURES, peaks, strict=True)), FIRST: peak_bytes(step.net.conv1, images)}


def _step(relu: str) -> tuple[Any, Any]:
    """A step in eager mode, and its batch."""
    from impls.cnn import torch_
    from impls.cnn.networks import NETWORKS, initial_parameters, random_batch

    network = NETWORKS[NETWORK]
    step = torch_.build(network, initial_parameters(network), BATCH, "float32", relu)
    return step, step.put(random_batch(network, BATCH))


CLAIM = Claim(
    "inplace",
    "ReLU in place saves memory",
    "In-place operation (saves memory, but cannot be used if input is needed later): "
    "relu_inplace = nn.ReLU(inplace=True).",
    "Note 002, “PyTorch implementation”.",
    experiment,
    seeds=0,
    quick_seeds=0,
)
