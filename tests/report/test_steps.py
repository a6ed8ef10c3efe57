"""Test what a report shows of training steps."""

import csv
import io
import re

import pandas as pd
import pytest

from benchmarks.harness.case import ProductCase, StepCase
from benchmarks.harness.measurement import DeviceTiming, Process, Ratio, StepTiming
from benchmarks.harness.timing import intervals
from scripts.report.sections import answers as answers_section
from scripts.report.text import number_text
from tests.report.pages import build
from tests.synthetic import content, process, ratio, record, write, write_records


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
        StepTiming(1e-6, {name: [scale * seconds for scale in scales] for name, seconds in phases.items()}, share, 0.25)
        for scales, share in (((1, 1.1, 2), [-0.5, 3.0, 7.25]), ((1.1, 1.2), [3.0, 4.0]))
    ]
    of_numpy = {"fastest": ratio(1.0, "numpy.inplace", 0), "fresh": ratio(0.9, "numpy.fresh")}
    of_numpy["roof"] = Ratio(4.0, 3.2, 5.0, "torch")
    write(tmp_path / "results", content(numbers))
    lines = [
        record(
            StepCase("time", "mnist_cnn", "numpy.inplace", 64), value=0.016, interval=(0.015, 0.017), ratios=of_numpy,
            processes=[process(step=step, device=DeviceTiming(device_s=0.012)) for step in passes],
        ),
        record(
            StepCase("time", "mnist_cnn", "jax.fresh", 64), value=0.032,
            ratios={"fastest": ratio(2.0, "numpy.inplace")},
        ),
        record(
            StepCase("time", "mnist_cnn", "torch.fresh", 64), value=1e-6,
            ratios={"roof": Ratio(0.01, 0.005, 0.02, "torch"), "fastest": ratio(1.0, "torch.fresh")},
        ),
        record(
            StepCase("peak_bytes", "mnist_cnn", "torch.fresh", 16), value=9_000_000,
            processes=[Process(allocated_bytes=9_437_184)],
        ),
    ]  # fmt: skip
    write_records(tmp_path / "outcomes", lines)
    out = build(tmp_path)
    page = (out / "index.html").read_text()
    lines = re.findall(r"<tr><td>mnist_cnn</td>(.*?)</tr>", page)
    cells = {row[0]: row for row in (re.findall(r"<td[^>]*>(.*?)</td>", line) for line in lines)}
    share = intervals.of([step.relu_percent for step in passes])
    shown = f"{number_text(share.low, 2)} … {number_text(share.high, 2)}"
    assert cells["numpy.inplace"][1:5] == ["64", "16 ms", "15 ms … 17 ms", "12 ms"]
    assert cells["numpy.inplace"][5:9] == ["0.25", "fastest", "0.9", "4,000"]
    assert cells["numpy.inplace"][10:16] == ["25", "6.6 ms", "1.1 ms", "8.8 ms", "1.1 ms", shown]
    assert 'title="20 … 31.2">25<' in page
    assert 'title="1.99 … 2.01 times numpy.inplace">2<' in page
    assert cells["jax.fresh"][4:8] == ["–", "–", "2", "–"]
    assert cells["jax.fresh"][10:17] == ["–", *["–"] * 4, "– … –", "2.5 s"]
    assert cells["torch.fresh"][2] == "impossible"
    assert cells["torch.fresh"][10] == "10,000"
    assert {len(cells[name]) for name in ("numpy.inplace", "jax.fresh", "torch.fresh")} == {18}
    assert cells["torch"][2:7] == ["4,000,000", "4,000,000", "3,276,548", "9,000,000", "6,750,000"]
    assert cells["torch"][7:11] == ["9,437,184", "–", "2,250,000", "–"]
    assert "mnist_cnn in torch: <b>2.146 MiB</b> of 8.583 MiB (25 %), 0 B of what is saved for backward." in page
    assert f"<b>{number_text(share.value, 2)} %</b> ({shown}) of mnist_cnn in numpy.inplace." in page
    assert (out / "cnn.mnist_cnn-64.svg").exists()
    table = {
        row["variant"]: row
        for row in csv.DictReader(io.StringIO((out / "results.csv").read_text()))
        if row["quantity"] == "time"
    }
    assert float(table["numpy.inplace"]["backward_s"]) == pytest.approx(0.0088)
    assert table["jax.fresh"]["backward_s"] == ""


@pytest.mark.parametrize(
    ("interval", "shown"),
    [((2.0, 4.0), "<b>3 %</b> (2 … 4)"), ((-1.0, 4.0), "at most <b>4 %</b>"), ((-4.0, -1.0), None)],
)
def test_no_share_below_0_is_an_answer(interval, shown):
    low, high = interval
    row = {
        "relu_percent": 3.0, "relu_percent_low": low, "relu_percent_high": high, "impossible": False, "device": "cpu",
        "value": 1.0, "network": "mnist_cnn", "batch": 64, "variant": "numpy.fresh",
    }  # fmt: skip
    found = [answer.text.lower() for answer in answers_section._relu_share(pd.DataFrame([row]))]
    assert found == ([f"{shown} of mnist_cnn in numpy.fresh."] if shown else [])
