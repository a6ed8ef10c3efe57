"""Entry point of a measuring process: answer requests about cases of one framework, one JSON line each.

`isolation.Worker` runs this file as a script: worker.py REQUEST, where REQUEST is a JSON file. Exceptions become
measurements here; crashes and requests that take too long are recorded by the parent.

prepare   get a case ready to be timed      -> {}
slice     time it in one round              -> {"slice": ...}
finish    check it again                    -> {"process": ..., "provenance": ...}
single    measure a case in one go          -> {"measurement": ...}
forget    let go of all cases               -> {}

Each may be answered by {"failure": ...}, a measurement without a number.
"""

import ctypes
import gc
import importlib.util
import json
import os
import signal
import sys
import traceback
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

PR_SET_PDEATHSIG = 1
# Packages of this project: where one of their modules is missing, a row of the catalog is wrong.
OURS = ("impls", "benchmarks")


def main(request_path: str) -> None:
    # End this process when its parent is killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    start = json.loads(Path(request_path).read_text())
    _make_importable(Path(start["benchmarks"]))
    server = Server(start)
    with os.fdopen(start["requests"]) as requests:
        for line in requests:
            os.write(start["replies"], server.answer(json.loads(line)).encode())


class Server:
    """Answers requests. start: the first request, with the framework, its device and the number of threads."""

    def __init__(self, start: dict[str, Any]) -> None:
        from benchmarks.harness.machine import provenance

        self.start = start
        self.bench: Any = None
        # The framework stays up until this process ends.
        self.stack = ExitStack()
        self.import_s = 0.0
        self.timed: dict[str, Any] = {}
        self.activity = provenance.activity()

    def answer(self, request: dict[str, Any]) -> str:
        """The line of JSON that answers a request."""
        from benchmarks.harness import case as cases
        from benchmarks.harness.machine.memory import NotEnough, is_exhaustion
        from benchmarks.harness.measurement import Measurement, to_json
        from benchmarks.harness.truth.comparison import WrongResult

        try:
            # A NaN is an error of the case: a journal could not be read with it.
            return json.dumps(getattr(self, f"_{request['do']}")(request), allow_nan=False) + "\n"
        except cases.Unavailable as error:
            failure = Measurement("skipped", str(error))
        except cases.Unsupported as error:
            failure = Measurement("unsupported", str(error))
        except NotEnough as error:
            failure = Measurement("memory", str(error))
        except WrongResult as error:
            failure = Measurement("wrong", str(error))
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith(OURS):
                failure = Measurement("skipped", f"not installed: {error.name}")
            else:
                traceback.print_exc()
                failure = Measurement(
                    "memory" if is_exhaustion(error) else "error",
                    f"{type(error).__name__}: {_first_line(error)}",
                    output_tail=traceback.format_exc()[-2000:],
                )
        return json.dumps({"failure": to_json(failure)}) + "\n"

    def _prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        from benchmarks.harness.quantities import dispatch

        case = self._ready(request)
        timed = dispatch.timed(case, self.bench)
        timed.prepare()
        self.timed[request["case"]] = timed
        return {}

    def _slice(self, request: dict[str, Any]) -> dict[str, Any]:
        for core in self.bench.cores.values():
            core.learn(request["probe_best_s"])
        return {"slice": asdict(self.timed[request["case"]].slice(request["round"]))}

    def _finish(self, request: dict[str, Any]) -> dict[str, Any]:
        process = asdict(self.timed[request["case"]].finish())
        return {"process": process | self._as_started(), "provenance": self._provenance()}

    def _single(self, request: dict[str, Any]) -> dict[str, Any]:
        from benchmarks.harness.measurement import to_json
        from benchmarks.harness.quantities import dispatch

        measurement = to_json(dispatch.single(self._ready(request), self.bench))
        for process in measurement["processes"]:
            process |= self._as_started()
        self.bench.held.clear()
        return {"measurement": measurement | {"provenance": self._provenance()}}

    def _forget(self, request: dict[str, Any]) -> dict[str, Any]:
        from benchmarks.harness.machine import provenance

        self.timed.clear()
        if self.bench:
            self.bench.held.clear()
            self.bench.shared.forget()
        gc.collect()
        self.activity = provenance.activity()
        return {}

    def _ready(self, request: dict[str, Any]) -> Any:
        """The case of a request, with the framework started. Raises Unavailable and Unsupported before any import."""
        from benchmarks.harness.case import DeviceLoopCase, OperatorCase, StepCase, from_axes
        from benchmarks.harness.quantities import dispatch

        case = replace(from_axes(request["axes"]), side=request["side"])
        if isinstance(case, OperatorCase | StepCase):
            dispatch.require(dispatch.row_of(case), case.dtype)
        elif isinstance(case, DeviceLoopCase):
            dispatch.require_loop(case)
        if not self.bench:
            self._bring_up()
        return case

    def _bring_up(self) -> None:
        from benchmarks.harness.frameworks import started
        from benchmarks.harness.quantities.dispatch import Bench
        from benchmarks.harness.timing.contention import Core
        from benchmarks.harness.truth.shared import Shared

        start, start_s = self.start, perf_counter()
        framework = self.stack.enter_context(
            started(start["framework"], start["device"], start["threads"], start["cache_dir"])
        )
        self.import_s = perf_counter() - start_s
        cores = {
            threaded: Core(start["probe_best_s"], start["threads"] if threaded else 1) for threaded in (False, True)
        }
        self.bench = Bench(framework, cores, Shared(Path(start["shared"]) if start["shared"] else None), {})

    def _as_started(self) -> dict[str, Any]:
        """Threads and import time. Raises ThreadMismatch where the code under measurement changed the threads."""
        from benchmarks.harness.machine.threads import check

        threads = self.bench.framework.threads()
        check(self.start["framework"], self.start["threads"], threads)
        return {"threads": threads, "import_s": self.import_s}

    def _provenance(self) -> dict[str, Any]:
        from benchmarks.harness.machine import provenance

        return provenance.collect(self.activity, self.start["cores"])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _make_importable(benchmarks: Path) -> None:
    """Import `benchmarks` without its parent folder on the import path.

    That folder holds the `impls` of the checkout, which are not those of the commit under test.
    """
    if importlib.util.find_spec("benchmarks"):
        return
    spec = importlib.util.spec_from_file_location(
        "benchmarks", benchmarks / "__init__.py", submodule_search_locations=[str(benchmarks)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    main(*sys.argv[1:])
