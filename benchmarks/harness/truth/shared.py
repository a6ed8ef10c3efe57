"""Arrays that the processes of a block share: each is computed once and mapped into all of them, read-only."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.machine import memory

# A file system in memory.
SHARED_MEMORY = Path("/dev/shm")
# NumPy's own error of a full disk has no number.
NO_ROOM = (errno.ENOSPC, None)
# Arrays are made anew where they would take more than this share of the free memory.
MOST_SHARED = 0.25


class Shared:
    """Groups of arrays by key, kept in files of a folder, or in this process alone where there is none."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._groups: dict[str, tuple[np.ndarray, ...]] = {}

    def arrays(self, key: str, make: Callable[[], Sequence[np.ndarray]]) -> tuple[np.ndarray, ...]:
        """The arrays of a key. The first process that asks makes them; the others wait, and cannot change them."""
        if key not in self._groups:
            self._groups[key] = tuple(make()) if self._folder is None else _from_files(self._folder / key, make)
        return self._groups[key]

    def forget(self) -> None:
        """Let go of the arrays of this process; files stay."""
        self._groups.clear()


def _from_files(folder: Path, make: Callable[[], Sequence[np.ndarray]]) -> tuple[np.ndarray, ...]:
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        # The kernel releases the lock of a process that ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            partial.mkdir(exist_ok=True)
            arrays = tuple(make())
            try:
                for position, array in enumerate(arrays):
                    np.save(partial / f"{position}.npy", array)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                # This process has arrays of its own, and so will the others.
                shutil.rmtree(partial)
                for array in arrays:
                    array.setflags(write=False)
                return arrays
            os.replace(partial, folder)
    paths = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    return tuple(np.load(path, mmap_mode="r") for path in paths)


def used_bytes(folder: Path) -> int:
    """Bytes of the arrays in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.npy"))


def held_bytes(folder: Path | None) -> int:
    """Memory that the arrays in a folder take: none on a disk, whose cache counts as free."""
    return used_bytes(folder) if folder and folder.is_relative_to(SHARED_MEMORY) else 0


def limit(folder: Path) -> None:
    """Remove the arrays in a folder where they take too much memory; no process may be using them."""
    if used_bytes(folder) > MOST_SHARED * min(memory.free_bytes(), shutil.disk_usage(folder).free):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
