"""Test metrics against arithmetic done by hand, with round times and ratios."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.case import (
    Case,
    DeviceLoopCase,
    DeviceProductCase,
    OperatorCase,
    ProductCase,
    StepCase,
    to_axes,
)
from benchmarks.harness.measurement import Ratio
from benchmarks.harness.roofline.loops import parts_of
from impls.catalog import VARIANTS, find
from scripts.report import metrics, results
from scripts.verify import repeatability
from tests.synthetic import ratio, roof, time

N = 2**20
# Seconds of a pass over arrays of 4 MiB. The roof is the fastest of both thread counts and both kinds of stores.
ROOFS = {
    roof("copy.one"): 1.6e-3, roof("copy.all"): 1.0e-3,
    roof("triad.one"): 1.5e-3, roof("triad.all"): 2.0e-3,
    roof("copy-nt.all"): 1.2e-3, roof("triad-nt.one"): 1.7e-3,
    roof("scale.one"): 0.8e-3, roof("accumulate.all"): 1.1e-3, roof("fill.all"): 0.6e-3, roof("fill-nt.all"): 0.5e-3,
}  # fmt: skip
FORWARD = time("forward", "numpy.fresh")
# Seconds that streaming loops take to move the bytes of each operator, float32.
ROOF_S = {
    # One array is read, one written.
    ("forward", "numpy.fresh"): 1.0e-3,
    ("forward", "numpy.out"): 1.0e-3,
    ("forward", "numpy.inplace"): 0.8e-3,
    # A second array is read.
    ("backward", "numba.out"): 1.5e-3,
    ("backward", "numba.inplace"): 1.1e-3,
    # A mask of one byte per element, a quarter of a float32: a quarter of the second array.
    ("backward", "torch-bool.out"): 1.0e-3 + 0.25 * 0.5e-3,
    ("backward", "torch-bool.inplace"): 0.8e-3 + 0.25 * 0.3e-3,
    # A mask of one bit per element.
    ("backward", "numba-threads-bits.out"): 1.0e-3 + 0.5e-3 / 32,
    ("backward", "numba-threads-bits.inplace"): 0.8e-3 + 0.3e-3 / 32,
    # Forward, then backward, which reads a second array.
    ("roundtrip", "torch-autograd.fresh"): 1.0e-3 + 1.5e-3,
    ("roundtrip", "torch.inplace"): 0.8e-3 + 1.1e-3,
    # A mask is written and read: as many reads as writes.
    ("roundtrip", "numpy-bits.fresh"): (2 + 1 / 32) * 1.0e-3,
    ("roundtrip", "numba-threads-bits.inplace"): (2 + 1 / 32) * 0.8e-3,
}


def table(
    numbers: Mapping[Any, float | None], ratios: Mapping[Any, Mapping[str, Ratio]] | None = None, **others: str
) -> pd.DataFrame:
    """Return rows as the loader does; None is a failure. ratios: paired ratios by case."""
    place = {"machine": "box", "fingerprint": "f", "commit": "c", "env": "e"}
    common = {**place, "low": math.nan, "high": math.nan, "reason": "", **others}
    rows = [
        {
            **to_axes(case),
            "value": number,
            "status": "failed" if number is None else "ok",
            **common,
            **results._ratios((ratios or {}).get(case, {})),
        }
        for case, number in numbers.items()
    ]
    return results.tidy(rows)


def only_row(numbers: Mapping[Any, float | None], **ratios: Ratio) -> pd.Series:
    """The metrics of the only row of an operator. ratios: its paired ratios."""
    rows = metrics.with_metrics(table(numbers, dict.fromkeys(numbers, ratios)))
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize(
    ("case", "gb_per_s", "bus_gb_per_s"),
    [
        # x is read and y written, 4 bytes each; the fresh y is fetched before it is overwritten.
        (time("forward", "numpy.fresh"), 8.388608, 12.582912),
        (time("forward", "numpy.inplace"), 8.388608, 8.388608),
        (time("forward", "numpy.out", dtype="float16"), 4.194304, 6.291456),
        (time("forward", "numpy.out", dtype="float64"), 16.777216, 25.165824),
        # Non-temporal stores fetch nothing.
        (time("forward", "numba-threads-nt.out"), 8.388608, 8.388608),
        # grad and the saved array are read, the gradient is written.
        (time("backward", "numba.out"), 12.582912, 16.777216),
        # grad and a mask are read, of one byte, then of one bit, per element.
        (time("backward", "torch-bool.inplace"), 9.437184, 9.437184),
        (time("backward", "numba-threads-bits.out"), 8.519680, 12.713984),
        # Both halves; each half's result is fetched.
        (time("roundtrip", "torch-autograd.fresh"), 20.971520, 29.360128),
        # In place, a mask of one bit per element is fetched, written and read; nothing else is fetched.
        (time("roundtrip", "numba-threads-bits.inplace"), 17.039360, 17.170432),
        # NumPy reads x twice and writes and reads a mask that the operator does not require.
        (time("forward", "numpy-where.fresh"), 8.388608, 19.922944),
    ],
    ids=lambda value: f"{value.variant}-{value.dtype}" if isinstance(value, Case) else "",
)
def test_bandwidth_of_a_millisecond(case, gb_per_s, bus_gb_per_s):
    row = only_row({case: 1e-3})
    assert row["gb_per_s"] == pytest.approx(gb_per_s)
    assert row["bus_gb_per_s"] == pytest.approx(bus_gb_per_s)


@pytest.mark.parametrize(("direction", "variant"), ROOF_S)
def test_required_traffic_is_composed_of_streaming_loops(direction, variant):
    row = find("relu", direction, variant)
    (loops,) = metrics.roofs(table(ROOFS)).to_dict("records")
    parts = parts_of(row.required_traffic, row.memory == "inplace", 4)
    assert sum(factor * loops[name] for name, factor in parts.items()) == pytest.approx(ROOF_S[direction, variant])


def test_roof_is_the_fastest_of_thread_counts_and_kinds_of_stores():
    (row,) = metrics.roofs(table(ROOFS)).to_dict("records")
    assert row == {
        "machine": "box", "fingerprint": "f", "commit": "c", "env": "e", "array_bytes": 2**22,
        "fill": 0.5e-3, "copy": 1.0e-3, "triad": 1.5e-3, "scale": 0.8e-3, "accumulate": 1.1e-3,
    }  # fmt: skip


def test_failed_and_unknown_loops_are_no_roofs():
    (row,) = metrics.roofs(table({**ROOFS, roof("copy.all"): None, roof("gone.all"): 1e-9})).to_dict("records")
    assert row["copy"] == 1.2e-3


def test_percentages_are_inverse_to_paired_ratios():
    row = only_row({FORWARD: 5e-3}, roof=Ratio(2.0, 1.6, 2.5, "copy.all"), bus=Ratio(1.25, 1.0, 2.0, "scale.all"))
    names = [f"percent_of_{roof}{end}" for roof in ("roof", "bus") for end in ("", "_low", "_high")]
    assert row[names].tolist() == pytest.approx([50, 40, 62.5, 80, 50, 100])
    assert not row["impossible"]


@pytest.mark.parametrize("roof", ["roof", "bus"])
@pytest.mark.parametrize(
    ("low_percent", "percent", "impossible"),
    [(95, 100, False), (104.99, 130, False), (105.01, 106, True), (1000, 2000, True), (1, 1000, False)],
)
def test_a_time_whose_whole_interval_is_beyond_105_percent_is_impossible(roof, low_percent, percent, impossible):
    row = only_row({FORWARD: 1e-3}, **{roof: Ratio(100 / percent, 100 / 5000, 100 / low_percent, "copy.all")})
    # Between the two, only the interval is known.
    shown = percent if impossible or percent <= metrics.IMPOSSIBLE_PERCENT else math.nan
    assert row[f"percent_of_{roof}"] == pytest.approx(shown, nan_ok=True)
    assert row["impossible"] == impossible


def test_a_row_without_paired_ratios_has_no_percentage():
    """Without a roof in its rounds, it is not impossible, however short its time."""
    row = only_row({**ROOFS, FORWARD: 1e-12})
    assert math.isnan(row["percent_of_roof"])
    assert math.isnan(row["percent_of_bus"])
    assert not row["impossible"]
    assert row["gb_per_s"] > 0


def test_gpu_rows_have_no_percentage_of_the_cpu_roof():
    row = only_row({**ROOFS, time("forward", "torch-cuda.fresh"): 1e-6})
    assert math.isnan(row["percent_of_roof"])
    assert not row["impossible"]
    assert row["gb_per_s"] == pytest.approx(8388.608)


@pytest.mark.parametrize("quantity", ["transient_bytes", "saved_bytes", "first_call"])
def test_only_times_have_a_bandwidth(quantity):
    row = only_row({**ROOFS, OperatorCase(quantity, "relu", "roundtrip", "numpy.fresh", N, "float32"): 1e-3})
    assert math.isnan(row["gb_per_s"])
    assert math.isnan(row["percent_of_roof"])
    assert not row["impossible"]


def test_failures_are_kept_without_bandwidth():
    row = only_row({**ROOFS, FORWARD: None})
    assert row["status"] == "failed"
    assert not row["impossible"]
    assert math.isnan(row["gb_per_s"])


def test_products_are_rated_and_excluded_from_operator_rows():
    products = {
        ProductCase("time", library, 1000): seconds
        for library, seconds in {"numpy": 0.02, "torch": 0.01, "jax": None}.items()
    }
    rated = metrics.gemms(table(products))[["library", "n", "gflop_per_s"]]
    assert rated.to_dict("records") == [
        {"library": "torch", "n": 1000, "gflop_per_s": pytest.approx(200)},
        {"library": "numpy", "n": 1000, "gflop_per_s": pytest.approx(100)},
    ]
    assert metrics.with_metrics(table({**products, FORWARD: 1.0}))["direction"].tolist() == ["forward"]
    assert metrics.gemms(table({})).empty


STEP, HAND_WRITTEN = (StepCase("time", "mnist_cnn", name, 64) for name in ("torch.fresh", "numpy.inplace"))


def test_training_steps_are_rated_by_nominal_operations():
    convolutions = (2 * 26 * 26 * 32 * 9, 2 * 11 * 11 * 64 * 9 * 32)
    operations = 2 * convolutions[0] + 3 * (convolutions[1] + 2 * 1600 * 10)
    ratios = {STEP: {"roof": Ratio(1.25, 1.0, 2.0, "torch")}}
    rows = metrics.steps(table({STEP: 64e-4, HAND_WRITTEN: 64e-3}, ratios)).set_index("variant")
    assert rows["images_per_s"].to_dict() == pytest.approx({"torch.fresh": 1e4, "numpy.inplace": 1e3})
    assert rows.loc["torch.fresh", "gflop_per_s"] == pytest.approx(operations * 1e4 / 1e9)
    percent = rows[["percent_of_gemm", "percent_of_gemm_low", "percent_of_gemm_high"]]
    assert percent.loc["torch.fresh"].tolist() == [80, 50, 100]
    assert percent.loc["numpy.inplace"].isna().all()
    assert not rows["impossible"].any()
    assert metrics.steps(table({})).empty


def test_a_step_on_a_gpu_is_compared_with_the_product_of_the_run():
    product = DeviceProductCase("time", "torch", 1000)
    case = StepCase("time", "mnist_cnn", "torch-cuda.fresh", 64)
    on_cpu = ProductCase("time", "torch", 1000)
    (row,) = metrics.steps(table({product: 1e-3, on_cpu: 1e-6, case: 1e-3})).to_dict("records")
    assert row["percent_of_gemm"] == pytest.approx(100 * row["gflop_per_s"] / 2000)
    assert math.isnan(row["percent_of_gemm_low"])
    (row,) = metrics.steps(table({product: 1e-3, case: 1e-6})).to_dict("records")
    assert row["impossible"]


def test_a_step_of_a_lower_precision_is_ranked_by_itself_and_has_no_roof():
    exact, low = (StepCase("time", "mnist_cnn", f"torch{name}-cuda.fresh", 64) for name in ("", "-bfloat16"))
    ratios = {case: {"fastest": ratio(1.0, case.variant)} for case in (exact, low)}
    rows = metrics.steps(table({DeviceProductCase("time", "torch", 1000): 1e-3, exact: 1e-3, low: 1e-6}, ratios))
    rows = rows.set_index("variant")
    assert rows["fastest_to"].to_dict() == {case.variant: case.variant for case in (exact, low)}
    assert rows["percent_of_gemm"].isna().to_dict() == {exact.variant: False, low.variant: True}
    assert not rows["impossible"].any()


@pytest.mark.parametrize(
    ("low_percent", "impossible"),
    # Hand-written steps multiply less than the nominal operations.
    [(100, (False, False)), (106, (True, False)), (300, (True, True))],
)
def test_a_step_above_the_roof_is_possible_with_fewer_multiplications(low_percent, impossible):
    above = {"roof": Ratio(0.2, 0.1, 100 / low_percent, "torch")}
    rows = metrics.steps(table({STEP: 8e-3, HAND_WRITTEN: 8e-3}, {STEP: above, HAND_WRITTEN: above}))
    assert tuple(rows.set_index("variant").loc[["torch.fresh", "numpy.inplace"], "impossible"]) == impossible


def test_memory_of_steps_is_compared_with_predictions():
    cases = {
        StepCase(quantity, "mnist_cnn", f"{flavour}.{memory}", 16): value
        for flavour, quantity, memory, value in (
            ("numpy", "saved_bytes", "fresh", 100.0),
            ("numpy", "saved_bytes", "inplace", 100.0),
            ("numpy", "peak_bytes", "fresh", 300.0),
            ("jax", "peak_bytes", "fresh", 200.0),
        )
    }
    rows = metrics.step_memory(table(cases)).set_index("flavour")
    columns = ["saved_bytes_fresh", "saved_bytes_inplace", "peak_bytes_fresh"]
    assert rows.loc["numpy", columns].tolist() == [100, 100, 300]
    # Images of 28 x 28 and 13 x 13 x 32, indices of pooled maxima, and the output of the last block.
    predicted_bytes = 16 * (4 * (784 + 13 * 13 * 32 + 1600) + 13 * 13 * 32 + 1600)
    assert rows.loc["numpy", "predicted_saved_bytes"] == predicted_bytes
    assert rows.loc["numpy", "predicted_spared_bytes"] == 16 * 4 * (13 * 13 * 32 + 1600)
    assert rows.loc["jax", ["predicted_saved_bytes", "saved_bytes_fresh", "spared_bytes"]].isna().all()
    assert rows["differs"].to_dict() == {"numpy": True, "jax": False}
    matching = {StepCase("saved_bytes", "mnist_cnn", "numpy.fresh", 16): float(predicted_bytes)}
    assert not metrics.step_memory(table(matching))["differs"].any()
    assert metrics.step_memory(table({})).empty


def test_rows_missing_in_the_catalog_are_left_out():
    rows = metrics.with_metrics(
        table({time("forward", "gone.fresh"): 1.0, time("forward", "numpy.out", dtype="int8"): 1.0})
    )
    assert rows.empty


def test_every_row_of_the_catalog_has_metrics():
    numbers = {
        OperatorCase("time", row.operator, row.direction, row.name, N, dtype): 1.0
        for row in VARIANTS
        for dtype in row.dtypes
    }
    on_cpu = {case: {"roof": ratio(2.0, "copy.all")} for case in numbers if "cuda" not in case.variant}
    rows = metrics.with_metrics(table(numbers, on_cpu))
    assert len(rows) == len(numbers)
    assert (rows["gb_per_s"] > 0).all()
    assert (rows["bus_gb_per_s"] >= rows["gb_per_s"]).all()
    assert (rows["percent_of_roof"].notna() == (rows["device"] == "cpu")).all()


@given(st.floats(0.01, 100), st.floats(0, 0.9), st.floats(0, 9))
def test_percentages_lie_in_their_intervals(value, below, above):
    row = only_row({FORWARD: 1.0}, roof=Ratio(value, value * (1 - below), value * (1 + above), "copy.all"))
    low, percent, high = row[["percent_of_roof_low", "percent_of_roof", "percent_of_roof_high"]]
    assert low <= percent <= high or (math.isnan(percent) and low <= 105 < high)
    assert row["impossible"] == (low > 105)


def test_headline_is_the_fastest_possible_row_of_each_framework():
    numbers = {
        time("forward", "numpy.fresh"): 3e-3,
        time("forward", "numpy.out"): 2e-3,
        # Impossible, otherwise the fastest.
        time("forward", "numpy.inplace"): 1e-9,
        time("forward", "torch.out"): None,
        time("forward", "torch.fresh"): 4e-3,
        # Smaller, and of another dtype.
        time("forward", "numpy-clip.out", N // 2): 1e-5,
        time("forward", "numpy-clip.out", dtype="float16"): 1e-5,
        time("backward", "numpy.out"): 5e-3,
        OperatorCase("transient_bytes", "relu", "forward", "numpy.out", N, "float32"): 1e-4,
    }
    impossible = {time("forward", "numpy.inplace"): {"roof": ratio(1e-3, "scale.all", 0)}}
    rows = metrics.headline(metrics.with_metrics(table({**ROOFS, **numbers}, impossible)))
    assert {(r.direction, r.framework): (r.variant, r.value) for r in rows.itertuples()} == {
        ("forward", "numpy"): ("numpy.out", 2e-3),
        ("forward", "torch"): ("torch.fresh", 4e-3),
        ("backward", "numpy"): ("numpy.out", 5e-3),
    }


def test_headline_does_not_mix_rows():
    """Columns missing in the fastest row stay missing; GPU and CPU have separate headlines."""
    numbers = {time("forward", "torch-cuda.fresh"): 1e-5, time("forward", "torch.fresh"): 2e-3}
    ratios = {time("forward", "torch.fresh"): {"roof": ratio(2.0, "copy.all")}}
    on_gpu, on_cpu = metrics.headline(metrics.with_metrics(table({**ROOFS, **numbers}, ratios))).to_dict("records")
    assert (on_gpu["variant"], on_cpu["variant"]) == ("torch-cuda.fresh", "torch.fresh")
    # No copy was measured on the device.
    assert math.isnan(on_gpu["percent_of_roof"])
    assert on_cpu["percent_of_roof"] == pytest.approx(50)


def test_wide_gives_bytes_for_each_element():
    memory = {
        OperatorCase("transient_bytes", "relu", "roundtrip", "numpy.fresh", N, "float32"): 9 * N,
        OperatorCase("saved_bytes", "relu", "roundtrip", "numpy.fresh", N, "float32"): N / 2,
        # A failure has no value, and another dtype is another number.
        OperatorCase("transient_bytes", "relu", "roundtrip", "numpy.inplace", N, "float32"): None,
        OperatorCase("transient_bytes", "relu", "roundtrip", "numpy.inplace", N, "float64"): 8 * N,
    }
    times = [time("roundtrip", "numpy.fresh", n) for n in (2**10, N)] + [time("roundtrip", "numpy.inplace")]
    rows = metrics.wide(metrics.with_metrics(table({**dict.fromkeys(times, 1e-3), **memory})))
    measured = rows.set_index(["variant", "elements"])[["transient_bytes_per_element", "saved_bytes_per_element"]]
    assert measured.loc[("numpy.fresh", 2**10)].tolist() == [9, 0.5]
    assert measured.loc[("numpy.fresh", N)].tolist() == [9, 0.5]
    assert measured.loc[("numpy.inplace", N)].isna().all()
    assert len(rows) == 3


def test_modes_exclude_impossible_times():
    numbers = {time("forward", "numpy.fresh"): 2e-3, time("forward", "numpy.inplace"): 1e-9}
    impossible = {time("forward", "numpy.inplace"): {"roof": ratio(1e-3, "scale.all", 0)}}
    modes = metrics.modes(metrics.with_metrics(table(numbers, impossible)), "float32", N)
    assert dict(zip(modes["memory"], modes["value"], strict=True))["fresh"] == 2e-3
    assert modes.loc[modes["memory"] == "inplace", "value"].isna().all()
    assert set(modes["flavour"]) == {"numpy"}


TOO_FAST = {"roof": ratio(0.5, "copy.all")}


@pytest.mark.parametrize(
    ("impossible", "compared"),
    [((), ["numpy.out", "numpy.inplace"]), (("numpy.out",), ["numpy.inplace"]), (("numpy.fresh",), [])],
)
def test_times_are_compared_with_possible_times_of_the_fresh_mode(impossible, compared):
    cases = [time("forward", f"numpy.{memory}") for memory in ("fresh", "out", "inplace")]
    ratios = {case: {"fresh": ratio(0.5, "numpy.fresh")} for case in cases[1:]}
    ratios |= {case: ratios.get(case, {}) | TOO_FAST for case in cases if case.variant in impossible}
    rows = metrics.modes_against_fresh(metrics.with_metrics(table(dict.fromkeys(cases, 1.0), ratios)))
    assert rows["variant"].tolist() == compared
    assert set(rows["fresh_ratio"]) <= {0.5}


SECONDS = {"numpy.out": 3.0, "numpy.fresh": 2.0, "numba.out": 1.0, "torch.out": 4.0}
AGAINST_NUMBA = {time("forward", name): {"fastest": ratio(value, "numba.out")} for name, value in SECONDS.items()}


def against_fastest(ratios: Mapping[Any, Mapping[str, Ratio]], **seconds: float | None) -> dict[str, tuple[float, str]]:
    """Return, by variant, the ratio to the fastest row and the name of that row, where the metrics keep them."""
    numbers = {time("forward", name): value for name, value in (SECONDS | seconds).items()}
    rows = metrics.with_metrics(table(numbers, ratios))
    rows = rows[rows["fastest_ratio"].notna()]
    assert rows["fastest_low"].notna().all()
    return {row.variant: (row.fastest_ratio, row.fastest_to) for row in rows.itertuples()}


def test_ratios_to_the_fastest_row_are_kept():
    assert against_fastest(AGAINST_NUMBA) == {name: (value, "numba.out") for name, value in SECONDS.items()}


def test_ratios_to_an_impossible_row_are_left_out():
    fastest = time("forward", "numba.out")
    assert against_fastest({**AGAINST_NUMBA, fastest: AGAINST_NUMBA[fastest] | TOO_FAST}) == {}


def test_ratios_to_a_row_without_a_number_are_kept():
    """asv stores the rows that were selected; they were compared with all."""
    kept = against_fastest(AGAINST_NUMBA, **{"numba.out": None})
    assert kept == {name: (value, "numba.out") for name, value in SECONDS.items() if name != "numba.out"}


def test_a_row_that_was_compared_with_itself_alone_is_not_the_fastest():
    by_itself = {time("forward", "torch.out"): {"fastest": ratio(1.0, "torch.out")}}
    assert set(against_fastest(AGAINST_NUMBA | by_itself)) == SECONDS.keys() - {"torch.out"}
    assert against_fastest(by_itself, **{"torch.out": 0.5}) == {"torch.out": (1.0, "torch.out")}


def test_rows_of_other_sizes_and_devices_do_not_compete():
    ratios = {FORWARD: {"fastest": ratio(1.0, "numpy.fresh")}}
    numbers = {FORWARD: 2.0, time("forward", "numpy.out", N // 2): 0.5, time("forward", "torch-cuda.out"): 0.1}
    rows = metrics.with_metrics(table(numbers, ratios)).set_index("variant")
    assert rows.loc["numpy.fresh", "fastest_ratio"] == 1.0


def test_steps_keep_the_ratios_to_the_fastest_step():
    ratios = {STEP: {"fastest": ratio(2.0, "numpy.inplace")}, HAND_WRITTEN: {"fastest": ratio(1.0, "numpy.inplace")}}
    rows = metrics.steps(table({STEP: 2.0, HAND_WRITTEN: 1.0}, ratios)).set_index("variant")
    assert rows["fastest_ratio"].to_dict() == {"torch.fresh": 2.0, "numpy.inplace": 1.0}
    impossible = {HAND_WRITTEN: {**ratios[HAND_WRITTEN], "roof": ratio(0.05, "torch")}}
    rows = metrics.steps(table({STEP: 2.0, HAND_WRITTEN: 1.0}, ratios | impossible))
    assert set(rows["fastest_to"]) == {""}
    rows = metrics.steps(table({STEP: 2.0, HAND_WRITTEN: 3.0}, ratios)).set_index("variant")
    assert rows["fastest_to"].to_dict() == {"torch.fresh": "numpy.inplace", "numpy.inplace": ""}


def test_metrics_of_no_rows_are_empty():
    rows = metrics.with_metrics(table(ROOFS))
    assert rows.empty
    assert metrics.headline(rows).empty
    assert metrics.wide(rows).empty
    assert list(metrics.modes_against_fresh(rows)) == list(rows)
    assert metrics.roofs(table({})).empty


def test_two_runs_are_compared_row_by_row():
    backward = time("backward", "numpy.out")
    first = table({FORWARD: 1.0, backward: 2.0, roof("copy.one"): 1.0}, machine="first")
    second = table({FORWARD: 1.1, backward: 2.0, time("forward", "numpy.out"): 1.0}, machine="second")
    second.loc[second["direction"] == "backward", "status"] = "unstable"
    pairs = repeatability.paired(pd.concat([first, second]), "first", "second").set_index("direction")
    assert pairs["percent"].to_dict() == {"forward": pytest.approx(10), "backward": 0}
    assert pairs["steady"].to_dict() == {"forward": True, "backward": False}


RUNS = [(machine, fingerprint, commit) for machine, fingerprint in (("box", "f"), ("den", "g")) for commit in "cd"]


def runs() -> list[pd.DataFrame]:
    """Return the same cases on two machines and two commits; each run is half as fast as the one before."""
    times = [
        time("forward", "numpy.fresh"), time("forward", "numpy.inplace"), time("backward", "torch.out"),
        OperatorCase("cold", "relu", "forward", "numpy.fresh", N),
        *(OperatorCase("scaling", "relu", "forward", "torch.out", N, "float32", threads) for threads in (1, 2)),
        OperatorCase("transient_bytes", "relu", "forward", "numpy.fresh", N),
        OperatorCase("transient_bytes", "relu", "forward", "numpy.inplace", N),
        OperatorCase("saved_bytes", "relu", "roundtrip", "numpy.fresh", N), time("roundtrip", "numpy.fresh"),
        time("forward", "torch-cuda.out"),
        *(DeviceLoopCase("time", work, 2**22) for work in ("copy.torch", "scale.torch")),
        ProductCase("time", "torch", 1000), ProductCase("time", "numpy", 1000),
        *(StepCase(quantity, "mnist_cnn", "numba.fresh", 64) for quantity in ("time", "first_call")),
        *(
            StepCase(quantity, "mnist_cnn", f"numpy.{memory}", 64)
            for quantity in ("saved_bytes", "peak_bytes")
            for memory in ("fresh", "inplace")
        ),
    ]  # fmt: skip
    tables = []
    for number, (machine, fingerprint, commit) in enumerate(RUNS):
        numbers = {
            **{loop: seconds * 2**number for loop, seconds in ROOFS.items()},
            **{case: 1e-3 * (1 + place) * 2**number for place, case in enumerate(times)},
        }
        ratios = {
            case: {
                "fastest": ratio(1.0 + place, "numpy.fresh"),
                "fresh": ratio(2.0 + place, "numpy.fresh"),
                "roof": ratio(2.0 + number, "copy.all"),
            }
            for place, case in enumerate(times)
        }
        tables.append(table(numbers, ratios, machine=machine, fingerprint=fingerprint, commit=commit))
    return tables


def by_size(measured: pd.DataFrame) -> pd.DataFrame:
    return metrics.modes(measured, "float32", N)


OF_ROWS = (metrics.wide, by_size, metrics.modes_against_fresh, metrics.scaling, metrics.headline)
METRICS = [
    metrics.roofs, metrics.device_roofs, metrics.gemms, metrics.steps, metrics.step_memory, metrics.with_metrics,
    *(lambda rows, f=f: f(metrics.with_metrics(rows)) for f in OF_ROWS),
]  # fmt: skip


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_no_metric_mixes_runs(metric):
    """A table of two machines and two commits gives each run the same numbers as its own table."""
    together = metric(pd.concat(runs(), ignore_index=True))
    for rows, (machine, fingerprint, commit) in zip(runs(), RUNS, strict=True):
        alone = metric(rows)
        run = results.Run(machine, fingerprint, commit, "e")
        same = [key == tuple(vars(run).values()) for key in together[results.RUN].itertuples(index=False, name=None)]
        order = [column for column in alone if column != "row"]
        assert len(alone)
        pd.testing.assert_frame_equal(
            together[same][order].sort_values(order).reset_index(drop=True),
            alone[order].sort_values(order).reset_index(drop=True),
        )


def test_first_calls_of_steps_are_of_the_same_run():
    rows = metrics.steps(pd.concat(runs(), ignore_index=True))
    assert rows["first_call_s"].nunique() == rows["value"].nunique() == len(RUNS)
