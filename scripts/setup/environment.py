"""Make the virtual environment that a script runs in, where it is missing or out of date.

python -m scripts.setup.environment report|test: makes .venv/report or .venv/test and prints nothing on standard output
but the path of its Python. Standard library only.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from scripts.setup import accelerator, pins
from scripts.setup.pins import ROOT

EXTRAS = {"report": ("harness", "report"), "test": ("harness", "report", "test")}


def requirements(name: str) -> list[str]:
    """What pip installs into the environment of that name; the test one also has every framework."""
    listed = [requirement for extra in EXTRAS[name] for requirement in pins.extra(extra)] + pins.row_packages()
    if name != "test":
        return listed
    frameworks = [f"{package}=={version}" for package, version in pins.frameworks().items()]
    return [*listed, *frameworks, *accelerator.test_requirements(pins.frameworks(), accelerator.has_gpu())]


def ensure(name: str) -> Path:
    """The Python of an up-to-date environment; installs what is missing, telling so on standard error.

    Raises SystemExit with advice where an environment cannot be made.
    """
    folder = ROOT / ".venv" / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = hashlib.sha256("\n".join([sys.version, *requirements(name)]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    say(f"making {folder.relative_to(ROOT)} ({len(requirements(name))} packages; a few minutes the first time)")
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, OSError) as error:
        raise SystemExit(
            f"cannot make a virtual environment ({error}). On Debian: apt-get install python3-venv"
        ) from None
    environment = accelerator.pip_environment(accelerator.has_gpu(), accelerator.sources_configured())
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *requirements(name)]
    if subprocess.run(command, stdout=sys.stderr, env={**os.environ, **environment}).returncode:
        raise SystemExit(f"pip could not install what {folder.relative_to(ROOT)} needs; its own message is above")
    stamp.write_text(wanted)
    return python


def say(text: str) -> None:
    """A line for the person who waits."""
    print(f"relu-bench: {text}", file=sys.stderr, flush=True)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036
        raise SystemExit(f"Python 3.11 is needed, this is {sys.version.split()[0]}")
    print(ensure(sys.argv[1]))


if __name__ == "__main__":
    main()
