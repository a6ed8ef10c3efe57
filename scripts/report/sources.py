"""Find the source of implementations in a commit."""

import ast
import subprocess
from collections.abc import Iterable
from functools import cache

from scripts.setup.pins import ROOT

UNKNOWN = "The commit is not in this checkout."


def of(commit: str, functions: Iterable[str]) -> list[str]:
    """The source of each function, named as "module:name", in a commit; UNKNOWN where the checkout lacks it.

    A name with dots belongs to an object made from a function, which is one of its parts.
    """
    read = cache(lambda module: _definitions(commit, module))
    return [_first_of(read(module), name.split(".")) for module, _, name in (each.partition(":") for each in functions)]


def _first_of(definitions: dict[str, str], parts: list[str]) -> str:
    return next((definitions[part] for part in parts if part in definitions), UNKNOWN)


def _definitions(commit: str, module: str) -> dict[str, str]:
    """The source of each top-level function or assignment of a module, by name.

    Empty where the commit or the module is unknown.
    """
    if not commit.isalnum():
        return {}
    path = f"{module.replace('.', '/')}.py"
    completed = subprocess.run(["git", "show", f"{commit}:{path}"], cwd=ROOT, capture_output=True)
    text = completed.stdout.decode(errors="replace")
    if completed.returncode or not text:
        return {}
    lines = text.splitlines()
    named = ((name, node) for node in ast.parse(text).body if (name := _name(node)))
    return {name: f"# {path}\n" + "\n".join(lines[_first(node) - 1 : node.end_lineno]) for name, node in named}


def _name(node: ast.stmt) -> str:
    """The name that a function or an assignment of one name defines; empty for other statements."""
    if isinstance(node, ast.FunctionDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return target.id if isinstance(target, ast.Name) else ""


def _first(node: ast.stmt) -> int:
    """The first line of a statement, its decorators included."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
