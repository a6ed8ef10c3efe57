"""Find the code of a row: the module of its function and all modules of `impls` that it imports, read, not run."""

import ast
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

PACKAGE = "impls"


def code(module: str, folder: Path) -> dict[str, str]:
    """The code of a module of `impls` and of all that it imports from there, by module, without comments.

    folder: holds `impls`. Modules that are not there, such as those of other packages, are left out.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _path(name, folder)
        if name in found or path is None:
            continue
        text = path.read_text()
        try:
            tree = ast.parse(text)
        except SyntaxError:
            found[name] = text
            continue
        found[name] = ast.dump(tree)
        waiting += [*_parents(name), *_imported(tree, name, is_package=path.name == "__init__.py")]
    return found


def differing(modules: Iterable[str], folders: Sequence[Path]) -> set[str]:
    """The modules of `impls` whose code, with all that they import, is not the same in all folders."""
    return {module for module in modules if len({str(code(module, folder)) for folder in folders}) > 1}


def _path(module: str, folder: Path) -> Path | None:
    if module.partition(".")[0] != PACKAGE:
        return None
    stem = folder.joinpath(*module.split("."))
    paths = (stem / "__init__.py", stem.with_name(f"{stem.name}.py"))
    return next((path for path in paths if path.is_file()), None)


def _parents(module: str) -> Iterator[str]:
    """The packages of a module, whose code an import runs too."""
    while module := module.rpartition(".")[0]:
        yield module


def _imported(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Whatever a module imports, by full name; a name from a package may be a module or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            package = ".".join(parts[: len(parts) - node.level + is_package]) if node.level else ""
            source = ".".join(filter(None, (package, node.module)))
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
