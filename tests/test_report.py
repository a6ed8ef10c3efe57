"""Test the report in a real browser, with and without JavaScript, from synthetic and from hostile results."""

import csv
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from benchmarks.harness.case import Case, DeviceLoopCase, OperatorCase, ProductCase, StepCase
from benchmarks.harness.machine import provenance
from benchmarks.harness.measurement import DeviceTiming, Ratio, StepTiming
from benchmarks.harness.roofline.loops import ORDINARY
from benchmarks.harness.timing import intervals
from impls.catalog import VARIANTS, find, variants
from scripts.report import figures, results
from scripts.report import page as report
from tests.checkout import ROOT
from tests.synthetic import (
    COMMIT,
    DATE_MS,
    DAY_MS,
    ENV,
    LATER_COMMIT,
    changed,
    content,
    process,
    ratio,
    record,
    roof,
    time,
    write,
    write_records,
)

CPU_ROWS = [row for row in VARIANTS if row.device == "cpu"]
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
PROVENANCE = {"cpu": "A Processor 9000", "cores_usable": 6, "caches_bytes": {"L1d": 2**15, "L2": 2**20}}


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


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report from results of two machines and two commits; it shows the commit measured last."""
    folder = tmp_path_factory.mktemp("report")
    last = content({**TIMES, **OTHERS}, LATER_COMMIT, date_ms=DATE_MS + DAY_MS, started_ms=DATE_MS + 9 * DAY_MS)
    write(folder / "results", last)
    write(folder / "results", content({time("forward", "numpy.out"): 5.0}))
    write(folder / "results", content({time("forward", "torch.out"): 6.0}, started_ms=DATE_MS), "den")
    lines = [
        record(WRONG, "wrong", REASON, commit=LATER_COMMIT),
        record(SKIPPED, "skipped", "no CUDA device", commit=LATER_COMMIT),
        *compared(),
        record(time("forward", "numpy.out"), provenance={"cpu": "Of Another Commit"}, time_s=9.0),
    ]
    write_records(folder / "outcomes", lines)
    return build(folder)


GPU = {"gpus": "A GPU 9000", "gpu_driver": "NVIDIA 999"}
THROTTLED = time("forward", "triton-cuda.out", 2**25)


@pytest.fixture(scope="module")
def gpu_page(tmp_path_factory):
    """A report of a GPU with device times of all rows but JAX's; one row is throttled, one impossible."""
    folder = tmp_path_factory.mktemp("gpu")
    numbers: dict[Case, float | None] = {}
    lines = []
    for n in (2**10, 2**15, 2**20, 2**25):
        copy_s = 2e-6 + 8 * n / 3e12
        numbers |= {DeviceLoopCase("time", work, 4 * n): copy_s for work in ("copy", "scale")}
        for number, row in enumerate(row for row in VARIANTS if row.device == "cuda"):
            case = time(row.direction, row.name, n)
            device_s = (1 + number / 40) * (2e-6 + row.required_traffic.algorithmic_bytes(n, 4) / 2.8e12)
            if case == time("backward", "torch-cuda.out", 2**25):
                device_s /= 2
            numbers[case] = device_s + 1e-5
            timing = DeviceTiming(device_s=None if row.framework == "jax" else device_s)
            throttled = 3 if case == THROTTLED else 0
            reason = "power cap throttled the GPU in 3 of 30 samples" if throttled else ""
            processes = [process(throttled=throttled, device=timing)]
            status = "unstable" if throttled else "ok"
            lines.append(record(case, status, reason, numbers[case], processes, GPU))
    write(folder / "results", content(numbers))
    write_records(folder / "outcomes", lines)
    return build(folder)


def test_gpu_figures_separate_device_time_and_host_latency(gpu_page):
    names = {path.name for path in gpu_page.glob("*-gpu-*.svg")}
    assert names == {
        f"{operator}.{direction}-float32-gpu-{kind}.svg"
        for operator, direction in report.SUBJECTS
        for kind in ("device", "latency")
    }
    device_time, host_latency = (
        (gpu_page / f"relu.forward-float32-gpu-{kind}.svg").read_text() for kind in ("device", "latency")
    )
    # JAX has host latency only; the roofs are device times.
    assert ("roof: copy" in device_time, "jax-cuda" in device_time) == (True, False)
    assert ("roof: copy" in host_latency, "jax-cuda" in host_latency) == (False, True)


