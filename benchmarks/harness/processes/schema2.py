"""Read records of schema 2: one flat object, with circumstances in `details` under other names.

Damaged circumstances are left out: they cost detail, not the record.
"""

import math
from collections.abc import Callable
from typing import Any

from benchmarks.harness.case import (
    Case,
    DeviceLoopCase,
    DeviceProductCase,
    LoopCase,
    OperatorCase,
    ProductCase,
    StepCase,
    to_axes,
)

SCHEMA = 2
# Names of a schema 2 record, beside those of `measurement.Sampling`, `DeviceTiming`, `StepTiming` and `RoofTiming`.
SAMPLING = {
    "samples": "samples", "uncontended": "free", "smt_contended_s": "shared_s", "probe_s": "core_s",
    "stopped": "stopped", "steady": "steady", "warmup_s": "warmup_s", "preempted": "disturbed",
    "throttled": "slowed", "throttled_by": "slowed_by", "cpu_share": "cpu_share",
    "placement_medians_s": "placement_medians_s", "steal_s": "steal_s", "empty_call_s": "empty_call_s",
}  # fmt: skip
DEVICE = {
    "device_s": "device_s", "samples_s": "device_samples_s", "throttled": "device_slowed",
    "throttled_by": "device_slowed_by", "state": "gpu",
}  # fmt: skip
STEP = {"deviation": "deviation", "phases_s": "phases_s", "relu_percent": "relu_percent"}
ROOF = {"samples": "samples", "quartile_s": "quartile_s", "median_s": "median_s", "probe_s": "core_s"}
ROOF_CASES: dict[str, Callable[[str, str, int], Case]] = {
    "roof": LoopCase, "gemm": ProductCase, "device": DeviceLoopCase, "device_gemm": DeviceProductCase,
}  # fmt: skip
STEP_PREFIX = "cnn."


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """The record as schema 3 has it, but for its `schema`.

    Raises LookupError, TypeError or ValueError where it is no record.
    """
    details = record["details"] if isinstance(record.get("details"), dict) else {}
    processes = details.get("processes")
    if not isinstance(processes, list):
        processes = [details] if record["value"] is not None else []
    return {
        "schema": SCHEMA,
        **{name: record[name] for name in ("time_s", "machine", "commit", "env")},
        "case": to_axes(_case(record)),
        "measurement": {
            "status": record["status"],
            "reason": record["reason"],
            "value": record.get("value"),
            "number": record.get("number"),
            "processes": [_process(process, record) for process in processes if isinstance(process, dict)],
            "provenance": details["provenance"] if isinstance(details.get("provenance"), dict) else {},
            "output_tail": str(record.get("output_tail", "")),
        },
    }


def _case(record: dict[str, Any]) -> Case:
    quantity, op, variant, size = record["quantity"], record["op"], record["variant"], record["elements"]
    if op in ROOF_CASES:
        return ROOF_CASES[op](quantity, variant, size)
    if op.startswith(STEP_PREFIX):
        return StepCase(quantity, op.removeprefix(STEP_PREFIX), variant, size, record["dtype"])
    operator, direction = op.split(".")
    return OperatorCase(quantity, operator, direction, variant, size, record["dtype"], record["threads"])


def _process(details: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The circumstances of one process."""
    sampling = _renamed(details, SAMPLING)
    # A part without its central field was not recorded.
    parts = {
        "sampling": {"samples": 0, **sampling} if sampling.keys() - {"samples"} and "quartile_s" not in details else {},
        "device": _renamed(details, DEVICE),
        "step": _renamed(details, STEP),
        "roof": _renamed(details, ROOF) if "quartile_s" in details else {},
    }
    if "deviation" not in parts["step"] and parts["step"]:
        parts["step"]["deviation"] = math.nan
    return {
        "value": _if(_is_number, details.get("median_s", record.get("value"))),
        "number": _if(lambda value: isinstance(value, int), details.get("number", record.get("number"))),
        "counted": details.get("counted") is not False,
        "threads": _if(lambda value: isinstance(value, int), details.get("threads")),
        "import_s": _if(_is_number, details.get("import_s")),
        **{name: part or None for name, part in parts.items()},
    }


def _renamed(details: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The values that have the type of their new name."""
    renamed = {new: details[old] for new, old in names.items() if old in details}
    return {name: value for name, value in renamed.items() if CHECKS[name](value)}


def _if(check: Callable[[Any], bool], value: Any) -> Any:
    return value if check(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)


def _are(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and all(map(check, values))


def _is_position(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("warmup_s", "cpu_share", "steal_s", "deviation", "quartile_s", "median_s"), _is_number),
    **dict.fromkeys(("probe_s", "device_s", "empty_call_s"), _is_number_or_none),
    **dict.fromkeys(("smt_contended_s", "placement_medians_s", "samples_s"), _are(_is_number)),
    **dict.fromkeys(("preempted", "throttled"), _are(_is_position)),
    "throttled_by": _are(_is_text),
    "samples": _is_position,
    "stopped": _is_text,
    **dict.fromkeys(("uncontended", "steady"), lambda value: isinstance(value, bool)),
    "state": lambda value: isinstance(value, dict),
    "phases_s": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "relu_percent": lambda value: value is None or (_are(_is_number)(value) and len(value) == 2),
}
