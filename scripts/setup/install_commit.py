"""Install the wheel of a commit and the packages of the harness into asv's environment; asv's install command.

python -m scripts.setup.install_commit WHEEL: run by the environment's Python. It also installs the packages that add
rows and, on a machine with a GPU, CUDA packages. asv's matrix excludes them because each distinct matrix starts a new
series. Standard library only.
"""

import subprocess
import sys
from importlib.metadata import distributions

from scripts.setup import accelerator, pins

# Of packages that add rows, as in impls.catalog, which need not be importable yet.
ENTRY_POINTS = "relu_bench.rows"


def main(wheel: str) -> None:
    if left := [item.name for item in distributions() if item.entry_points.select(group=ENTRY_POINTS)]:
        # They belong to the commit measured before.
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "--yes", *left], check=True)
    pip = [sys.executable, "-m", "pip", "install"]
    subprocess.run([*pip, "--no-deps", "--force-reinstall", wheel], check=True)
    subprocess.run([*pip, *packages()], check=True)
    accelerator.require_torch(sys.executable, accelerator.machine_build())
    print(f"pip check: {accelerator.pip_check(sys.executable)}")


def packages() -> list[str]:
    """Return the requirements of what is installed beside a commit: packages of the harness, of rows, and for CUDA."""
    cuda = accelerator.cuda_requirements(pins.frameworks(), accelerator.machine_build())
    return [*pins.extra("harness"), *pins.row_packages(), *cuda]


if __name__ == "__main__":
    main(sys.argv[1])
