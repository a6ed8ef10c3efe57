"""Test the claims: small runs of each, the rules of verdicts, the file that the report reads, and its section."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from impls.initialisation import he, xavier
from scripts.claims import __main__ as cli
from scripts.claims import collapse, command, convergence, document, dying, figures, inplace, pictures, variance, zeros
from scripts.claims.claim import Claim
from scripts.claims.document import Document, Entry, Panel, Part, Result, Series, Value
from scripts.claims.networks import ACTIVATIONS, Digits, Perceptrons, batches, digits
from scripts.claims.registry import CLAIMS
from scripts.report import page as report
from tests.browser import assert_harmless, chromium, show, text
from tests.hostile import PAYLOADS
from tests.synthetic import content, time, write

SMALL = (
    (convergence, {"RATES": (0.03125, 0.125, 0.25, 0.5, 2.0), "TUNING_SEEDS": (1000, 1001), "CURVE_EPOCHS": 2}),
    (zeros, {"EPOCHS": 3}),
    (variance, {"UNITS": 256}),
    (dying, {"RATES": (0.05, 0.65), "EPOCHS": 6}),
    (collapse, {"SAMPLES": 512}),
    (inplace, {"BATCH": 4}),
)
SEEDS = 4


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    """Each claim by real training, with few seeds."""
    with pytest.MonkeyPatch.context() as patched:
        for module, constants in SMALL:
            for name, value in constants.items():
                patched.setattr(module, name, value)
        return {claim.name: command.measured(claim, SEEDS) for claim in CLAIMS}


def value(entry: Entry, name: str) -> Value:
    """The figure of an entry whose name starts so."""
    assert entry.result, entry.failure
    (found,) = [each for each in entry.result.figures if each.name.startswith(name)]
    return found


@pytest.mark.parametrize("name", [claim.name for claim in CLAIMS])
def test_each_claim_is_measured_drawn_and_printed(entries, name):
    entry = entries[name]
    assert entry.failure == ""
    printed = command.text(entry)
    assert entry.result.verdict in printed
    assert all(each.name in printed for each in entry.result.figures)
    drawn = pictures.drawn(document.CLAIMS, entry).file
    assert all(f">{panel.title}<" in drawn for panel in entry.result.panels)


def test_linear_layers_collapse_exactly_and_layers_with_relu_do_not(entries):
    entry = entries["collapse"]
    assert value(entry, "2 layers of integers").value == 0
    assert 0 < value(entry, "100 layers").value < 1000
    assert value(entry, "2 layers: variance").ends[1] < 1e-20
    assert value(entry, "2 layers with ReLU").ends[0] > 1
    layers = collapse.integer_layers(np.random.default_rng(0))
    wrong = [layers[0], (layers[1][0], layers[1][1] + 1)]
    x = collapse.integers_of(np.random.default_rng(1))
    assert np.array_equal(collapse.outputs([collapse.collapsed(wrong)], x), collapse.outputs(layers, x) + 1)


def test_the_gradient_of_sigmoid_is_bounded_for_small_weights_only(entries):
    entry = entries["vanishing"]
    assert 0.2 < value(entry, "sigmoid, Xavier's weights: factor of a layer").value < 0.25
    assert value(entry, "sigmoid, 8 times").ends[0] > 0.25
    assert value(entry, "ReLU").value == pytest.approx(1, abs=0.1)


def test_relu_needs_fewer_epochs_than_sigmoid(entries):
    entry = entries["convergence"]
    assert value(entry, "sigmoid / ReLU: epochs to 25 %").value > 2
    assert value(entry, "sigmoid / ReLU: epochs to 5 %").value > 1.5


def test_half_of_the_outputs_are_zero_at_initialisation(entries):
    assert value(entries["zeros"], "zeros at initialisation").value == pytest.approx(50, abs=5)


@pytest.mark.parametrize(("scale", "kept"), [(1.0, True), (0.9, False), (1.1, False)])
def test_he_keeps_the_variance_and_another_scale_does_not(monkeypatch, scale, kept):
    monkeypatch.setattr(variance, "SAMPLES", 64)
    with threadpool_limits(1):
        found = variance.experiment(10, keeping=lambda shape, rng: scale * he(shape, rng))
    assert [part.holds for part in found.parts] == [kept, True]
    assert found.verdict == ("holds" if kept else "holds in part")


def test_dead_units_of_the_first_layer_never_recover(entries):
    entry = entries["dying"]
    assert value(entry, "ReLU: dead at rate 0.65 minus").value > 1
    assert value(entry, "ReLU, hidden layer 1: active again").ends == (0, 0)
    assert value(entry, "ReLU, hidden layer 2: active again").value > 0
    states = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 0]], bool)[:, None, None]
    assert dying.recovered(states).tolist() == [0.5]


def test_in_place_saves_the_bytes_of_one_relu_and_none_that_are_kept(entries):
    entry = entries["inplace"]
    convolved_bytes = 4 * 32 * 26 * 26 * 4
    assert value(entry, "one ReLU alone: saved").value == convolved_bytes
    assert value(entry, "kept for backward: saved").value == 0 < value(entry, "kept for backward, ReLU fresh").value
    assert inplace.relu_keeps_its_result()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_steps_follow_those_of_torch(activation):
    networks = Perceptrons((5, 7, 6, 3), activation, xavier, seeds=(0, 1))
    rng = np.random.default_rng(2)
    x, labels = rng.standard_normal((2, 9, 5)).astype(np.float32), rng.integers(0, 3, (2, 9))
    before = [array.copy() for array in (*networks.weights, *networks.biases)]
    rates = np.array([0.5, 0.25], np.float32)
    for _ in range(3):
        networks.step(x, labels, rates, 0.9)
    functions = {"ReLU": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
    function = functions.get(activation, lambda z: torch.nn.functional.leaky_relu(z, 0.01))
    for run in range(2):
        weights, biases = (
            [torch.tensor(array[run], requires_grad=True) for array in a] for a in (before[:3], before[3:])
        )
        optimizer = torch.optim.SGD([*weights, *biases], float(rates[run]), 0.9)
        for _ in range(3):
            y = torch.tensor(x[run])
            for layer in range(3):
                y = y @ weights[layer] + biases[layer]
                y = function(y) if layer < 2 else y
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(y, torch.tensor(labels[run])).backward()
            optimizer.step()
        for expected, found in zip((*weights, *biases), (*networks.weights, *networks.biases), strict=True):
            np.testing.assert_allclose(found[run], expected.detach(), rtol=1e-4, atol=1e-5)


def test_runs_are_independent():
    data = digits()
    both, alone = (Perceptrons((64, 8, 10), "tanh", xavier, seeds) for seeds in ((3, 4), (4,)))
    batch = next(batches((3, 4), 0, len(data.labels), 16))
    for _ in range(2):
        both.step(data.images[batch], data.labels[batch], np.array([0.1, 0.2], np.float32), 0.9)
        alone.step(data.images[batch[1:]], data.labels[batch[1:]], np.array([0.2], np.float32), 0.9)
    np.testing.assert_allclose(both.weights[0][1], alone.weights[0][0], rtol=1e-6)
    assert not np.array_equal(*both.weights[0])
    both.keep(np.array([False, True]))
    assert both.errors(data).tolist() == alone.errors(data).tolist()


def test_errors_are_shares_of_wrong_labels():
    networks = Perceptrons((2, 2), "ReLU", lambda shape, rng: np.eye(2), (0,))
    data = Digits(np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.float32), np.array([0, 1, 0, 0]))
    assert networks.errors(data).tolist() == [0.25]


def test_giving_up_slow_rates_changes_nothing_for_the_fastest():
    rates, seeds = (0.0625, 0.25, 0.5), (0, 1)
    found = convergence.epochs_needed("tanh", rates, seeds, 0.25)
    best = int(found.mean(1).argmin())
    assert np.isinf(found).any()
    assert np.isfinite(found[best]).all()
    np.testing.assert_array_equal(found[best], convergence.epochs_needed("tanh", [rates[best]], seeds, 0.25)[0])


def test_a_fastest_rate_at_the_end_of_the_grid_is_refused(monkeypatch):
    monkeypatch.setattr(convergence, "RATES", (0.125, 4.0))
    with pytest.raises(convergence.NeverReached, match="tanh: no learning rate within"):
        convergence.fastest_rate("tanh", 0.25)


def test_intervals_of_means_hold_the_true_mean_in_95_percent():
    rng = np.random.default_rng(0)
    intervals = [figures.mean("", rng.normal(3, 2, 5)).ends for _ in range(2000)]
    assert np.mean([low <= 3 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)
    assert figures.share("", [0.0, 0.0, 0.02]).ends[0] == 0
    low, high = figures.ratio("", [1.0, 4.0]).ends
    assert low * high == pytest.approx(4)
    for wrong in ([1.0], [1.0, np.inf]):
        with pytest.raises(ValueError, match="at least two needed, all of them finite"):
            figures.mean("x", wrong)


def interval(low: float, high: float) -> Value:
    return Value("share", (low + high) / 2, "%", low, high)


@pytest.mark.parametrize(
    ("part", "holds"),
    [
        (figures.within(interval(46, 54), 45, 55), True),
        (figures.within(interval(44, 54), 45, 55), False),
        (figures.within(interval(46, 56), 45, 55), False),
        (figures.overlaps(interval(1, 4.5), 4, 9), True),
        (figures.overlaps(interval(8.5, 20), 4, 9), True),
        (figures.overlaps(interval(1, 3.9), 4, 9), False),
        (figures.overlaps(interval(9.1, 20), 4, 9), False),
        (figures.above(interval(0.1, 2), 0), True),
        (figures.above(interval(-0.1, 2), 0), False),
        (figures.below(interval(0, 0.9), 1), True),
        (figures.below(interval(0, 1.1), 1), False),
        (figures.at_most(figures.exact("x", 0), 0), True),
        (figures.at_most(figures.exact("x", 1), 0), False),
    ],
)
def test_the_whole_interval_decides(part, holds):
    assert part.holds is holds


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(46, 54, "holds"), (46, 56, "holds in part"), (40, 60, "does not hold here")]
)
def test_each_verdict_can_be_reached(low, high, verdict):
    figure = interval(low, high)
    parts = [figures.above(figure, 45), figures.below(figure, 55)]
    assert document.verdict_of(parts) == verdict
    assert [part.text for part in parts] == [
        "share: the interval lies above 45 %",
        "share: the interval lies below 55 %",
    ]


def small(**changes: str) -> Document:
    """A document of one claim. changes: texts of it, by field."""
    texts = dict.fromkeys(
        ("title", "text", "origin", "figure", "unit", "part", "remark", "panel", "axis", "series", "tick", "machine"),
        "x",
    ) | {"failure": "out of luck", **changes}
    lines = [
        Series(texts["series"], [1.0, 2.0], [3.0, 4.0], [2.0, 3.5], [3.5, 5.0]),
        Series(texts["series"], [1.0, 2.0], [3.0, 4.0], kind="bars"),
    ]
    panel = Panel(texts["panel"], texts["axis"], texts["axis"], lines, log_y=True, ticks=[texts["tick"], "y"])
    figure = Value(texts["figure"], 1.5, texts["unit"], 1.0, 2.0)
    found = document.result([figure], [Part(texts["part"], True)], [panel], texts["remark"])
    about = texts["title"], texts["text"], texts["origin"]
    entries = [Entry("first", *about, 3, 1.5, found), Entry("second", *about, 0, 0.5, None, texts["failure"])]
    return Document(1, 1.7e9, texts["machine"], "abc clean", {"numpy": "2"}, False, entries)


def build(folder: Path, documents: dict[str, bytes]) -> str:
    """The page of a report whose folder has these files."""
    out = folder / "out"
    out.mkdir(parents=True)
    for name, written in documents.items():
        (out / name).write_bytes(written)
    write(folder / "results", content({time("forward", "numpy.out"): 1e-3}))
    arguments = ["--results", str(folder / "results"), "--outcomes", str(folder / "outcomes"), "--out", str(out)]
    assert report.main(arguments) == 0
    return (out / "index.html").read_text()


def test_the_report_shows_claims_and_examples_where_there_are_files(tmp_path, entries):
    measured = Document(1, 1.7e9, "A Processor 9000, 2 cores", "abc clean", {"numpy": "9.9"}, True, [*entries.values()])
    html = build(tmp_path, {"claims.json": document.to_json(measured), "examples.json": document.to_json(small())})
    names = [part.partition('"')[0] for part in html.split('<section id="')[1:]]
    assert names[names.index("semantics") + 1] == "claims"
    assert names[-1] == "examples"
    shown = html.partition('<section id="claims">')[2].partition("</section>")[0]
    for expected in (
        "A Processor 9000, 2 cores",
        "2023-11-14",
        "numpy 9.9",
        "A quick run",
        "Krizhevsky",
        "Holds in part",
    ):
        assert expected in shown
    assert shown.count('<svg width="') == len(CLAIMS)
    assert '<td class="n">5,537,792</td>' not in shown
    assert f'<td class="n">{4 * 32 * 26 * 26 * 4:,}</td><td class="n">exact</td><td>bytes</td>' in shown
    assert {f"claims.{claim.name}.{kind}" for claim in CLAIMS for kind in ("svg", "png")} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert "Failed: out of luck" in html.partition('<section id="examples">')[2]


def test_a_report_without_claims_has_no_such_sections(tmp_path):
    html = build(tmp_path, {})
    assert 'id="semantics"' in html
    assert 'id="claims"' not in html
    assert 'id="examples"' not in html


def test_claims_survive_the_way_through_a_file(tmp_path, entries):
    written = Document(1, 1.7e9, "a machine", "", {}, False, [*entries.values(), *small().entries])
    path = tmp_path / "claims.json"
    document.write(path, written)
    document.write(path, written)
    assert document.read(path) == written
    assert [each.name for each in tmp_path.iterdir()] == ["claims.json"]
    assert document.read(tmp_path / "missing.json") is None


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "claims.json"
    document.write(path, small())

    def fail(*paths: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(document.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        document.write(path, small(title="another"))
    assert document.read(path) == small()


def changed(path: str, new: object) -> bytes:
    """The JSON of a small document with another value at a path such as "entries.0.title"; ... removes it."""
    tree = json.loads(document.to_json(small()))
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    part = tree
    for key in parents:
        part = part[key]
    if new is ...:
        del part[last]
    else:
        part[last] = new
    return json.dumps(tree).encode()


PANEL = "entries.0.result.panels.0"
DAMAGED = {
    "nothing": b"",
    "no object": b"[]",
    "torn": document.to_json(small())[:-40],
    "deep": changed("versions", {"numpy": "DEEP"}).replace(b'"DEEP"', b"[" * 100_000),
    "large": b" " * (document.LARGEST_BYTES + 1),
    "not UTF-8": document.to_json(small()).replace(b'"x"', b'"\xff"', 1),
    "other schema": changed("schema", 2),
    "unknown field": changed("entries.0.more", 1),
    "missing field": changed("entries.0.title", ...),
    "name is a path": changed("entries.0.name", "../../index"),
    "name twice": changed("entries.1.name", "first"),
    "escape character": changed("entries.0.title", "\x1b[31m"),
    "NUL": changed("entries.0.text", "a\0b"),
    "line break": changed("entries.0.origin", "a\n"),
    "right to left": changed("entries.0.result.remark", "\u202e"),
    "control character in a key": changed("versions", {"\x07": "1"}),
    "long text": changed("entries.0.text", "x" * 5000),
    "number as text": changed("entries.0.result.figures.0.value", "1"),
    "huge number": changed(f"{PANEL}.series.0.y", [1e300, 1.0]),
    "infinite number": changed(f"{PANEL}.series.0.y", [1.0, 2.0]).replace(b"[1.0, 2.0]", b"[1e999, 2.0]"),
    "half an interval": changed("entries.0.result.figures.0.low", None),
    "value outside its interval": changed("entries.0.result.figures.0.low", 1.75),
    "y without x": changed(f"{PANEL}.series.0.x", [1.0]),
    "no points": changed(f"{PANEL}.series", []),
    "many panels": changed(
        "entries.0.result.panels", json.loads(changed("quick", True))["entries"][0]["result"]["panels"] * 50
    ),
    "verdict against its parts": changed("entries.0.result.parts.0.holds", False),
    "result and failure": changed("entries.0.failure", "no"),
    "time before 1970": changed("time_s", -1e300),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_skipped_by_name(tmp_path, capsys, kind):
    path = tmp_path / "claims.json"
    path.write_bytes(DAMAGED[kind])
    assert report._document(path) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"report: skipped {path}: ")
    assert line.isprintable()
    path.write_bytes(changed("quick", True))
    assert report._document(path).quick


def test_a_damaged_file_leaves_the_report_without_its_section(tmp_path):
    html = build(tmp_path, {"claims.json": DAMAGED["escape character"], "examples.json": document.to_json(small())})
    assert ('id="claims"' in html, 'id="examples"' in html) == (False, True)


TEXTS = ("", "x", "$\\frac{$", "_", "<b>", "%s{}{{1}}", "名", "x" * 100)
NUMBERS = (0, -1, 1e30, -1e30, 5e-324, -5e-324, 1e-30, 7)
# By type, what stands in for a value of a file.
OTHERS = {
    str: lambda old, rng: rng.choice(TEXTS),
    float: lambda old, rng: rng.choice(NUMBERS),
    int: lambda old, rng: rng.choice(NUMBERS),
    bool: lambda old, rng: not old,
    list: lambda old, rng: old * rng.randint(0, 3),
    dict: lambda old, rng: {**old, rng.choice(TEXTS): rng.choice(TEXTS)},
    type(None): lambda old, rng: rng.choice((*TEXTS, *NUMBERS)),
}


@pytest.mark.filterwarnings("ignore")
def test_files_with_other_values_are_refused_or_drawn():
    """No value that the types accept stops the section."""
    rng = random.Random(0)
    drawn = refused = 0
    while drawn < 40:
        tree = json.loads(document.to_json(small()))
        for _ in range(rng.randint(1, 4)):
            part, key = tree, "entries"
            while isinstance(part[key], dict | list) and part[key] and rng.random() < 0.95:
                part = part[key]
                key = rng.choice(list(part) if isinstance(part, dict) else range(len(part)))
            part[key] = OTHERS[type(part[key])](part[key], rng)
        try:
            found = document.from_json(json.dumps(tree).encode())
        except ValueError:
            refused += 1
            continue
        section = report.claims.of_document("claims", "Claims", found)
        assert str(section.html).count("<h3>") == len(found.entries)
        drawn += 1
    assert refused > 5


def test_formulas_stay_text_in_pictures():
    formula = "$\\frac{$"
    entry = small(**dict.fromkeys(("panel", "axis", "series", "tick"), formula)).entries[0]
    # The title, both axes, two names in the legend, and a tick.
    assert pictures.drawn(document.CLAIMS, entry).svg.count(f">{formula}<") == 6


@pytest.mark.filterwarnings("ignore:Tight layout not applied", "ignore:Glyph")
def test_hostile_texts_are_shown_as_text(tmp_path):
    payloads = [document.printable(payload, 90) for payload in PAYLOADS]
    documents = [
        small(
            **dict.fromkeys(
                (
                    "title",
                    "text",
                    "origin",
                    "figure",
                    "unit",
                    "part",
                    "remark",
                    "panel",
                    "axis",
                    "series",
                    "tick",
                    "machine",
                    "failure",
                ),
                payload,
            )
        )
        for payload in payloads
    ]
    entries = [
        replace_name(entry, f"{entry.name}-{number}")
        for number, each in enumerate(documents[:10])
        for entry in each.entries
    ]
    hostile = Document(1, 1.7e9, payloads[0], payloads[1], {payloads[2]: payloads[3]}, False, entries)
    build(tmp_path, {"claims.json": document.to_json(hostile)})
    with chromium(tmp_path / "profile") as browser:
        show(browser, tmp_path / "out" / "index.html")
        assert_harmless(browser)
        shown = text(browser, "#claims")
        assert [payload for payload in payloads[:10] if payload not in shown] == []
        browser.get((tmp_path / "out" / "claims.first-0.svg").as_uri())
        assert browser.execute_script("return window.hacked") is None


def replace_name(entry: Entry, name: str) -> Entry:
    return Entry(
        name, entry.title, entry.text, entry.origin, entry.seeds, entry.duration_s, entry.result, entry.failure
    )


def failing(seeds: int) -> Result:
    raise RuntimeError("no\x1b[31m luck")


def test_a_failing_claim_stops_no_other(tmp_path, capsys):
    good = replace(next(claim for claim in CLAIMS if claim.name == "collapse"), quick_seeds=2)
    bad = Claim("bad", "Bad", "It fails.", "here", failing)
    assert command.run(document.CLAIMS, [bad, good], tmp_path, quick=True) == 1
    printed = capsys.readouterr()
    assert "bad       failed: RuntimeError: no [31m luck" in printed.out
    assert "collapse  holds" in printed.out
    assert "Quick: fewer seeds" in printed.out
    assert "\x1b" not in printed.out + printed.err
    found = document.read(tmp_path / "claims.json")
    assert [(entry.failure, entry.seeds) for entry in found.entries] == [("RuntimeError: no [31m luck", 10), ("", 2)]
    assert found.quick
    assert {"python", "numpy", "torch"} <= set(found.versions)
    assert "cores" in found.machine
    assert [path.name for path in tmp_path.glob("*.svg")] == ["claims.collapse.svg"]


def test_the_command_takes_only_names_of_claims(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "ALL", [replace(claim, quick_seeds=2) for claim in CLAIMS])
    assert cli.main(["--quick", "--only", "vanishing", "--out", str(tmp_path)]) == 0
    assert [entry.name for entry in document.read(tmp_path / "claims.json").entries] == ["vanishing"]
    with pytest.raises(SystemExit):
        cli.main(["--only", "nonsense"])
    assert "collapse" in capsys.readouterr().err
