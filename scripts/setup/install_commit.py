"""asv's install command: put the wheel of a commit into asv's environment, and CUDA packages where there is a GPU.

python -m scripts.setup.install_commit WHEEL, run by the environment's Python. Standard library only.
"""

import subprocess
import sys

from scripts.setup import accelerator, pins


def main(wheel: str) -> None:
    pip = [sys.executable, "-m", "pip", "install"]
    subprocess.run([*pip, "--no-deps", "--force-reinstall", wheel], check=True)
    cuda = accelerator.cuda_requirements(pins.frameworks(), accelerator.has_gpu())
    if cuda:
        subprocess.run([*pip, *cuda], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
