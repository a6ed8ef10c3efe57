"""Driver of Triton: PyTorch tensors on CUDA, and PyTorch's allocator."""

import os

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks.torch_ import TorchDriver


class TritonDriver(TorchDriver):
    def environment(self, cache_dir: str | None) -> dict[str, str]:
        return {"TRITON_CACHE_DIR": cache_dir} if cache_dir else {}

    def start(self, device: str) -> None:
        if device != "cuda":
            raise Unavailable(f"Triton has no device {device!r}")
        if os.environ.get("TRITON_INTERPRET", "0") != "0":
            raise Unavailable("TRITON_INTERPRET is set: times of the interpreter are not device times; unset it")
        super().start(device)


DRIVER = TritonDriver()
