"""Test the page in a real browser: its look, what it may load, its answers, and the sections before the table."""

import json
import re

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from scripts.report import metrics, results
from scripts.report.rendering import FOLDER
from tests.browser import screen, show, text
from tests.report.pages import FRESH, REASON, TIMES, cells
from tests.synthetic import COMMIT, LATER_COMMIT, time


def test_page_opens_from_disk_without_console_messages(opened):
    assert opened.title == "ReLU on box"
    assert opened.get_log("browser") == []


def test_page_makes_no_network_requests(opened, page):
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert urls, "the log of the browser's requests is empty"
    assert urls == {(page / "index.html").as_uri()}
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    html = (page / "index.html").read_text()
    assert not re.findall(r"""(?:src|href|action|srcset|data)\s*=\s*["']?(?!#|data:)[^"'>]*//""", html)
    assert not re.findall(r"@import|url\((?!#)", html)


def test_content_security_policy_blocks_injected_scripts(opened, tmp_path):
    """The policy is the second defence after escaping; the attack succeeds on a page without a policy."""
    attack = """
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked=1'>");
        const script = document.createElement("script");
        script.textContent = "window.hacked=1";
        document.body.append(script);
        setTimeout(arguments[0], 100);
    """
    opened.execute_async_script(attack)
    assert opened.execute_script("return window.hacked") is None
    (tmp_path / "open.html").write_text("<!DOCTYPE html><body>")
    show(opened, tmp_path / "open.html", ready=False)
    opened.execute_async_script(attack)
    assert opened.execute_script("return window.hacked") == 1


def test_script_is_small():
    assert (FOLDER / "report.js").stat().st_size <= 60_000


@pytest.mark.parametrize("width", [400, 1300])
def test_page_fits_the_window(opened, width):
    with screen(opened, width):
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_with_the_page(opened, scheme):
    emulate(opened, scheme)
    try:
        luminances = opened.execute_script("""
            const numbers = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
            const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
            const luminance = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
            const body = getComputedStyle(document.body);
            const label = getComputedStyle(document.querySelector("figure svg text"));
            return [body.backgroundColor, body.color, label.fill].map((c) => luminance(numbers(c)));
        """)
    finally:
        emulate(opened, "")
    page, *inks = luminances
    assert (page > 0.5) == (scheme == "light")
    for ink in inks:
        assert (max(page, ink) + 0.05) / (min(page, ink) + 0.05) > 7


