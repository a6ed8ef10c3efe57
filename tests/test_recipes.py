"""Follow the README's recipes: adding a variant, a framework or a network touches no other file."""

import re
from pathlib import Path

import pytest

from benchmarks.harness import measurement
from tests.checkout import ROOT, Checkout

README = (ROOT / "README.md").read_text()
RECIPES = Path(__file__).parent / "recipes"


def snippet(heading: str, number: int) -> str:
    """Return the code block with this index below a heading of the README."""
    section = README.split(f"### {heading}", 1)[1].split("\n#", 1)[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[number]


def insert_after(checkout: Checkout, name: str, line: str, text: str) -> None:
    path = checkout.folder / name
    content = path.read_text()
    assert content.count(f"\n{line}\n") == 1
    path.write_text(content.replace(f"\n{line}\n", f"\n{line}\n{text}\n"))


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def forward(variant: str) -> str:
    return rf"Forward\.(track_time|track_transient_bytes)\('{re.escape(variant)}', 32768, 'float32'\)"


def measured_and_shown(checkout: Checkout, benchmarks: str, cell: str) -> bool:
    checkout.commit("recipe")
    run = checkout.measure(benchmarks)
    assert run.returncode == 0, run.stdout + run.stderr
    assert checkout.report().returncode == 0
    return f"<td>{cell}</td>" in (checkout.folder / "reports/index.html").read_text()


def test_a_variant_is_a_function_and_a_row(checkout):
    checkout.append("impls/relu/numpy_.py", "\n\n" + snippet("Add a variant", 0))
    insert_after(checkout, "impls/catalog.py", "_NUMPY_ROWS: Rows = (", snippet("Add a variant", 1))
    assert checkout.changed() == {"impls/relu/numpy_.py", "impls/catalog.py"}
    assert measured_and_shown(checkout, forward("numpy-zeros.fresh"), "numpy-zeros.fresh")


def test_a_framework_is_a_file_a_driver_and_rows(checkout):
    (checkout.folder / "impls/relu/python_.py").write_text((RECIPES / "python_relu.py").read_text())
    driver = checkout.folder / "benchmarks/harness/frameworks/python_.py"
    driver.write_text((RECIPES / "python_driver.py").read_text())
    insert_after(checkout, "impls/catalog.py", "# fmt: on", snippet("Add a framework", 0))
    insert_after(checkout, "impls/catalog.py", "VARIANTS: tuple[Variant, ...] = (", "    *_PYTHON_ROWS,")
    assert checkout.changed() == {
        "impls/relu/python_.py",
        "benchmarks/harness/frameworks/python_.py",
        "impls/catalog.py",
    }
    assert measured_and_shown(checkout, forward("python.fresh"), "python.fresh")
    endings = [r.measurement.status for r in checkout.records() if r.case["variant"] == "python.fresh"]
    assert len(endings) == 2
    assert set(endings) <= set(measurement.MEASURED)


def test_a_network_is_a_row(checkout):
    insert_after(checkout, "impls/cnn/networks.py", "    for network in (", snippet("Add a network", 0).rstrip("\n"))
    assert checkout.changed() == {"impls/cnn/networks.py"}
    assert measured_and_shown(checkout, r"TinyCnn\.track_time\('(numpy.inplace|torch.fresh)', 16\)", "tiny_cnn")
