"""Driver of Numba on the CPU: NumPy arrays, compiled functions."""

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks.numpy_ import NumpyDriver


class NumbaDriver(NumpyDriver):
    def environment(self, cache_dir: str | None) -> dict[str, str]:
        return {"NUMBA_CACHE_DIR": cache_dir} if cache_dir else {}

    def start(self, device: str) -> None:
        if device != "cpu":
            raise Unavailable(f"this driver has no device {device!r}")
        import numba  # noqa: F401

    def threads(self) -> int:
        import numba

        return numba.get_num_threads()


DRIVER = NumbaDriver()
