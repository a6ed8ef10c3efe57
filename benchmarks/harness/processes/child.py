"""Entry point of a measuring process: read the requests, measure, write a measurement for each.

`isolation.run` runs this file as a script: child.py REQUEST. Exceptions become measurements here; crashes and
timeouts are recorded by the parent.
"""

import ctypes
import importlib.util
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
# Packages of this project: where one of their modules is missing, a row of the catalog is wrong.
OURS = ("impls", "benchmarks")


def main(request_path: str) -> None:
    # End this process when its parent is killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    request = json.loads(Path(request_path).read_text())
    _make_importable(Path(request["benchmarks"]))
    from benchmarks.harness.processes.isolation import write

    for case in request["requests"]:
        write(Path(case["path"]), _measured(case))
        os.write(request["done"], b".")


def _measured(request: dict[str, Any]) -> Any:
    from benchmarks.harness.case import Unavailable, Unsupported, from_json
    from benchmarks.harness.machine.memory import NotEnough, is_exhaustion
    from benchmarks.harness.measurement import Measurement
    from benchmarks.harness.quantities.dispatch import measure
    from benchmarks.harness.truth.comparison import WrongResult

    try:
        return measure(*from_json(request))
    except Unavailable as error:
        return Measurement("skipped", str(error))
    except Unsupported as error:
        return Measurement("unsupported", str(error))
    except NotEnough as error:
        return Measurement("memory", str(error))
    except WrongResult as error:
        return Measurement("wrong", str(error))
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith(OURS):
            return Measurement("skipped", f"not installed: {error.name}")
        traceback.print_exc()
        return Measurement(
            "memory" if is_exhaustion(error) else "error",
            f"{type(error).__name__}: {_first_line(error)}",
            output_tail=traceback.format_exc()[-2000:],
        )


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
