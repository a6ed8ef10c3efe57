"""Test facts about the machine: nested control groups, free memory, and loaded libraries."""

import os
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import threadpoolctl

from benchmarks.harness.machine import linux, memory, software

GIB = 2**30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A function that writes a tree of control groups and the list of this process's own groups."""
    monkeypatch.setattr(linux, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(linux, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_available_bytes", lambda: 64 * GIB)

    def write(own: str, files: dict[str, object]) -> None:
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")

    return write


def version_2(folder: str, limit: object, usage: int, inactive: int = 0) -> dict[str, object]:
    names = (os.path.join(folder, name) for name in ("memory.max", "memory.current", "memory.stat"))
    return dict(zip(names, (limit, usage, f"anon 1\ninactive_file {inactive}\nactive_file 5"), strict=True))


def version_1(folder: str, limit: int, usage: int, inactive: int = 0) -> dict[str, object]:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    stat = f"inactive_file 3\ntotal_inactive_file {inactive}"
    return dict(zip((os.path.join("memory", folder, n) for n in names), (limit, usage, stat), strict=True))


@pytest.mark.parametrize(("limited", "free_gib"), [("a/b/c", 1), ("a/b", 1), ("a", 1), ("", 1), ("a/sibling", 64)])
def test_every_level_of_nested_groups_limits_memory(groups, limited, free_gib):
    levels = {name: version_2(name, "max", GIB) for name in ("a/b/c", "a/b", "a", "a/sibling")}
    levels[limited] = version_2(limited, 3 * GIB, 2 * GIB)
    groups("0::/a/b/c\n", {name: content for level in levels.values() for name, content in level.items()})
    assert memory.free_bytes() == free_gib * GIB


def test_free_memory_is_the_minimum_over_all_levels_and_the_machine(groups, monkeypatch):
    groups("0::/a/b\n", {**version_2("a/b", 9 * GIB, GIB), **version_2("a", 8 * GIB, 3 * GIB)})
    assert memory.free_bytes() == 5 * GIB
    monkeypatch.setattr(memory, "_available_bytes", lambda: 2 * GIB)
    assert memory.free_bytes() == 2 * GIB


def test_inactive_page_cache_counts_as_free(groups):
    groups("0::/a\n", version_2("a", 4 * GIB, 3 * GIB, inactive=2 * GIB))
    assert memory.free_bytes() == 3 * GIB


def test_a_group_above_its_limit_leaves_no_free_memory(groups):
    groups("0::/a\n", version_2("a", GIB, 2 * GIB))
    assert memory.free_bytes() == 0


@pytest.mark.parametrize("limited", ["a/b", "a", ""])
def test_groups_of_version_1_limit_memory(groups, limited):
    levels = {name: version_1(name, 2**63 - 4096, 9 * GIB) for name in ("a/b", "a", "")}
    levels[limited] = version_1(limited, 3 * GIB, 2 * GIB, inactive=GIB)
    files = {name: content for level in levels.values() for name, content in level.items()}
    groups("9:name=systemd:/\n4:hugetlb,memory:/a/b\n0::/\n", files)
    assert memory.free_bytes() == 2 * GIB


def test_the_visible_root_group_limits_memory_in_a_container(groups):
    groups("4:memory:/docker/0123\n", version_1("", 3 * GIB, GIB))
    assert memory.free_bytes() == 2 * GIB
    groups("0::/../../user.slice\n", version_2("", 2 * GIB, GIB))
    assert memory.free_bytes() == GIB


def test_free_memory_is_that_of_the_machine_without_control_groups(groups, tmp_path, monkeypatch):
    groups("", {})
    assert memory.free_bytes() == 64 * GIB
    monkeypatch.setattr(linux, "OWN_CGROUPS", tmp_path / "missing")
    assert memory.free_bytes() == 64 * GIB


def test_unreported_memory_is_unlimited(monkeypatch, tmp_path):
    read = linux.numbers
    monkeypatch.setattr(linux, "numbers", lambda path: read(tmp_path / "missing"))
    assert memory._available_bytes() == memory.UNLIMITED_BYTES
    assert memory.killed_by_kernel() == 0


def test_free_bytes_of_this_machine():
    assert 0 < memory.free_bytes() <= linux.memory_bytes()


def test_control_groups_are_ordered_from_the_own_to_the_root(groups):
    groups("4:cpu,cpuacct:/x\n0::/a/b\n", {})
    root = linux.CGROUPS
    assert linux.control_groups() == [root / "a/b", root / "a", root]
    assert linux.control_groups("cpu") == [root / "cpu/x", root / "cpu"]
    assert linux.control_groups("memory") == [root / "memory"]


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "50 100", "a/cpu.max": "1 2", "cpu.max": "3 4"}, "50 100"),
        ("0::/a/b\n", {"a/cpu.max": "1 2", "cpu.max": "3 4"}, "3 4"),
        ("0::/\n", {"cpu.max": "max 100000"}, "max 100000"),
        ("1:cpu:/x\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_quota_us": "5"}, "-1"),
        ("", {"cpu.max": "3 4", "cpu/cpu.cfs_quota_us": "-1"}, "3 4"),
    ],
)
def test_quota_is_of_the_own_group_or_a_root_group(groups, own, files, quota):
    groups(own, files)
    assert linux.cpu_quota() == quota


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none of these files exists: .*missing, .*absent"):
        linux.text(tmp_path / "missing", tmp_path / "absent")


