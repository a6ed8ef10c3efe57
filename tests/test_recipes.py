"""Follow the recipes of impls/README.md: each changes the files that it names, and no other."""

import base64
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import measurement
from benchmarks.harness.asv_classes import camel_case
from impls.catalog import ENTRY_POINTS, VARIANTS
from scripts.setup import install_commit
from tests.checkout import ROOT, Checkout

README = (ROOT / "impls/README.md").read_text()
RECIPES = Path(__file__).parent / "recipes"
ROWS = "impls/relu/rows.py"


def snippet(heading: str, number: int, language: str = "python") -> str:
    """Return the code block with this index below a heading of impls/README.md."""
    section = README.split(f"## {heading}", 1)[1].split("\n#", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[number]


def insert_after(checkout: Checkout, name: str, line: str, text: str) -> None:
    path = checkout.folder / name
    content = path.read_text()
    assert content.count(f"\n{line}\n") == 1
    path.write_text(content.replace(f"\n{line}\n", f"\n{line}\n{text}\n"))


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def forward(variant: str) -> str:
    name = re.escape(variant)
    return rf"Forward\.(track_time\('{name}', 32768|track_transient_bytes\('{name}', 1048576), 'float32'\)"


def measured_and_shown(checkout: Checkout, benchmarks: str, row: str, packages: str = "") -> bool:
    """Commit the recipe, assert that it is measured without a failure, and return whether the report shows the row."""
    if checkout.changed():
        checkout.commit("recipe")
    path = os.pathsep.join(filter(None, (str(checkout.folder), packages)))
    run = checkout.measure(benchmarks, ASV_PYTHONPATH=path, RELU_BENCH_PROFILE="full")
    assert run.returncode == 0, run.stdout + run.stderr
    statuses = {record.measurement.status for record in checkout.records()}
    assert statuses <= set(measurement.MEASURED), [record.measurement.reason for record in checkout.records()]
    report = checkout.report(PYTHONPATH=packages)
    assert report.returncode == 0, report.stderr
    return row in (checkout.folder / "reports/index.html").read_text()


def cells(subject: str, variant: str) -> str:
    """Return the first cells of a line in the table of the report."""
    return f"<td>{subject}<td>{variant}<td>"


def test_a_variant_needs_a_function_and_a_row(checkout):
    checkout.append("impls/relu/numpy_.py", "\n\n" + snippet("Add a variant", 0))
    insert_after(checkout, ROWS, "NUMPY_ROWS = (", snippet("Add a variant", 1).rstrip("\n"))
    assert checkout.changed() == {"impls/relu/numpy_.py", ROWS}
    assert measured_and_shown(checkout, forward("numpy-zeros.fresh"), cells("forward", "numpy-zeros.fresh"))


def test_a_framework_needs_a_file_a_driver_and_rows(checkout):
    (checkout.folder / "impls/relu/python_.py").write_text((RECIPES / "python_relu.py").read_text())
    driver = checkout.folder / "benchmarks/harness/frameworks/python_.py"
    driver.write_text((RECIPES / "python_driver.py").read_text())
    path = checkout.folder / ROWS
    before, after = path.read_text().split("\nROWS = (\n")
    path.write_text(f"{before}\n{snippet('Add a framework', 0)}ROWS = (\n    *PYTHON_ROWS,\n{after}")
    assert checkout.changed() == {"impls/relu/python_.py", "benchmarks/harness/frameworks/python_.py", ROWS}
    assert measured_and_shown(checkout, forward("python.fresh"), cells("forward", "python.fresh"))
    assert len([record for record in checkout.records() if record.case["variant"] == "python.fresh"]) == 2


def add_operator(checkout: Checkout, name: str) -> set[str]:
    """Add the files of an operator and its module; return the files that changed."""
    folder = checkout.folder / "impls" / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    for path in (RECIPES / name).glob("*.py"):
        (folder / path.name).write_text(path.read_text())
    catalog = checkout.folder / "impls/catalog.py"
    text = catalog.read_text()
    assert text.count("MODULES = (relu, activations)") == 1
    text = text.replace("MODULES = (relu, activations)", f"MODULES = (relu, activations, {name})")
    catalog.write_text(
        text.replace(
            "from impls.relu import rows as relu\n",
            f"from impls.{name} import rows as {name}\nfrom impls.relu import rows as relu\n",
        )
    )
    return {f"impls/{name}/{file.name}" for file in folder.glob("*.py")} | {"impls/catalog.py"}


def test_an_operator_has_a_tolerance_and_gradients_from_two_saved_values(checkout):
    files = add_operator(checkout, "arctan")
    (checkout.folder / "impls/arctan/rows.py").write_text(snippet("Add an operator", 0))
    assert checkout.changed() == files | {"impls/arctan/rows.py"}
    benchmarks = r"activations\.Arctan(Forward|Backward)\.track_(time|transient_bytes)\(.*, 32768, 'float32'\)"
    assert measured_and_shown(checkout, benchmarks, cells("arctan backward", "numpy-output.fresh"))
    measured = {(record.case["direction"], record.case["variant"]) for record in checkout.records()}
    packed = (checkout.folder / "reports/index.html").read_text().partition('id="data">')[2].partition("<")[0]
    notes = json.loads(gzip.decompress(base64.b64decode(packed)))["notes"]
    assert any(note.endswith("; within 8 ulps") for note in notes)
    assert measured == {
        ("forward", "numpy.fresh"), ("forward", "numpy.out"), ("forward", "numpy.inplace"),
        ("backward", "numpy.fresh"), ("backward", "numpy-output.fresh"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("arctan", "result *= grad", "result *= grad * np.float32(1.00001)", "backward: element"),
        ("arctan", "return np.arctan(x)", "return np.clip(np.arctan(x), -1.5, 1.5)", "forward: element"),
        ("learned_leaky", "terms.sum(keepdims=True)", "terms[:-9].sum(keepdims=True)", "gradient of slope: "),
        ("learned_leaky", "terms.sum(keepdims=True)", "terms.sum(keepdims=True)[None]", "gradient of slope: shape"),
        ("learned_leaky", "grad, slope * grad)", "grad, 0 * grad)", "backward: element"),
        ("learned_leaky", "terms.sum(keepdims=True)", "0 * slope + (terms.sum() * 0)", "gradient of slope: 0"),
        ("learned_leaky", "x, slope * x)", "x, 0 * slope + np.float32(0.25) * x)", "forward: element"),
    ],
)  # fmt: skip
def test_a_wrong_operator_is_refused(checkout, name, old, new, reason):
    add_operator(checkout, name)
    if name == "arctan":
        (checkout.folder / "impls/arctan/rows.py").write_text(snippet("Add an operator", 0))
    path = checkout.folder / "impls" / name / "numpy_.py"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    checkout.commit("wrong")
    checkout.measure(rf"activations\.{camel_case(name)}(Forward|Backward)\.track_time\(.*, 32768, 'float32'\)")
    reasons = [record.measurement.reason for record in checkout.records() if record.measurement.status == "wrong"]
    assert reasons
    assert all(reason in text for text in reasons)


def test_an_operator_has_a_learnable_parameter(checkout):
    assert checkout.changed() == set()
    files = add_operator(checkout, "learned_leaky")
    assert checkout.changed() == files
    benchmarks = r"activations\.LearnedLeaky(Forward|Backward)\.track_time\(.*, 32768, 'float32'\)"
    assert measured_and_shown(checkout, benchmarks, cells("learned_leaky backward", "numpy.fresh"))


def install(folder: Path, name: str, module: str, *files: Path) -> str:
    """Write a package with an entry point to a folder for the import path and return the path."""
    package = folder / module
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for path in files:
        (package / path.name).write_text(path.read_text())
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    table, entry = snippet("Add rows from a package", 0, "toml").splitlines()
    group = re.search(r'"(.*)"', table)[1]
    (about / "entry_points.txt").write_text(
        f"[{group}]\n{entry.replace(chr(34), '')}\n".replace("acme_kernels", module)
    )
    return str(folder)


def test_a_package_adds_rows_under_its_name(checkout, tmp_path_factory):
    packages = install(tmp_path_factory.mktemp("p"), "Acme_Kernels", "acme_kernels", *(RECIPES / "acme").glob("*.py"))
    row = cells("forward", "acme-kernels-fast.out")
    assert measured_and_shown(checkout, forward("acme-kernels-fast.out"), row, packages)
    assert not checkout.changed() - {"reports/index.html"}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'broken.rows'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("ROWS, OPERATORS = (), ('x',)", "TypeError: OPERATORS: 'x' given"),
        ("ROWS = ('x',)", "TypeError: ROWS: 'x' given"),
        ("from impls.relu.rows import ROWS; ROWS = 2 * ROWS[:1]", "forward broken-numpy.fresh is declared already"),
        ("from impls.relu.rows import OPERATORS, ROWS", "operator 'relu' is declared already"),
        (
            "from impls.relu.rows import ROWS; from dataclasses import replace\n"
            "ROWS = (replace(ROWS[0], operator='mish'),)",
            "operator 'mish' given; relu, leaky_relu, ",
        ),
    ],
)
def test_a_package_whose_rows_cannot_be_added_is_left_out_with_the_reason(tmp_path, rows, reason):
    packages = install(tmp_path, "Broken", "broken")
    if rows is not None:
        (tmp_path / "broken/rows.py").write_text(rows)
    code = "from impls.catalog import VARIANTS; print(len(VARIANTS))"
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": packages},
        capture_output=True,
        text=True,
    )
    assert int(process.stdout) == len(VARIANTS)
    assert "rows of broken are left out: " in process.stderr
    assert reason in process.stderr


def test_packages_of_another_commit_are_uninstalled_first(tmp_path, monkeypatch):
    assert install_commit.ENTRY_POINTS == ENTRY_POINTS
    monkeypatch.syspath_prepend(install(tmp_path, "Broken", "broken"))
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    install_commit.main("commit.whl")
    assert commands[0][-3:] == ["uninstall", "--yes", "Broken"]
    assert commands[1][-1] == "commit.whl"


def test_a_network_needs_one_row(checkout):
    insert_after(checkout, "impls/cnn/architecture.py", "    MNIST_CNN,", snippet("Add a network", 0).rstrip("\n"))
    assert checkout.changed() == {"impls/cnn/architecture.py"}
    benchmarks = r"TinyCnn\.track_time\('(numpy.inplace|torch.fresh)', 16\)"
    assert measured_and_shown(checkout, benchmarks, "<td>tiny_cnn</td>")