def test_gpu_table_shows_device_time_and_host_latency(gpu_page, tmp_path):
    with chromium(tmp_path / "profile") as browser:
        browser.get((gpu_page / "index.html").as_uri())
        cells_of_rows = browser.execute_script("""
            const table = document.querySelectorAll("#gpu ~ .scroll table")[0];
            return Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells, (cell) => cell.textContent));
        """)
        rows = {(line[0], line[1], line[3]): line[5:] for line in cells_of_rows}
        # 4 MiB read and written at 2.8 TB/s and 2 µs, against 3 TB/s.
        assert rows["forward", "torch-cuda.fresh", "1,048,576"] == ["5 µs", "1,680", "96", "15 µs", "559", "32", "0"]
        assert rows["forward", "jax-cuda.fresh", "1,048,576"][:3] == ["–", "–", "–"]
        assert rows["backward", "torch-cuda.out", "33,554,432"] == ["impossible", "–", "–", "–", "–", "–", "0"]
        throttled = rows["forward", "triton-cuda.out", "33,554,432"]
        assert throttled[3].startswith("≈ ")
        assert throttled[-1] == "3"
        body = browser.find_element(By.TAG_NAME, "body").text
        assert "A GPU 9000. Each row has two times, which no figure mixes: device time" in body
        assert "triton on the GPU" in body
        assert "power cap throttled the GPU in 3 of 30 samples" in browser.page_source


@contextmanager
def chromium(profile: Path, **preferences: Any) -> Iterator[webdriver.Chrome]:
    names = ("chromium", "chromium-browser", "google-chrome")
    browser, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.add_experimental_option("prefs", preferences)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def still_browser(tmp_path_factory):
    """A browser with JavaScript disabled."""
    preferences = {"profile.managed_default_content_settings.javascript": 2}
    with chromium(tmp_path_factory.mktemp("profile"), **preferences) as opened:
        yield opened


@pytest.fixture
def opened(browser, page):
    show(browser, page / "index.html")
    return browser