def test_loaded_libraries_are_described():
    import numpy as np

    np.ones((4, 4)) @ np.ones((4, 4))
    loaded = {Path(pool["filepath"]).name: pool for pool in threadpoolctl.threadpool_info()}
    libraries = software.libraries()
    assert set(loaded) <= set(libraries)
    for name, pool in loaded.items():
        assert f"{pool['internal_api']}" in libraries[name]
        assert f"{pool['num_threads']} threads" in libraries[name]


def test_memory_allocators_are_found_in_the_maps(monkeypatch):
    monkeypatch.setattr(
        software,
        "text",
        lambda _: "7f00-7f01 r-xp 0 08:01 1   /usr/lib/libjemalloc.so.2\n7f02-7f03 rw-p /usr/lib/libc.so.6",
    )
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert software.libraries() == {"libjemalloc.so.2": "memory allocator"}


def test_library_errors_are_suppressed(monkeypatch):
    def broken(*_):
        raise OSError("no")

    monkeypatch.setattr(threadpoolctl, "threadpool_info", broken)
    monkeypatch.setattr(software, "text", broken)
    assert software.libraries() == "none"


def test_nvidia_packages_are_found_under_the_name_of_any_cuda(monkeypatch):
    installed = {"triton": "3.7", "nvidia-cudnn-cu12": "9.1", "nvidia-cublas": "13.2", "nvidia-cublas-cu12": "12.9"}

    def version(package):
        if package not in installed:
            raise PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(software, "version", version)
    software.packages.cache_clear()
    try:
        found = {name: number for name, number in software.packages().items() if number != "not installed"}
    finally:
        software.packages.cache_clear()
    assert found == {"triton": "3.7", "nvidia-cudnn": "9.1", "nvidia-cublas": "13.2"}


@pytest.mark.parametrize(("matmul", "cudnn", "words"), [(False, False, "none"), (True, True, "matmul cudnn")])
def test_what_may_be_computed_in_tf32_is_recorded(matmul, cudnn, words, monkeypatch):
    stub = SimpleNamespace(
        backends=SimpleNamespace(
            cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=matmul)), cudnn=SimpleNamespace(allow_tf32=cudnn)
        )
    )
    monkeypatch.setitem(sys.modules, "torch", stub)
    assert software.torch_tf32() == words
