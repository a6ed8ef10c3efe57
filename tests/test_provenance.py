"""Test the provenance of a number and the fingerprint that distinguishes machines."""

import json
import subprocess
import sys

import pytest

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.machine import linux, provenance
from benchmarks.harness.processes import plan

FACTS = provenance.collect(provenance.activity())


def fingerprint(**changed):
    return provenance.fingerprint({**FACTS, **changed})


def in_new_process(code):
    command = [sys.executable, "-c", f"from benchmarks.harness.machine import provenance; print({code})"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_at_least_forty_facts_are_collected_and_none_is_empty():
    assert len(FACTS) >= 40
    assert json.loads(json.dumps(FACTS, allow_nan=False)) == FACTS
    assert [name for name, fact in FACTS.items() if fact in (None, "", {}, [])] == []


def test_unavailable_facts_are_unknown(monkeypatch, tmp_path):
    monkeypatch.setitem(provenance.FACTS["Memory"], "huge_pages", lambda: linux.text(tmp_path / "missing"))
    monkeypatch.setitem(provenance.FACTS["System"], "libc", lambda: None)
    monkeypatch.setitem(provenance.ACTIVITY, "load_1min", lambda: 1 / 0)
    facts = provenance.collect()
    assert set(facts) == set(FACTS)
    values = {facts[name] for name in ("huge_pages", "libc", "load_1min_at_start", "load_1min_at_end")}
    assert values == {"unknown"}


def test_only_selected_environment_variables_are_recorded(monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    facts = provenance.collect()
    assert "hunter2" not in json.dumps(facts)
    assert facts["environment"]["MALLOC_ARENA_MAX"] == "3"


def test_collecting_facts_imports_no_framework():
    frameworks = "{'numpy', 'numba', 'torch', 'jax'} & set(__import__('sys').modules)"
    assert in_new_process(f"provenance.collect()['torch_simd'], {frameworks}") == "not imported set()"


def test_fingerprint_is_the_same_in_each_process():
    assert provenance.collect()["fingerprint"] == FACTS["fingerprint"] == fingerprint()
    assert in_new_process("provenance.collect()['fingerprint']") == FACTS["fingerprint"]


@pytest.mark.parametrize("variant", ["numpy.out", "numba-threads.out", "torch.out", "jax.fresh"])
def test_fingerprint_does_not_depend_on_the_variant(variant):
    case = OperatorCase("time", "relu", "forward", variant, 1024)
    facts = plan.measured([case], Settings(budget_s=0.05, limit_s=600, threads=1, passes=2))[case].provenance
    assert facts["fingerprint"] == provenance.expected_fingerprint(cores=1)
    assert facts["checkout"].split()[1] in ("clean", "changed")
    assert facts["steal_s_at_end"] >= facts["steal_s_at_start"]


@pytest.mark.parametrize(
    "changed",
    [
        {"cpu": "another"}, {"simd_flags": "sse2"}, {"cores_usable": 3}, {"caches_bytes": {"L1d": 1}},
        {"memory_bytes": 2 * FACTS["memory_bytes"]}, {"hypervisor": "unknown"}, {"governor": "powersave"},
        {"huge_pages": "[always] madvise never"}, {"aslr": "0"}, {"gpus": "NVIDIA H200"},
        {"environment": {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_fingerprint_depends_on_machine_and_settings(changed):
    assert fingerprint(**changed) != fingerprint()


@pytest.mark.parametrize(
    "changed",
    [
        {"load_1min_at_end": 99.0}, {"steal_s_at_start": 99.0}, {"uptime_s": 1.0}, {"cpu_mhz": 1.0},
        {"host": "another"}, {"kernel": "99"}, {"microcode": "0x0"}, {"libc": "glibc 99"},
        {"packages": {"torch": "99"}}, {"commit": "c0ffee"},
        {"memory_bytes": FACTS["memory_bytes"] - 2**20},
        {"environment": {**provenance.chosen(FACTS["environment"]), "OMP_NUM_THREADS": "7"}},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_fingerprint_does_not_depend_on_other_facts(changed):
    assert fingerprint(**changed) == fingerprint()
