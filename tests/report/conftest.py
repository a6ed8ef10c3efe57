"""A report from results of two machines, and browsers that open it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from tests.browser import NoBrowser, chromium, show
from tests.report.pages import OTHERS, REASON, SKIPPED, TIMES, WRONG, build, compared
from tests.synthetic import DATE_MS, DAY_MS, LATER_COMMIT, content, record, time, write, write_records


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """A folder with results of two machines and two commits."""
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
    return folder


@pytest.fixture(scope="session")
def page(measured):
    """The report of these results; it shows the commit measured last. Tests of several files share it."""
    return build(measured)


@contextmanager
def started(profile: Path, **preferences: Any) -> Iterator[webdriver.Chrome]:
    """A browser, where there is one."""
    try:
        with chromium(profile, **preferences) as opened:
            yield opened
    except NoBrowser as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def opened(browser, page):
    show(browser, page / "index.html")
    return browser