def show(browser: webdriver.Chrome, path: Path) -> None:
    """Open a file and drop the logs of the previous page."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())


def rows(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """Return the visible rows of the table of results, by column head; "values" are sort keys, "titles" hints."""
    return browser.execute_script("""
        const table = document.getElementById("results");
        const heads = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent);
        return Array.from(table.tBodies[0].rows).filter((row) => row.offsetParent).map((row) => ({
            ...Object.fromEntries(heads.map((head, i) => [head, row.cells[i].textContent])),
            values: Object.fromEntries(heads.map((head, i) => [head, row.cells[i].dataset.value])),
            titles: Object.fromEntries(heads.map((head, i) => [head, row.cells[i].title])),
            framework: row.dataset.framework,
            text: row.textContent,
        }));
    """)


def case(row: dict[str, Any]) -> Case:
    """Return the case of a row of the page."""
    return time(row["operator"], row["variant"], int(row["elements"].replace(",", "")), row["dtype"])


def seconds(text: str) -> float:
    """The inverse of `page.time_text`: seconds of "1.5 ms"; NaN for "impossible"."""
    if text == "impossible":
        return float("nan")
    number, unit = text.removeprefix("≈ ").split()
    return float(number.replace(",", "")) * {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]


def floats(texts: list[str]) -> list[float]:
    return [float(text or "nan") for text in texts]


def test_page_opens_from_disk_without_console_messages(opened):
    assert opened.title == "ReLU on box"
    assert opened.get_log("browser") == []


def test_page_makes_no_network_requests(opened, page):
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert urls, "the log of the browser's requests is empty"
    assert {url for url in urls if not url.startswith("data:")} == {(page / "index.html").as_uri()}
    loaded = opened.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith("data:") for name in loaded)
    html = (page / "index.html").read_text()
    assert not re.findall(r"""(?:src|href|action|srcset|data)\s*=\s*["']?(?!#|data:)[^"'>]*//""", html)
    assert not re.findall(r"@import|url\(", html)


def test_every_number_is_in_the_table(opened):
    shown = {case(row): seconds(row["time"]) for row in rows(opened)}
    assert shown == {
        case: pytest.approx(float("nan") if case == IMPOSSIBLE else number, rel=0.006, nan_ok=True)
        for case, number in TIMES.items()
        if number is not None
    }
    assert {(case.direction, case.variant) for case in shown} == {(row.direction, row.name) for row in CPU_ROWS} - {
        (WRONG.direction, WRONG.variant)
    }


def test_every_column_is_explained(opened):
    heads = [head.text for head in opened.find_elements(By.CSS_SELECTOR, "#results th")]
    terms = [term.text for term in opened.find_elements(By.CSS_SELECTOR, "#columns ~ dl dt")]
    readme = (ROOT / "README.md").read_text().split("Columns of the table")[1].split("\n\n`")[0]
    assert set(heads) <= set(", ".join(terms).split(", "))
    assert set(heads) <= set(", ".join(re.findall(r"^- \*\*(.+?)\*\*", readme, re.MULTILINE)).split(", "))


def test_explained_columns_of_the_csv_exist(opened):
    names = {name.text for name in opened.find_elements(By.CSS_SELECTOR, "#columns ~ dl code")}
    quantities = {"cold", "transient_bytes", "saved_bytes"}
    assert quantities <= names
    assert names - quantities <= set(report.OPERATOR_COLUMNS)


def test_metrics_are_shown_beside_the_time(opened):
    (row,) = (row for row in rows(opened) if case(row) == FRESH)
    # 8 MiB in a millisecond; 4 MiB more fetched; the loops take a hundredth of the time.
    assert (row["GB/s"], row["bus GB/s"], row["% of roof"]) == ("8.39", "12.6", "1")
    assert row["95 % interval"] == "900 µs … 1.2 ms"
    assert row["titles"]["time"] == "32 rounds in 2 passes"
    assert row["titles"]["% of roof"] == "0.8 … 1.25"
    assert row["allocated B/element"] == "4"
    # Of 256 samples 12; of 32 rounds 2.
    assert (row["preempted"], row["SMT contended"]) == ("4.7 %", "6.2 %")


def test_rows_are_compared_with_the_fastest_row(opened):
    cells = {case(row): row for row in rows(opened)}
    names = ("numpy.fresh", "numba.out", "torch.out", "jax.fresh", "numpy.inplace")
    forward = {name: cells[time("forward", name)] for name in names}
    shown = {
        name: tuple(part["× fastest"] for part in (row, row["values"], row["titles"])) for name, row in forward.items()
    }
    assert shown["numpy.fresh"] == ("fastest", "1.0", "")
    assert shown["numba.out"] == ("= fastest", "1.01", "0.99 … 1.02 times numpy.fresh")
    assert shown["torch.out"] == ("1.32", "1.32", "1.3 … 1.34 times numpy.fresh")
    assert shown["jax.fresh"] == ("≈ 1.1", "1.1", "0.5 … 3 times numpy.fresh")
    # Impossible; without a record.
    assert shown["numpy.inplace"][0] == "–"
    backward = cells[time("backward", "numpy.fresh")]
    assert (backward["× fastest"], backward["95 % interval"], backward["% of roof"]) == ("–", "– … –", "–")


def test_modes_are_compared_with_fresh(opened):
    lines = opened.execute_script("""
        const heads = Array.from(document.querySelectorAll("h3"), (head) => head);
        const table = heads.find((head) => head.textContent == "Time relative to fresh").nextElementSibling
            .nextElementSibling.querySelector("table");
        return Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells, (cell) => cell.textContent));
    """)
    modes = {line[1]: line for line in lines}
    half, tie = "0.5 (0.49 … 0.51)", "= fresh (0.99 … 1.01)"
    assert modes["numba"] == ["forward", "numba", "1,048,576", half, tie]
    # In place is impossible.
    assert modes["numpy"] == ["forward", "numpy", "1,048,576", half, "–"]


def test_times_that_were_compared_with_no_roof_are_counted(opened):
    forward = [case for case in TIMES if case.operator == "relu" and case.direction == "forward"]
    checked = [case for case in forward if (case.elements, case.dtype) == (2**20, "float32")]
    unchecked = sum(seconds is not None for seconds in TIMES.values()) - len(checked)
    assert f"{unchecked} times were compared with no roof" in opened.find_element(By.TAG_NAME, "body").text


def test_impossible_rows_show_no_bandwidth(opened):
    (row,) = (row for row in rows(opened) if case(row) == IMPOSSIBLE)
    assert row["time"] == row["GB/s"] == "impossible"
    assert row["values"]["time"] == ""
    assert row["values"]["GB/s"] == ""
    assert row["bus GB/s"] == "–"
    body = opened.find_element(By.TAG_NAME, "body").text
    # 8 MiB in 0.1 µs.
    assert "83,900" not in body
    assert "forward numpy.inplace, time, 1,048,576 float32: 100 ns, 10,000 % of roof" in body


def test_roofs_are_shown(opened):
    table = opened.find_element(By.XPATH, "//h3[.='Roofs']/following::table[1]")
    head, row = (line.text for line in table.find_elements(By.TAG_NAME, "tr"))
    assert head == "array fill copy triad scale in place accumulate in place"
    # 4 MiB per array in 10 µs.
    assert row == "4 MiB 419 839 1,260 839 1,260"
    assert "torch 172 (n = 2,048)" in opened.find_element(By.TAG_NAME, "body").text


def test_headline_excludes_impossible_rows(opened):
    cards = [card.text for card in opened.find_elements(By.CLASS_NAME, "card")]
    assert cards
    assert not any("numpy.inplace: one thread; one ufunc" in card for card in cards)
    assert any("numpy" in card and "1 ms" in card and "8.39 GB/s · 1 % of roof (0.8 … 1.25)" in card for card in cards)


def test_headline_compares_frameworks(opened):
    """Cards of ReLU forward, which are the first."""
    cards = {card.text.split("\n")[0]: card.text for card in opened.find_elements(By.CLASS_NAME, "card")[:4]}
    assert "\nfastest of all\n" in cards["numpy"]
    assert "\ntie with numpy.fresh (0.99 … 1.02)\n" in cards["numba"]
    assert "\n1.32 × numpy.fresh (1.3 … 1.34)\n" in cards["torch"]
    assert "\n≈ 1.1 × numpy.fresh (0.5 … 3)\n" in cards["jax"]


def test_failures_are_listed_with_their_reasons(opened):
    lines = opened.execute_script("""
        const table = document.getElementById("without").nextElementSibling.querySelector("table");
        return Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells, (cell) => cell.textContent));
    """)
    assert lines == [
        ["skipped", "relu forward torch-cuda.fresh 1048576 float32 time", "no CUDA device"],
        ["wrong", "relu backward numpy.out 1048576 float32 time", REASON],
    ]


@pytest.mark.parametrize("width", [400, 1300])
def test_page_fits_the_window(opened, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_page_shows_machine_commit_and_other_runs(opened):
    text = opened.find_element(By.TAG_NAME, "body").text
    assert "A Processor 9000, 6 cores" in text
    assert "Of Another Commit" not in text
    assert f"Commit {LATER_COMMIT[:8]} of 2023-11-15" in text
    assert re.search(rf"box\s+{COMMIT[:8]}\s+2023-11-14\s+1 numbers", text)
    assert re.search(rf"den\s+{COMMIT[:8]}\s+2023-11-14\s+1 numbers", text)


def test_figures_are_drawn(opened):
    drawn = opened.execute_script("return Array.from(document.images, (image) => [image.alt, image.naturalWidth])")
    # Throughput of three operators in float32 and of forward in two more dtypes, memory of three, first call.
    assert len(drawn) == 9
    assert all(alt and width > 100 for alt, width in drawn)


@pytest.mark.parametrize("head", ["time", "elements", "GB/s", "% of roof"])
def test_numeric_columns_sort_by_number_with_missing_values_last(opened, head):
    def shown() -> list[float]:
        return floats([row["values"][head] for row in rows(opened)])

    before = shown()
    (button,) = (b for b in opened.find_elements(By.CSS_SELECTOR, "#results th button") if b.text == head)
    for descending, aria_sort in ((False, "ascending"), (True, "descending")):
        opened.execute_script("arguments[0].click()", button)
        numbers = [number for number in shown() if number == number]
        assert shown()[: len(numbers)] == numbers
        assert numbers == sorted(numbers, reverse=descending)
        assert sorted(numbers) == sorted(number for number in before if number == number)
        assert [h.get_attribute("aria-sort") for h in opened.find_elements(By.CSS_SELECTOR, "[aria-sort]")] == [
            aria_sort
        ]
    if head == "time":
        # The visible text is in the same order.
        assert [seconds(row["time"]) for row in rows(opened)] == pytest.approx(shown(), rel=0.006, nan_ok=True)


@pytest.mark.parametrize("head", ["operator", "dtype"])
def test_text_columns_sort_alphabetically(opened, head):
    (button,) = (b for b in opened.find_elements(By.CSS_SELECTOR, "#results th button") if b.text == head)
    before = [row[head] for row in rows(opened)]
    button.send_keys(Keys.ENTER)
    assert [row[head] for row in rows(opened)] == sorted(before)
    button.send_keys(Keys.ENTER)
    assert [row[head] for row in rows(opened)] == sorted(before, reverse=True)


def test_filters_show_matching_rows(opened):
    all_rows = rows(opened)
    label = opened.find_element(By.ID, "shown")
    assert label.text == f"{len(all_rows)} of {len(all_rows)} rows"
    framework = opened.find_element(By.CSS_SELECTOR, "[data-filter=framework]")
    assert [option.text for option in framework.find_elements(By.TAG_NAME, "option")] == [
        "all",
        "numpy",
        "numba",
        "torch",
        "jax",
    ]
    # Keys send the event "input", as a user's choice does; Selenium's Select sends only "change".
    framework.send_keys("numba")
    numba = [row for row in all_rows if row["framework"] == "numba"]
    assert rows(opened) == numba
    assert label.text == f"{len(numba)} of {len(all_rows)} rows"
    search = opened.find_element(By.CSS_SELECTOR, "[data-filter=text]")
    search.send_keys("INPLACE")
    numba_inplace = [row for row in numba if "inplace" in row["text"]]
    assert 0 < len(numba_inplace) < len(numba)
    assert rows(opened) == numba_inplace
    search.send_keys(" nothing has this")
    assert rows(opened) == []
    assert label.text == f"0 of {len(all_rows)} rows"
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys(Keys.DELETE)
    assert rows(opened) == numba
    framework.send_keys(Keys.HOME)
    assert rows(opened) == all_rows


def test_table_is_complete_without_javascript(opened, still_browser, page):
    show(still_browser, page / "index.html")
    assert still_browser.find_element(By.ID, "shown").get_attribute("textContent") == "", "JavaScript ran"
    assert rows(still_browser) == rows(opened)
    assert not still_browser.find_element(By.ID, "controls").is_displayed()
    assert still_browser.get_log("browser") == []


def test_csv_contains_the_same_numbers(page):
    with (page / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    times = {
        time(line["direction"], line["variant"], int(line["elements"]), line["dtype"]): float(line["value"] or "nan")
        for line in lines
        if line["quantity"] == "time" and line["status"] != "skipped"
    }
    assert times == {case: pytest.approx(number, nan_ok=True) for case, number in TIMES.items() if number} | {
        WRONG: pytest.approx(float("nan"), nan_ok=True)
    }
    assert [line["reason"] for line in lines if line["status"] == "wrong"] == [REASON]
    assert [line["variant"] for line in lines if line["impossible"] == "True"] == [IMPOSSIBLE.variant]


# The name of a folder cannot contain a slash.
HOSTILE_NAME = '"><svg onload=window.hacked=1><img src=x onerror=window.hacked=1>{{7*7}}'
FORMULAS = ("=cmd|' C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "text\r=1", "text\n=1")


def hostile(place: str) -> str:
    """Return text that attacks HTML, JavaScript, templates and figures, marked by its place."""
    return (
        f"""{HOSTILE_NAME}<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>'"""
        f"""</style></title></textarea>--></table>$\\frac{{$&lt;{{% raw %}}({place})"""
    )


@pytest.fixture
def attack(tmp_path):
    """Files in which every text from outside is hostile."""
    numbers = {time("forward", "numpy.out"): 1e-3, time("forward", "numpy.fresh"): None}
    about = {"machine": HOSTILE_NAME, "commit": "<script>window.hacked=1</script>", "env": hostile("env")}
    stored = content(numbers, about["commit"], about["env"])
    write(tmp_path / "results", stored, HOSTILE_NAME, "stored.json")
    write(tmp_path / "results", {"cpu": hostile("cpu"), hostile("key"): hostile("value")}, HOSTILE_NAME, "machine.json")
    write(tmp_path / "results", [], HOSTILE_NAME, f"{HOSTILE_NAME}.json")
    write(tmp_path / "results", stored, FORMULAS[0], "stored.json")
    caches = {hostile("cache"): 2**15, "$\\frac{$": 2**20, "L3": hostile("size"), "L4": -1, "L5": 10**400}
    provenance = {
        "cpu": hostile("provenance"),
        "cores_usable": hostile("cores"),
        hostile("field"): {hostile("inner field"): hostile("inner value")},
        "caches_bytes": caches,
    }
    failed = record(
        time("forward", "numpy.fresh"), "error", hostile("reason"), **about, provenance=provenance
    )  # fmt: skip
    skipped = OperatorCase(
        hostile("quantity"), hostile("operator"), hostile("direction"), hostile("variant"), 1, hostile("dtype")
    )
    foreign = record(time("backward", "numpy.fresh"), hostile("status"), **about)
    lines = [failed, record(skipped, "skipped", hostile("skip"), **about), foreign]
    write_records(tmp_path / "outcomes", lines, "a/a.jsonl")
    about["machine"] = FORMULAS[0]
    formulas = [
        record(time("forward", "torch.out", 2**number), "error", formula, **about)
        for number, formula in enumerate(FORMULAS)
    ]
    write_records(tmp_path / "outcomes", formulas, "b/b.jsonl")
    return tmp_path


def assert_harmless(browser: webdriver.Chrome) -> None:
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.scripts.length") == 1
    assert (
        browser.execute_script("return document.querySelectorAll('body svg, [src=x], [onload], [onerror]').length") == 0
    )
    # The log would name a script that the page's policy blocked.
    assert browser.get_log("browser") == []


WITH_RECORDS = (
    "provenance", "cores", "field", "inner field", "inner value", "cache", "size",
    "reason", "quantity", "operator", "direction", "variant", "dtype", "skip",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Tight layout not applied")
@pytest.mark.parametrize(
    "places", [("env", *WITH_RECORDS), ("env", "cpu", "key", "value")], ids=["records", "no records"]
)
def test_hostile_text_is_shown_as_text(attack, browser, places):
    if "reason" not in places:
        shutil.rmtree(attack / "outcomes")
    out = build(attack, "--machine", HOSTILE_NAME)
    show(browser, out / "index.html")
    assert_harmless(browser)
    assert browser.title == f"ReLU on {HOSTILE_NAME}"
    text = browser.execute_script("return document.body.textContent")
    assert [place for place in places if hostile(place) not in text] == []
    assert f"{HOSTILE_NAME}.json: not a JSON object" in text
    assert FORMULAS[0] in text


@pytest.mark.filterwarnings("ignore:Tight layout not applied")
def test_hostile_text_is_harmless_in_figures(attack, browser):
    drawn = sorted(build(attack, "--machine", HOSTILE_NAME).glob("*.svg"))
    assert any(hostile("cache") in "".join(ElementTree.parse(path).getroot().itertext()) for path in drawn)
    for path in drawn:
        assert not [e for e in ElementTree.parse(path).iter() if e.tag.endswith("script") or "onload" in e.attrib]
        browser.get(path.as_uri())
        assert browser.execute_script("return window.hacked") is None


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
    show(opened, tmp_path / "open.html")
    opened.execute_async_script(attack)
    assert opened.execute_script("return window.hacked") == 1


def test_csv_contains_no_formulas(attack):
    text = (build(attack, "--machine", FORMULAS[0]) / "results.csv").read_bytes().decode()
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {f"'{formula}" for formula in FORMULAS[:6]} | set(FORMULAS[6:]) <= {line["reason"] for line in lines}
    assert {line["machine"] for line in lines} == {f"'{FORMULAS[0]}"}
    assert not [cell for line in lines for cell in line.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.parametrize(
    "provenance", ["text", ["list"], 7, {"caches_bytes": "unknown"}, {"caches_bytes": {"L1d": None}}]
)
def test_foreign_provenance_raises_no_exception(tmp_path, provenance):
    write(tmp_path / "results", content({time("forward", "numpy.out"): 1e-3}))
    line = changed(record(time("forward", "numpy.out")), "measurement.provenance", provenance)
    write_records(tmp_path / "outcomes", [line])
    assert "processor unknown" in (build(tmp_path) / "index.html").read_text()


def test_text_with_a_lone_surrogate_is_written(tmp_path):
    write(tmp_path / "results", content({WRONG: None}, env="undecodable \ud800"), name="stored.json")
    out = build(tmp_path)
    assert "undecodable" in (out / "index.html").read_text()
    assert "undecodable" in (out / "results.csv").read_text()


def test_times_without_statistics_are_shown(tmp_path):
    """asv leaves out the columns in which every value is missing."""
    stored = content({time("forward", "numpy.out"): 1e-3})
    stored["results"] = {name: row[:5] for name, row in stored["results"].items()}
    write(tmp_path / "results", stored)
    assert "1 ms" in (build(tmp_path) / "index.html").read_text()


@pytest.fixture
def shared_name(tmp_path):
    """One commit measured in part on one machine, then on another of the same name."""
    numbers = {time("forward", "numpy.out"): 1e-3, time("forward", "numba.out"): 2e-3}
    write(tmp_path / "results", content(numbers))
    lines = [
        record(case, value=value, time_s=1e9 + 1e6 * value, provenance={**PROVENANCE, **facts})
        for (case, value), facts in zip(
            numbers.items(), [{"fingerprint": "0ld", "cpu": "An Old One"}, {"fingerprint": "new"}], strict=True
        )
    ]
    write_records(tmp_path / "outcomes", [*lines, record(WRONG, "wrong", REASON)])
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "shown", "left_out"),
    [((), "numba.out", "numpy.out"), (("--fingerprint", "0ld"), "numpy.out", "numba.out")],
    ids=["newest", "chosen"],
)
def test_machines_of_the_same_name_are_distinguished_by_fingerprint(shared_name, capsys, arguments, shown, left_out):
    out = build(shared_name, *arguments)
    with (out / "results.csv").open(newline="") as file:
        fingerprints = {line["variant"]: line["fingerprint"] for line in csv.DictReader(file) if line["value"]}
    assert fingerprints == {shown: "new" if shown == "numba.out" else "0ld"}
    html = (out / "index.html").read_text()
    assert "come from 2 different machines" in html
    assert "An Old One" in html
    assert "A Processor 9000" in html
    assert "2 different machines share the name 'box'" in capsys.readouterr().err


def test_all_provenance_of_the_machine_is_shown(tmp_path):
    case = time("forward", "numpy.out")
    facts = provenance.collect()
    write(tmp_path / "results", content({case: 1e-3}))
    write_records(tmp_path / "outcomes", [record(case, value=1e-3, provenance=facts)])
    html = (build(tmp_path) / "index.html").read_text()
    assert [name for name in facts if f"<td>{name.replace('_', ' ')}</td>" not in html] == []
    assert '<td class="differs">unknown</td>' in html
    assert "different machines" not in html


def test_skipped_cases_alone_are_shown(tmp_path):
    write_records(tmp_path / "outcomes", [record(SKIPPED, "skipped", "no CUDA device")])
    html = (build(tmp_path) / "index.html").read_text()
    assert "no CUDA device" in html
    assert "NaT" not in html


def test_list_names_machines_and_commits(page, capsys):
    assert main(page.parent, "--list") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split()[:2] == ["box", LATER_COMMIT[:8]]
    assert {tuple(line.split()[:2]) for line in printed[1:]} == {
        ("box", LATER_COMMIT[:8]), ("box", COMMIT[:8]), ("den", COMMIT[:8]),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "commit", "chosen"),
    [
        (None, None, ("box", LATER_COMMIT)),
        ("den", None, ("den", COMMIT)),
        (None, "aaaa", ("box", COMMIT)),
        ("box", COMMIT, ("box", COMMIT)),
        ("den", "a", ("den", COMMIT)),
    ],
)
def test_chosen_machine_and_commit(page, machine, commit, chosen):
    table = results.load(page.parent / "results", page.parent / "outcomes").table
    choice = report.choose(table, machine, commit)
    assert (choice.machine, choice.commit) == chosen


def test_default_is_the_run_measured_last(tmp_path):
    numbers = {time("forward", "numpy.out"): 1.0}
    for machine, commit, date_ms, started_ms in [
        ("box", COMMIT, DATE_MS, DATE_MS + 5 * DAY_MS),
        ("den", COMMIT, DATE_MS, DATE_MS + 7 * DAY_MS),
        ("eel", LATER_COMMIT, DATE_MS + DAY_MS, DATE_MS + 6 * DAY_MS),
    ]:
        write(tmp_path / "results", content(numbers, commit, ENV, date_ms, started_ms), machine)
    table = results.load(tmp_path / "results", tmp_path / "outcomes").table
    assert report.choose(table) == results.Run("den", "unknown", COMMIT, ENV)
    assert report.choose(table, commit="b").machine == "eel"


def test_the_environment_with_the_most_numbers_is_shown(tmp_path):
    write(tmp_path / "results", content({time("forward", "numpy.out"): 1.0}, env="a-small"))
    write(tmp_path / "results", content({time("forward", "numpy.out"): 2.0, WRONG: 3.0}, env="b-large"))
    table = results.load(tmp_path / "results", tmp_path / "outcomes").table
    assert report.choose(table).env == "b-large"


@pytest.mark.parametrize(
    "arguments", [("--machine", "nowhere"), ("--commit", "123"), ("--machine", "den", "--commit", "b")]
)
def test_unknown_choice_lists_the_available_ones(page, capsys, tmp_path, arguments):
    assert main(page.parent, "--out", str(tmp_path / "out"), *arguments) == 1
    message = capsys.readouterr().err
    for expected in (arguments[1], "box", "den", LATER_COMMIT[:8], COMMIT[:8]):
        assert expected in message
    assert not (tmp_path / "out").exists()


def test_missing_results_name_the_folder_and_the_command(tmp_path, capsys):
    assert main(tmp_path, "--out", str(tmp_path / "out")) == 1
    message = capsys.readouterr().err
    assert str(tmp_path / "results") in message
    assert "./scripts/bench" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1 s"), (123.4, "123 s"), (12345, "12,300 s"), (0.0123, "12.3 ms"), (1e-3, "1 ms"),
        (9.996e-4, "1,000 µs"), (1.5e-6, "1.5 µs"), (2e-9, "2 ns"), (1e-10, "0.1 ns"),
        (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_time_text(value, text):
    assert report.time_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.388608, "8.39"), (1234.5, "1,230"), (0.000012345, "0.0000123"), (0, "0"), (123456789, "123,000,000"),
        (100, "100"), (2.5e15, "2,500,000,000,000,000"), (-1.5, "-1.5"), (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_number_text(value, text):
    assert report.number_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(512, "512 B"), (1000, "1000 B"), (2**22, "4 MiB"), (3 * 2**29, "1.5 GiB"), (2**41, "2048 GiB")]
)
def test_bytes_text(value, text):
    assert figures.bytes_text(value) == text


def test_training_steps_are_shown_with_phases_and_memory(tmp_path):
    numbers = {
        StepCase("time", "mnist_cnn", "numpy.inplace", 64): 0.016,
        StepCase("time", "mnist_cnn", "jax.fresh", 64): 0.032,
        StepCase("time", "mnist_cnn", "torch.fresh", 64): 1e-6,
        ProductCase("time", "torch", 2048): 0.1,
        StepCase("first_call", "mnist_cnn", "jax.fresh", 16): 2.5,
        **{
            StepCase(quantity, "mnist_cnn", f"torch.{memory}", 16): value
            for quantity, memory, value in (
                ("saved_bytes", "fresh", 4_000_000.0),
                ("saved_bytes", "inplace", 4_000_000.0),
                ("peak_bytes", "fresh", 9_000_000.0),
                ("peak_bytes", "inplace", 6_750_000.0),
            )
        },
    }
    # Seconds of phases in three rounds; the second pass is slower.
    phases = {"forward": 6e-3, "loss": 1e-3, "backward": 8e-3, "update": 1e-3}
    passes = [
        StepTiming(1e-6, {name: [scale * seconds for scale in scales] for name, seconds in phases.items()}, share)
        for scales, share in (((1, 1.1, 2), [-0.5, 3.0, 7.25]), ((1.1, 1.2), [3.0, 4.0]))
    ]
    of_numpy = {"fastest": ratio(1.0, "numpy.inplace", 0), "fresh": ratio(0.9, "numpy.fresh")}
    of_numpy["roof"] = Ratio(4.0, 3.2, 5.0, "torch")
    write(tmp_path / "results", content(numbers))
    lines = [
        record(
            StepCase("time", "mnist_cnn", "numpy.inplace", 64), value=0.016, interval=(0.015, 0.017), ratios=of_numpy,
            processes=[process(step=step) for step in passes],
        ),
        record(
            StepCase("time", "mnist_cnn", "jax.fresh", 64), value=0.032,
            ratios={"fastest": ratio(2.0, "numpy.inplace")},
        ),
        record(
            StepCase("time", "mnist_cnn", "torch.fresh", 64), value=1e-6,
            ratios={"roof": Ratio(0.01, 0.005, 0.02, "torch"), "fastest": ratio(1.0, "torch.fresh")},
        ),
    ]  # fmt: skip
    write_records(tmp_path / "outcomes", lines)
    out = build(tmp_path)
    page = (out / "index.html").read_text()
    rows = re.findall(r"<tr><td>mnist_cnn</td>(.*?)</tr>", page)
    cells = {row[0]: row for row in (re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows)}
    share = intervals.of([step.relu_percent for step in passes])
    shown = f"{report.number_text(share.low, 2)} … {report.number_text(share.high, 2)}"
    assert cells["numpy.inplace"][1:7] == ["64", "16 ms", "15 ms … 17 ms", "fastest", "0.9", "4,000"]
    assert cells["numpy.inplace"][8:14] == ["25", "6.6 ms", "1.1 ms", "8.8 ms", "1.1 ms", shown]
    assert 'title="20 … 31.2">25<' in page
    assert 'title="1.99 … 2.01 times numpy.inplace">2<' in page
    assert cells["jax.fresh"][4:6] == ["2", "–"]
    assert cells["jax.fresh"][8:15] == ["–", *["–"] * 4, "– … –", "2.5 s"]
    assert cells["torch.fresh"][2] == "impossible"
    assert cells["torch.fresh"][8] == "10,000"
    assert {len(cells[name]) for name in ("numpy.inplace", "jax.fresh", "torch.fresh")} == {16}
    assert cells["torch"][2:9] == ["4,000,000", "4,000,000", "3,276,548", "9,000,000", "6,750,000", "2,250,000", "–"]
    reduction = "2,250,000 bytes of the peak (25 %) and 0 of the bytes saved for backward."
    assert f"mnist_cnn in torch, batch 16: {reduction}" in page
    assert (out / "cnn.mnist_cnn-64.svg").exists()
    table = {row["variant"]: row for row in csv.DictReader(io.StringIO((out / "steps.csv").read_text()))}
    assert float(table["numpy.inplace"]["backward_s"]) == pytest.approx(0.0088)
    assert table["jax.fresh"]["backward_s"] == ""
