"""Keep results on a separate branch: python -m scripts.run.store save|restore [--branch results] [--remote origin].

`restore` copies the branch's files into .asv and keeps other files there. `save` commits .asv's results and outcomes to
the branch and pushes it. Neither changes the work tree or the current branch.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.setup.pins import ROOT

FOLDERS = ("results", "outcomes")
IDENTITY = ("-c", "user.name=relu-bench", "-c", "user.email=relu-bench@users.noreply.github.com")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.run.store", description=(__doc__ or "").split(":")[0])
    parser.add_argument("action", choices=("save", "restore"))
    parser.add_argument("--branch", default="results", help="the branch that holds results (default: %(default)s)")
    parser.add_argument("--remote", default="origin", help="the git remote of the branch (default: %(default)s)")
    options = parser.parse_args()
    with _branch(ROOT, options.remote, options.branch) as tree:
        if options.action == "restore":
            copy(tree, ROOT / ".asv")
            return 0
        copy(ROOT / ".asv", tree)
        _git(tree, "add", "--all")
        if _git(tree, "status", "--porcelain"):
            message = f"Results of {_git(ROOT, 'rev-parse', '--short', 'HEAD')}"
            _git(tree, *IDENTITY, "commit", "--quiet", "--message", message)
        _git(tree, "push", "--quiet", options.remote, f"HEAD:refs/heads/{options.branch}")
    return 0


def copy(source: Path, target: Path) -> None:
    """Copy the folders of results. Replaces files of the same name and keeps others."""
    for folder in FOLDERS:
        if (source / folder).is_dir():
            shutil.copytree(source / folder, target / folder, dirs_exist_ok=True)


@contextmanager
def _branch(root: Path, remote: str, branch: str) -> Iterator[Path]:
    """Yield a temporary work tree of the branch; it is empty if the branch does not exist yet."""
    if _git(root, "ls-remote", "--heads", remote, branch):
        _git(root, "fetch", "--quiet", remote, branch)
        start = _git(root, "rev-parse", "FETCH_HEAD")
    else:
        # Start an unrelated history with an empty commit.
        empty = _git(root, "hash-object", "-t", "tree", "-w", "/dev/null")
        start = _git(root, *IDENTITY, "commit-tree", empty, "-m", "Results")
    with tempfile.TemporaryDirectory(prefix="relu-bench-results-") as folder:
        tree = Path(folder, "tree")
        _git(root, "worktree", "add", "--quiet", "--detach", str(tree), start)
        try:
            yield tree
        finally:
            _git(root, "worktree", "remove", "--force", str(tree))


def _git(folder: Path, *arguments: str) -> str:
    completed = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if completed.returncode:
        raise SystemExit(f"git {' '.join(arguments)} failed in {folder}: {completed.stderr.strip()}")
    return completed.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
