"""Test the table of everything in a real browser, with and without JavaScript, and the same numbers as CSV."""

import csv
import re
import shlex
import subprocess
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from benchmarks.harness.case import Case
from benchmarks.harness.measurement import Ratio
from scripts.report.sections import everything
from tests.browser import screen, show, text, wait_until_ready
from tests.checkout import ROOT
from tests.report.conftest import started
from tests.report.pages import (
    CPU_ROWS,
    FRESH,
    IMPOSSIBLE,
    REASON,
    TIMES,
    WRONG,
    build,
    case,
    rows,
    seconds,
    text_of,
    times,
)
from tests.synthetic import COMMIT, DATE_MS, DAY_MS, LATER_COMMIT, content, process, record, time, write, write_records


def test_every_number_is_in_the_table(opened):
    shown = {case: seconds(row["value"]) for case, row in times(opened).items() if row["value"] != "–"}
    assert shown == {
        case: pytest.approx(float("nan") if case == IMPOSSIBLE else number, rel=0.006, nan_ok=True)
        for case, number in TIMES.items()
        if number is not None
    }
    assert {(case.direction, case.variant) for case in shown} == {(row.direction, row.name) for row in CPU_ROWS} - {
        (WRONG.direction, WRONG.variant)
    }


def test_metrics_are_shown_beside_the_time(opened):
    row = times(opened)[FRESH]
    # 8 MiB in a millisecond; the loops take a hundredth of the time.
    assert (row["GB/s"], row["% of roof"], row["interval"]) == ("8.39", "1", "900 µs … 1.2 ms")


def test_rows_are_compared_with_the_fastest_row(opened):
    shown = {
        case.variant: row["fastest"]
        for case, row in times(opened).items()
        if case.elements == 2**20 and case.direction == "forward" and case.dtype == "float32"
    }
    assert shown["numpy.fresh"] == "fastest"
    assert shown["numba.out"] == "= fastest"
    assert shown["torch.out"] == "1.32"
    assert shown["jax.fresh"] == "≈ 1.1"
    # Impossible; without a record.
    assert shown["numpy.inplace"] == "–"
    assert times(opened)[time("backward", "numpy.fresh")]["fastest"] == "–"


def test_impossible_rows_show_no_bandwidth(opened):
    row = times(opened)[IMPOSSIBLE]
    assert (row["value"], row["interval"], row["GB/s"]) == ("impossible", "–", "–")
    # 8 MiB in 0.1 µs.
    assert "83,900" not in text(opened, "main")
    assert "relu forward numpy.inplace 1048576 float32 time: 100 ns, 10,000 % of roof" in text(opened)


