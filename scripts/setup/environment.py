"""Create the virtual environment that a script runs in if it is missing or out of date.

python -m scripts.setup.environment report|test: creates .venv/report or .venv/test; standard output gets the path of
its Python and nothing else. Standard library only.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.harness.machine import cuda_driver
from scripts.setup import accelerator, pins
from scripts.setup.pins import ROOT

EXTRAS = {"report": ("harness", "report"), "test": ("harness", "report", "test")}


def requirements(name: str) -> list[str]:
    """Return what pip installs into an environment; "test" also gets every framework."""
    listed = [requirement for extra in EXTRAS[name] for requirement in pins.extra(extra)] + pins.row_packages()
    if name != "test":
        return listed
    frameworks = [f"{package}=={version}" for package, version in pins.frameworks().items()]
    return [*listed, *frameworks, *accelerator.test_requirements(pins.frameworks(), accelerator.machine_build())]


def ensure(name: str) -> Path:
    """Return the Python of an up-to-date environment; install what is missing and report it on standard error.

    Raises SystemExit with advice if the environment cannot be created.
    """
    folder = ROOT / ".venv" / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    fingerprint = hashlib.sha256("\n".join([sys.version, *requirements(name)]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == fingerprint and python.exists():
        return python
    say(f"creating {folder.relative_to(ROOT)} ({len(requirements(name))} packages; a few minutes the first time)")
    say(accelerator.described(cuda_driver.query()))
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, OSError) as error:
        raise SystemExit(
            f"cannot create a virtual environment ({error}). On Debian: apt-get install python3-venv"
        ) from None
    environment = accelerator.pip_environment(accelerator.machine_build(), accelerator.sources_configured())
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *requirements(name)]
    if subprocess.run(command, stdout=sys.stderr, env={**os.environ, **environment}).returncode:
        raise SystemExit(f"pip could not install what {folder.relative_to(ROOT)} needs; its own message is above")
    if name == "test":
        accelerator.require_torch(str(python), accelerator.machine_build())
    say(f"pip check: {accelerator.pip_check(str(python))}")
    stamp.write_text(fingerprint)
    return python


def say(text: str) -> None:
    """Print a progress message on standard error."""
    print(f"relu-bench: {text}", file=sys.stderr, flush=True)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036
        found = sys.version.split()[0]
        raise SystemExit(
            f"Python 3.11 or newer is needed, python3 is {found}: run this in a virtual environment of a newer one"
        )
    parser = argparse.ArgumentParser(
        prog="python -m scripts.setup.environment", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("name", choices=EXTRAS)
    print(ensure(parser.parse_args().name))


if __name__ == "__main__":
    main()
