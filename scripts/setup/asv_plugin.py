"""asv's plugin: choose the builds that asv installs, and have plain `asv run` and `asv continuous` measure a profile.

asv loads this module into its own process and calls `setup`. The environment variable RELU_BENCH_PROFILE names the
profile. The folder of a run keeps its plan and all that is measured until asv saves it at its end; a run that was
killed or interrupted leaves the folder, and the next run of the same selection continues from there.
Standard library and asv only.
"""

import atexit
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import FrameType

from asv.commands import make_argparser
from asv.commands.continuous import Continuous
from asv.commands.run import Run
from asv.console import log
from asv.util import UserError

from benchmarks.harness import profiles
from benchmarks.harness.machine import cuda_driver
from scripts.run.journals import latest_block
from scripts.setup import accelerator
from scripts.setup.pins import ROOT

PLAN = "RELU_BENCH_PLAN"
UNFINISHED = ROOT / ".asv" / "unfinished"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MEASURING = (Run.run_from_args, Continuous.run_from_args)
# Time between two messages about the rounds.
SHOWN_S = 30.0
# Of asv's --quick: the smallest budget that the harness accepts.
QUICK = {"RELU_BENCH_BUDGET_S": "0.01", "RELU_BENCH_PASSES": "1"}


def setup() -> None:
    """Set the environment variables of pip and of the harness. Raises asv's UserError for an unknown profile."""
    os.environ.update(accelerator.pip_environment(accelerator.machine_build(), accelerator.sources_configured()))
    parser, _ = make_argparser()
    options = parser.parse_args()
    # ./scripts/bench has a plan already.
    if options.func in MEASURING and PLAN not in os.environ:
        log.info(accelerator.described(cuda_driver.query()))
        _select(options)


def _select(options: Namespace) -> None:
    name = os.environ.get(profiles.VARIABLE, profiles.DEFAULT)
    if name not in profiles.PROFILES:
        accepted = ", ".join(profiles.PROFILES)
        raise UserError(f"{profiles.VARIABLE}: {name!r} given, one of {accepted} needed")
    settings = profiles.PROFILES[name].environment() | (QUICK if options.quick else {})
    # Records name the profile, also the default one.
    for variable, value in {profiles.VARIABLE: name, **settings}.items():
        os.environ.setdefault(variable, value)
    selection = {"profile": name, "patterns": options.bench or []}
    folder = UNFINISHED / f"asv-{name}-{_digest(selection, options)}"
    if folder.exists():
        log.info(f"Continuing the run that was interrupted; remove {folder} to measure everything again")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "selection.json").write_text(json.dumps(selection))
    os.environ[PLAN] = str(folder)
    _remove_at_end(folder)
    threading.Thread(target=_show_rounds, args=(folder,), daemon=True).start()


def _digest(selection: dict[str, object], options: Namespace) -> str:
    """Twelve hexadecimal digits of all that two runs must share so that the second may continue the first."""
    settings = sorted(item for item in os.environ.items() if item[0].startswith("RELU_BENCH_"))
    # The code of an existing environment may have changed since.
    is_existing = any(spec.startswith("existing") for spec in options.env_spec)
    own = os.getpid() if is_existing else None
    shared = [selection, settings, options.env_spec, BOOT_ID.read_text(), own]
    return hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:12]


def _remove_at_end(folder: Path) -> None:
    """Remove a folder when asv ends, unless it is interrupted: it then ends without saving its results."""
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(remove)

    def interrupted(number: int, frame: FrameType | None) -> None:
        atexit.unregister(remove)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupted)


def _show_rounds(folder: Path) -> None:
    """Log from time to time what is being measured: the first case of an operator waits until all of it is."""
    shown_s = time.time()
    while True:
        time.sleep(SHOWN_S)
        block = latest_block(folder, shown_s)
        shown_s = time.time()
        if block:
            log.info(f"Measuring {block}")