def test_csv_contains_the_same_numbers(page):
    with (page / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    times = {
        time(line["direction"], line["variant"], int(line["elements"]), line["dtype"]): float(line["value"] or "nan")
        for line in lines
        if line["quantity"] == "time"
        and line["kind"] == "operator"
        and line["status"] != "skipped"
        and line["commit"] == LATER_COMMIT
    }
    assert times == {case: pytest.approx(number, nan_ok=True) for case, number in TIMES.items() if number} | {
        WRONG: pytest.approx(float("nan"), nan_ok=True)
    }
    assert [line["reason"] for line in lines if line["status"] == "wrong"] == [REASON]
    assert [line["variant"] for line in lines if line["impossible"] == "True"] == [IMPOSSIBLE.variant]


def test_an_opened_row_shows_rounds_circumstances_and_the_command(opened):
    line = line_of(opened, FRESH)
    opened.execute_script("arguments[0].click()", line)
    detail = opened.find_element(By.CSS_SELECTOR, "tr.detail")
    shown = detail.get_attribute("textContent")
    counts = ("rounds left out for a busy hyperthread: 2 of 32", "preempted samples: 12 of 256")
    # 12 MiB on the bus in a millisecond.
    for fact in ("passes: 2", "rounds: 32", "samples: 256", "bus gb per s: 12.58", *counts):
        assert fact in shown
    assert "one thread; one ufunc" in shown
    command = detail.find_element(By.TAG_NAME, "pre").text
    profile, *words, pattern = shlex.split(command)
    # It was measured by core; smoke holds it too.
    assert [profile, *words] == ["RELU_BENCH_PROFILE=core", "asv", "run", f"{LATER_COMMIT[:8]}^!", "--bench"]
    assert re.search(pattern, "relu.Forward.track_time('numpy.fresh', 1048576, 'float32')")
    assert len(detail.find_elements(By.CSS_SELECTOR, "svg circle")) == 32
    line.send_keys(Keys.ENTER)
    assert not opened.find_elements(By.CSS_SELECTOR, "tr.detail")


@pytest.mark.parametrize(
    ("case", "measured", "named"),
    [
        (FRESH, "full", "full"),
        (FRESH, "", "smoke"),
        (FRESH, "unknown", "smoke"),
        (FRESH, "core; reboot", "smoke"),
        (time("forward", "numpy.fresh", 2**20, "float64"), "core", "full"),
        (time("forward", "numpy.fresh", 3), "core", ""),
    ],
)
def test_the_command_names_the_profile_that_was_measured_if_it_holds_the_case(case, measured, named):
    (command,) = everything._commands([case], [COMMIT], [measured])
    assert command.partition(" ")[0] == (f"RELU_BENCH_PROFILE={named}" if named else "")


def test_an_opened_row_is_as_wide_as_a_phone(opened):
    """Its table is wider, and scrolls sideways."""
    width, scrolled = 400, 250
    with screen(opened, width):
        line_of(opened, FRESH).send_keys(Keys.ENTER)
        for left in (0, scrolled):
            # What a block of code holds scrolls within it.
            table, opened_row, *parts = opened.execute_script(
                """const scroll = document.querySelector("#everything .scroll");
                scroll.scrollLeft = arguments[0];
                const parts = document.querySelectorAll("tr.detail .opened, tr.detail .opened *:not(pre *)");
                return [scroll, ...parts].map((part) => part.getBoundingClientRect().toJSON());""",
                left,
            )
            assert table["right"] <= width
            for box in (opened_row, *parts):
                assert table["left"] <= box["left"] < box["right"] <= table["right"]
            # All of the screen, but for margins.
            assert opened_row["width"] > 0.8 * width
        assert opened.execute_script("return document.querySelector('#everything .scroll').scrollLeft") == scrolled


def line_of(browser: webdriver.Chrome, wanted: Case) -> Any:
    """The line of the table that shows a time."""
    lines = browser.find_elements(By.CSS_SELECTOR, "#results tbody tr")
    return next(line for line in lines if case_of_line(browser, line) == wanted)


def case_of_line(browser: webdriver.Chrome, line: Any) -> Case | None:
    """The case of a line of the table; None where it is no time of a row."""
    heads = browser.execute_script("return Array.from(document.querySelectorAll('#results th'), (e) => e.textContent)")
    row = dict(
        zip(
            heads,
            [cell.get_attribute("textContent").strip() for cell in line.find_elements(By.TAG_NAME, "td")],
            strict=True,
        )
    )
    of_run = row["quantity"] == "time" and row["memory"] and row["commit"] == LATER_COMMIT[:8]
    return case(row) if of_run else None


def test_an_opened_row_shows_the_source_of_its_implementation(tmp_path, browser):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    write(tmp_path / "results", content({FRESH: 1e-3}, commit))
    show(browser, build(tmp_path) / "index.html")
    browser.find_element(By.CSS_SELECTOR, "#results tbody tr").send_keys(Keys.ENTER)
    source = text(browser, "tr.detail pre.source")
    assert source.startswith("# impls/relu/numpy_.py\ndef forward(x")
    assert "np.maximum" in source


def test_an_impossible_time_is_in_no_history_and_shows_no_bandwidth_when_opened(tmp_path, browser):
    write(tmp_path / "results", content({IMPOSSIBLE: 1e-3, FRESH: 1e-3}))
    later = content({IMPOSSIBLE: 1e-7, FRESH: 1e-3}, LATER_COMMIT, date_ms=DATE_MS + DAY_MS)
    write(tmp_path / "results", later)
    roof_ratio = {"roof": Ratio(0.01, 0.005, 0.02, "scale.all")}
    about = {"commit": LATER_COMMIT, "interval": (0.9e-7, 1.1e-7), "ratios": roof_ratio}
    write_records(tmp_path / "outcomes", [record(IMPOSSIBLE, value=1e-7, processes=[process()], **about)])
    show(browser, build(tmp_path, "--commit", "b") / "index.html")
    assert "numpy.inplace" not in text(browser, "#history")
    assert "numpy.inplace" not in text(browser, "#answers")
    line = next(
        line for line in browser.find_elements(By.CSS_SELECTOR, "#results tbody tr") if "impossible" in text_of(line)
    )
    line.send_keys(Keys.ENTER)
    shown = text(browser, "tr.detail")
    assert "rounds: 15" in shown
    assert "bus gb per s" not in shown
    assert "low: " not in shown


def click_head(browser: webdriver.Chrome, head: str) -> None:
    (button,) = (b for b in browser.find_elements(By.CSS_SELECTOR, "#results th button") if text_of(b) == head)
    browser.execute_script("arguments[0].click()", button)


def test_values_sort_by_number_with_missing_ones_last(opened):
    opened.find_element(By.CSS_SELECTOR, "[data-filter=quantity]").send_keys("time")
    for descending, aria_sort in ((False, "ascending"), (True, "descending")):
        click_head(opened, "value")
        # Of an impossible row, the number is hidden; its place is not.
        shown = [row["value"] for row in rows(opened) if row["value"] != "impossible"]
        numbers = [seconds(value) for value in shown if value != "–"]
        assert numbers == sorted(numbers, reverse=descending)
        assert shown[len(numbers) :] == ["–"] * (len(shown) - len(numbers))
        heads = opened.find_elements(By.CSS_SELECTOR, "[aria-sort]")
        assert [head.get_attribute("aria-sort") for head in heads] == [aria_sort]


@pytest.mark.parametrize("head", ["operator", "dtype"])
def test_text_columns_sort_alphabetically(opened, head):
    before = [row[head] for row in rows(opened)]
    click_head(opened, head)
    assert [row[head] for row in rows(opened)] == sorted(before)
    click_head(opened, head)
    assert [row[head] for row in rows(opened)] == sorted(before, reverse=True)


def test_filters_show_matching_rows_and_the_address_keeps_them(opened):
    all_rows = rows(opened)
    count = opened.find_element(By.ID, "count")
    assert text_of(count) == f"{len(all_rows)} of {len(all_rows)} rows"
    framework = opened.find_element(By.CSS_SELECTOR, "[data-filter=framework]")
    options = [text_of(option) for option in framework.find_elements(By.TAG_NAME, "option")]
    assert options == ["all", "numpy", "numba", "torch", "jax"]
    # Keys send the event "input", as a user's choice does; Selenium's Select sends only "change".
    framework.send_keys("numba")
    numba = rows(opened)
    assert {row["variant"].partition(".")[0].partition("-")[0] for row in numba} == {"numba"}
    assert text_of(count) == f"{len(numba)} of {len(all_rows)} rows"
    search = opened.find_element(By.ID, "search")
    search.send_keys("INPLACE")
    numba_inplace = [row for row in numba if "inplace" in "".join(row.values())]
    assert 0 < len(numba_inplace) < len(numba)
    assert rows(opened) == numba_inplace
    click_head(opened, "value")
    click_head(opened, "value")
    kept = rows(opened)
    address = opened.current_url
    assert address.endswith("#everything&framework=numba&search=INPLACE&sort=value&descending=1")
    opened.get("about:blank")
    opened.get(address)
    wait_until_ready(opened)
    assert rows(opened) == kept
    opened.execute_script("document.getElementById('reset').click()")
    assert rows(opened) == all_rows
    assert "everything" not in opened.current_url


@pytest.fixture(scope="module")
def still_browser(tmp_path_factory):
    """A browser with JavaScript disabled."""
    preferences = {"profile.managed_default_content_settings.javascript": 2}
    with started(tmp_path_factory.mktemp("profile"), **preferences) as opened:
        yield opened


def test_table_is_complete_without_javascript(opened, still_browser, page):
    show(still_browser, page / "index.html", ready=False)
    assert text(still_browser, "#count") == "", "JavaScript ran"
    assert rows(still_browser) == rows(opened)
    assert not still_browser.find_element(By.ID, "controls").is_displayed()
    assert still_browser.get_log("browser") == []
