"""A copy of this repository that a test may change, and asv runs in it with the Python of the tests."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.measurement import SMT_CONTENDED, Measurement
from benchmarks.harness.processes.records import Record, parse

ROOT = Path(__file__).resolve().parents[1]
IGNORED = (".git", ".asv", ".venv", "reports", "__pycache__")


class Checkout:
    """A new git repository with one commit: the files of this work tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.splitlines()  # fmt: skip
        for name in listed:
            if (ROOT / name).is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((ROOT / name).read_bytes())
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("copy")

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def changed(self) -> set[str]:
        """Return the paths that differ from the last commit, untracked ones included."""
        return {
            line.split(maxsplit=1)[1]
            for line in self.git("status", "--porcelain", "--untracked-files=all").splitlines()
        }

    def append(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)

    def asv(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        """Run asv with the Python of the tests, so that it makes no environments. variables: of its environment."""
        command, environment = self._asv(arguments, variables)
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def measure(self, *patterns: str, **variables: str) -> subprocess.CompletedProcess:
        """Run the benchmarks that match a pattern on the last commit and store the results."""
        self.asv("machine", "--yes")
        return self.asv(*self._run(patterns), **variables)

    def start(self, *patterns: str, **variables: str) -> subprocess.Popen:
        """Start `measure` in a new process group and return at once. `asv machine` must have run before."""
        command, environment = self._asv(self._run(patterns), variables)
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _run(self, patterns: Sequence[str]) -> tuple[str, ...]:
        commit = self.git("rev-parse", "HEAD")
        options = ("run", "--python=same", "--set-commit-hash", commit, "--record-samples", "--show-stderr")
        return *options, *(word for pattern in patterns for word in ("--bench", pattern))

    def _asv(self, arguments: tuple[str, ...], variables: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        # asv writes the machine's description to the home folder; keep it out of the user's.
        home = self.folder.with_name(f"{self.folder.name}-home")
        home.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "ASV_PYTHONPATH": str(self.folder),
            "HOME": str(home),
            "RELU_BENCH_BUDGET_S": "0.05",
            "RELU_BENCH_PASSES": "1",
            **variables,
        }
        return [sys.executable, "-m", "asv", *arguments], environment

    def report(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "scripts.report", *arguments]
        environment = {**os.environ, **variables}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def records(self) -> list[Record]:
        """Return all records, oldest first; each line is one."""
        files = sorted((self.folder / ".asv" / "outcomes").glob("*/*.jsonl"))
        lines = [line for path in files for line in path.read_bytes().splitlines()]
        parsed = [record for line in lines if (record := parse(line))]
        assert len(parsed) == len(lines)
        return parsed


def was_contended(measurement: Measurement) -> bool:
    """Return whether a hyperthread was busy in a round; a row may then have no ratio to its roofs, by design."""
    probes_s = [taken.probe_s for process in measurement.processes for taken in process.slices if taken.probe_s]
    return bool(probes_s) and max(probes_s) > SMT_CONTENDED * min(probes_s)
