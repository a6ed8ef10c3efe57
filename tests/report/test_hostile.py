"""Test reports of results in which texts are hostile, foreign or damaged."""

import csv
import io
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from selenium.webdriver.common.by import By

from tests.browser import assert_harmless, show, text
from tests.hostile import COMBINED, FORMULAS, WITH_RECORDS, WITHOUT_RECORDS, Attack
from tests.report.pages import WRONG, build
from tests.synthetic import changed, content, record, time, write, write_records


@pytest.fixture
def attack(tmp_path):
    """Files in which every text from outside is hostile."""
    COMBINED.write(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:Tight layout not applied")
@pytest.mark.parametrize("places", [WITH_RECORDS, WITHOUT_RECORDS], ids=["records", "no records"])
def test_hostile_text_is_shown_as_text(attack, browser, places):
    if places == WITHOUT_RECORDS:
        shutil.rmtree(attack / "outcomes")
    out = build(attack, "--machine", COMBINED.name)
    show(browser, out / "index.html")
    assert_harmless(browser)
    assert browser.title == f"ReLU on {COMBINED.name}"
    shown = text(browser)
    assert [place for place in places if COMBINED.text(place) not in shown] == []
    assert f"{COMBINED.name}.json: not a JSON object" in shown
    assert FORMULAS[0] in shown
    for line in browser.find_elements(By.CSS_SELECTOR, "#results tbody tr"):
        browser.execute_script("arguments[0].click()", line)
    assert_harmless(browser)


@pytest.mark.filterwarnings("ignore:Tight layout not applied")
def test_hostile_text_is_harmless_in_figures(attack, browser):
    drawn = sorted(build(attack, "--machine", COMBINED.name).glob("*.svg"))
    assert any(COMBINED.text("cache") in "".join(ElementTree.parse(path).getroot().itertext()) for path in drawn)
    for path in drawn:
        assert not [e for e in ElementTree.parse(path).iter() if e.tag.endswith("script") or "onload" in e.attrib]
        browser.get(path.as_uri())
        assert browser.execute_script("return window.hacked") is None


@pytest.mark.filterwarnings("ignore:Glyph")
def test_control_characters_are_replaced_in_figures(tmp_path):
    Attack("\0\x1b").write(tmp_path)
    drawn = sorted(build(tmp_path, "--machine", "\x1b").glob("*.svg"))
    assert any("\ufffd\ufffd(cache)" in "".join(ElementTree.parse(path).getroot().itertext()) for path in drawn)


def test_csv_contains_no_formulas(attack):
    text = (build(attack, "--machine", FORMULAS[0]) / "results.csv").read_bytes().decode()
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {f"'{formula}" for formula in FORMULAS[:6]} | set(FORMULAS[6:]) <= {line["reason"] for line in lines}
    assert f"'{FORMULAS[0]}" in {line["machine"] for line in lines}
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
