"""Results that show each part of the page, reports of them, and what a browser shows of these."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver

from benchmarks.harness.case import Case, OperatorCase, ProductCase
from benchmarks.harness.measurement import Ratio
from benchmarks.harness.roofline.loops import ORDINARY
from impls.catalog import find, variants
from scripts.report import page as report
from tests.synthetic import LATER_COMMIT, process, ratio, record, roof, time

CPU_ROWS = [row for row in variants("relu") if row.device == "cpu"]
WRONG, SKIPPED = time("backward", "numpy.out"), time("forward", "torch-cuda.fresh")
FRESH, IMPOSSIBLE = time("forward", "numpy.fresh"), time("forward", "numpy.inplace")
REASON = "3 of 1048576 elements are wrong; the first is number 7"
# Times of every row, from milliseconds to seconds, and of some rows at a smaller size, from microseconds.
TIMES = {
    time(row.direction, row.name, 2**20, dtype): 1e-3 * 1.06**position
    for position, (row, dtype) in enumerate(
        (row, dtype)
        for row in CPU_ROWS
        for dtype in (row.dtypes if row.direction == "forward" and row.framework == "numpy" else ["float32"])
    )
} | {
    time(row.direction, row.name, 2**10): 1e-6 * number
    for number, row in enumerate(variants("relu", "forward")[:12], 1)
}
TIMES |= {FRESH: 1e-3, WRONG: None, IMPOSSIBLE: 1e-7}
# By framework, the ratios to FRESH of rows of ReLU forward: of itself, a tie, slower, and hardly known.
AGAINST_FASTEST = {
    "numpy": Ratio(1.0, 1.0, 1.0, "numpy.fresh"), "numba": Ratio(1.01, 0.99, 1.02, "numpy.fresh"),
    "torch": Ratio(1.32, 1.3, 1.34, "numpy.fresh"), "jax": Ratio(1.1, 0.5, 3.0, "numpy.fresh"),
}  # fmt: skip
OTHERS = {
    **{roof(f"{kernel}.all"): 1e-5 for kernel in ORDINARY},
    OperatorCase("transient_bytes", "relu", "forward", "numpy.fresh", 2**20, "float32"): 2**22,
    OperatorCase("transient_bytes", "relu", "forward", "numpy.out", 2**20, "float32"): 0,
    OperatorCase("first_call", "relu", "forward", "numba.out", 2**10, "float32"): 1.5,
    ProductCase("time", "torch", 2048): 0.1,
}
PROVENANCE = {
    "profile": "core",
    "cpu": "A Processor 9000",
    "cores_usable": 6,
    "caches_bytes": {"L1d": 2**15, "L2": 2**20},
}


def compared() -> Iterator[dict[str, Any]]:
    """Yield records of ReLU forward in float32 with ratios to the fastest row, the fresh mode, and the roof."""
    for case, seconds in TIMES.items():
        row = find(case.operator, case.direction, case.variant)
        if (case.operator, case.direction, case.elements, case.dtype) == ("relu", "forward", 2**20, "float32"):
            ratios = {"roof": Ratio(100.0, 80.0, 125.0, "copy.all"), "fastest": AGAINST_FASTEST[row.framework]}
            if row.memory != "fresh":
                of_mode = {"out": ratio(0.5, f"{row.flavour}.fresh"), "inplace": ratio(1.0, f"{row.flavour}.fresh")}
                ratios["fresh"] = of_mode[row.memory]
            if case == IMPOSSIBLE:
                ratios["roof"] = Ratio(0.01, 0.005, 0.02, "scale.all")
            processes = [process(20, preempted=12), process(12)]
            interval = (0.9 * seconds, 1.2 * seconds)
            yield record(
                case, value=seconds, commit=LATER_COMMIT, processes=processes, interval=interval, ratios=ratios,
                provenance=PROVENANCE,
            )  # fmt: skip


def build(folder: Path, *arguments: str) -> Path:
    """Write the report of the results in a folder and return its path."""
    assert main(folder, "--out", str(folder / "out"), *arguments) == 0
    return folder / "out"


def main(folder: Path, *arguments: str) -> int:
    return report.main(["--results", str(folder / "results"), "--outcomes", str(folder / "outcomes"), *arguments])


def rows(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """Return the visible rows of the table of everything, by column head."""
    return browser.execute_script("""
        const table = document.getElementById("results");
        const heads = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent);
        return Array.from(table.tBodies[0].rows).filter((row) => !row.hidden && row.className !== "detail").map(
            (row) => Object.fromEntries(heads.map((head, i) => [head, row.cells[i].textContent.trim()])));
    """)


def times(browser: webdriver.Chrome) -> dict[Case, dict[str, Any]]:
    """The visible rows of times of the run that the page shows, by case."""
    return {
        case(row): row
        for row in rows(browser)
        if row["quantity"] == "time"
        and row["commit"] == LATER_COMMIT[:8]
        and "," not in row["operator"]
        and row["memory"]
    }


def cells(browser: webdriver.Chrome, table: str) -> list[list[str]]:
    """The cells of a table, by its id."""
    return browser.execute_script(
        """return Array.from(document.getElementById(arguments[0]).tBodies[0].rows,
            (row) => Array.from(row.cells, (cell) => cell.textContent));""",
        table,
    )


def case(row: dict[str, Any]) -> Case:
    """Return the case of a row of the page."""
    return time(row["operator"], row["variant"], int(row["size"].replace(",", "")), row["dtype"])


def seconds(text: str) -> float:
    """The inverse of `time_text`: seconds of "1.5 ms"; NaN for "impossible"."""
    if text == "impossible":
        return float("nan")
    number, unit = text.removeprefix("≈ ").split()
    return float(number.replace(",", "")) * {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]


def text_of(element: Any) -> str:
    return element.get_attribute("textContent")
