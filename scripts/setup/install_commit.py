"""asv's install command: put the wheel of a commit into asv's environment, with the packages of the harness.

python -m scripts.setup.install_commit WHEEL, run by the environment's Python. Also installs CUDA packages where there
is a GPU, and packages that add rows. They are no part of asv's matrix, as they are not what its series are told apart
by. Standard library only.
"""

import subprocess
import sys

from scripts.setup import accelerator, pins


def main(wheel: str) -> None:
    pip = [sys.executable, "-m", "pip", "install"]
    subprocess.run([*pip, "--no-deps", "--force-reinstall", wheel], check=True)
    packages = [*pins.extra("harness"), *pins.row_packages()]
    cuda = accelerator.cuda_requirements(pins.frameworks(), accelerator.has_gpu())
    subprocess.run([*pip, *packages, *cuda], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
