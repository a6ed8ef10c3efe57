"""Find the source of implementations in a commit."""

import ast
import subprocess
from collections.abc import Iterable
from functools import cache

from scripts.setup.pins import ROOT

UNKNOWN = "The commit is not in this checkout."


def of(commit: str, functions: Iterable[str]) -> list[str]:
    """The source of each function, named as "module:name", in a commit; UNKNOWN where the checkout lacks it."""
    read = cache(lambda module: _definitions(commit, module))
    return [read(module).get(name, UNKNOWN) for module, _, name in (each.partition(":") for each in functions)]


def _definitions(commit: str, module: str) -> dict[str, str]:
    """The source of each top-level function of a module, by name; empty where the commit or the module is unknown."""
    if not commit.isalnum():
        return {}
    path = f"{module.replace('.', '/')}.py"
    completed = subprocess.run(["git", "show", f"{commit}:{path}"], cwd=ROOT, capture_output=True)
    text = completed.stdout.decode(errors="replace")
    if completed.returncode or not text:
        return {}
    lines = text.splitlines()
    functions = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    return {node.name: f"# {path}\n" + "\n".join(lines[_first(node) - 1 : node.end_lineno]) for node in functions}


def _first(node: ast.FunctionDef) -> int:
    """The first line of a function, its decorators included."""
    return min([node.lineno, *(each.lineno for each in node.decorator_list)])