def emulate(browser: webdriver.Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_print_shows_all_rows_and_no_controls(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not opened.find_element(By.ID, "controls").is_displayed()
        assert not opened.find_element(By.TAG_NAME, "nav").is_displayed()
        cut_off = opened.execute_script("""
            const scrolls = Array.from(document.querySelectorAll("#everything .scroll"));
            return scrolls.filter((e) => getComputedStyle(e).overflowY !== "visible").length;
        """)
        assert cut_off == 0
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_page_shows_machine_commit_and_other_runs(opened):
    assert "A Processor 9000, 6 cores" in text(opened, "header")
    assert f"Commit {LATER_COMMIT[:8]} of 2023-11-15" in text(opened, "header")
    assert "Of Another Commit" not in text(opened)
    assert sorted(cells(opened, "others")) == [
        ["box", COMMIT[:8], "2023-11-14", "1 numbers"], ["den", COMMIT[:8], "2023-11-14", "1 numbers"],
    ]  # fmt: skip


def test_every_column_is_explained(opened):
    heads = opened.execute_script("return Array.from(document.querySelectorAll('#results th'), (e) => e.textContent)")
    terms = opened.execute_script("return Array.from(document.querySelectorAll('#columns dt'), (e) => e.textContent)")
    assert set(heads) <= set(", ".join(terms).split(", "))


def test_explained_columns_of_the_csv_exist(opened):
    names = opened.execute_script("return Array.from(document.querySelectorAll('#columns code'), (e) => e.textContent)")
    assert {"value", "percent_of_roof"} <= set(names)
    assert set(names) <= {*results.COLUMNS, *results.STEP_COLUMNS, *metrics.JOINED}


def test_answers_name_the_fastest_rows_and_what_others_take(opened):
    answers = dict(
        zip(*(opened.execute_script(
            "return Array.from(document.querySelectorAll(arguments[0]), (e) => e.textContent)", f".answers {tag}"
        ) for tag in ("dt", "dd")), strict=True)
    )  # fmt: skip
    forward = answers["Who is fastest forward?"]
    assert forward.startswith("numpy.fresh: 1 ms for 1,048,576 float32 elements (900 µs … 1.2 ms). ")
    assert "numba.fresh is as fast (0.99 … 1.02)" in forward
    assert "torch.fresh takes 1.32 times as long (1.3 … 1.34)" in forward
    # The data do not tell.
    assert "as long" not in answers["Who is fastest backward?"]
    assert "numpy.fresh reaches 1 % (0.8 … 1.25)" in answers["How far from the limit?"]
    assert "50 % (49 … 51) in numpy" in answers["What does a fresh result cost?"]
    assert "It allocates 4 bytes per element less." in answers["What does a fresh result cost?"]
    assert "1.5 s (numba.out)" in answers["Does compiling pay?"]
    assert "What is ReLU's share of a step?" not in answers
    for link in opened.find_elements(By.CSS_SELECTOR, ".answers a"):
        assert opened.find_elements(By.CSS_SELECTOR, link.get_attribute("hash"))


def test_heat_table_shows_the_chosen_measure(opened):
    def cell(variant: str) -> str:
        (line,) = (line for line in cells_of_heat() if line[1] == variant)
        return line[-1]

    def cells_of_heat() -> list[list[str]]:
        return opened.execute_script("""
            const rows = document.querySelector(".heat:not([hidden]) tbody").rows;
            return Array.from(rows, (row) => Array.from(row.cells, (cell) => cell.textContent));
        """)

    def choose(control: str, option: str) -> None:
        opened.execute_script(
            """const control = document.getElementById(arguments[0]);
            control.value = Array.from(control.options).find((each) => each.text === arguments[1]).value;
            control.dispatchEvent(new Event("input"));""",
            control,
            option,
        )

    assert [cell(name) for name in ("numpy.fresh", "numba.out", "torch.out")] == ["fastest", "= fastest", "1.32"]
    assert cell("numpy.inplace") == "impossible"
    choose("heat-measure", "time")
    assert cell("numpy.fresh") == "1 ms"
    choose("heat-measure", "GB/s")
    assert cell("numpy.fresh") == "8.39"
    choose("heat-measure", "% of roof")
    assert cell("numpy.fresh") == "1"
    choose("heat-measure", "ratio to a row")
    choose("heat-baseline", "numpy.out")
    expected = TIMES[FRESH] / TIMES[time("forward", "numpy.out")]
    assert float(cell("numpy.fresh")) == pytest.approx(expected, rel=0.01)
    choose("heat-table", "backward, float32")
    assert "numpy-where.fresh" in {line[1] for line in cells_of_heat()}


def test_modes_are_compared_with_fresh(opened):
    modes = {line[1]: line for line in cells(opened, "against-fresh")}
    half, tie = "0.5 (0.49 … 0.51)", "= fresh (0.99 … 1.01)"
    assert modes["numba"] == ["forward", "numba", "1,048,576", half, tie]
    # In place is impossible.
    assert modes["numpy"] == ["forward", "numpy", "1,048,576", half, "–"]


def test_roofs_are_shown(opened):
    head, *lines = opened.execute_script("""
        const table = document.querySelector("#roofs");
        return Array.from(table.rows, (row) => Array.from(row.cells, (cell) => cell.textContent).join(" "));
    """)
    assert head == "array fill copy triad scale in place accumulate in place"
    # 4 MiB per array in 10 µs.
    assert lines == ["4 MiB 419 839 1,260 839 1,260"]
    assert "torch 172 (n = 2,048)" in text(opened)


def test_times_that_were_compared_with_no_roof_are_counted(opened):
    forward = [case for case in TIMES if case.operator == "relu" and case.direction == "forward"]
    checked = [case for case in forward if (case.elements, case.dtype) == (2**20, "float32")]
    unchecked = sum(seconds is not None for seconds in TIMES.values()) - len(checked)
    assert f"{unchecked} times were compared with no roof" in text(opened)


def test_history_shows_the_change_since_the_commit_before(opened):
    (line,) = cells(opened, "series")
    assert line[0] == "relu forward numpy.out 1048576 float32 time"
    assert line[2] == "5 s"
    assert line[-1] == "apart"
    assert opened.find_elements(By.CSS_SELECTOR, "#series svg polyline")


def test_failures_are_listed_with_their_reasons(opened):
    assert cells(opened, "failures") == [
        ["skipped", "relu forward torch-cuda.fresh 1048576 float32 time", "no CUDA device"],
        ["wrong", "relu backward numpy.out 1048576 float32 time", REASON],
    ]
