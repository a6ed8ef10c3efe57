"""Test metrics against arithmetic done by hand, with round times."""

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.case import Case, DeviceLoopCase, OperatorCase, ProductCase, StepCase, to_axes
from benchmarks.harness.roofline.loops import ORDINARY
from impls.catalog import VARIANTS
from scripts.report import metrics, results
from scripts.verify import repeatability
from tests.synthetic import roof, time

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


def table(numbers: dict[Case, float | None], **others: str) -> pd.DataFrame:
    """Return rows as the loader does; None is a failure."""
    place = {"machine": "box", "fingerprint": "f", "commit": "c", "env": "e"}
    common = {**place, "low": math.nan, "high": math.nan, "reason": "", **others}
    rows = [
        {**to_axes(case), "value": number, "status": "failed" if number is None else "ok", **common}
        for case, number in numbers.items()
    ]
    return results.tidy(rows)


def only_row(numbers: dict[Case, float | None]) -> pd.Series:
    rows = metrics.with_metrics(table(numbers))
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
def test_roof_is_composed_of_streaming_loops(direction, variant):
    row = only_row({**ROOFS, time(direction, variant): 5e-3})
    assert row["roof_s"] == pytest.approx(ROOF_S[direction, variant])
    assert row["percent_of_roof"] == pytest.approx(100 * ROOF_S[direction, variant] / 5e-3)


def test_roof_weights_a_mask_by_the_element_size():
    roofs = {roof("copy.all", 2**23): 1.0e-3, roof("triad.all", 2**23): 1.5e-3}
    row = only_row({**roofs, time("backward", "torch-bool.out", dtype="float64"): 5e-3})
    assert row["roof_s"] == pytest.approx(1.0e-3 + 0.125 * 0.5e-3)


def test_roof_is_the_fastest_of_thread_counts_and_kinds_of_stores():
    (row,) = metrics.roofs(table(ROOFS)).to_dict("records")
    assert row == {
        "machine": "box", "fingerprint": "f", "commit": "c", "env": "e", "array_bytes": 2**22,
        "fill": 0.5e-3, "copy": 1.0e-3, "triad": 1.5e-3, "scale": 0.8e-3, "accumulate": 1.1e-3,
    }  # fmt: skip


def test_non_temporal_stores_count_only_for_rows_out_of_place():
    faster = {roof("copy-nt.all"): 0.5e-3, roof("triad-nt.all"): 0.75e-3}
    assert only_row({**ROOFS, **faster, FORWARD: 5e-3})["roof_s"] == 0.5e-3
    assert only_row({**ROOFS, **faster, time("backward", "numba.out"): 5e-3})["roof_s"] == 0.75e-3
    assert only_row({**ROOFS, **faster, time("forward", "numpy.inplace"): 5e-3})["roof_s"] == 0.8e-3


def test_failed_loops_do_not_count_as_roofs():
    row = only_row({**ROOFS, roof("copy.all"): None, FORWARD: 5e-3})
    assert row["roof_s"] == 1.2e-3
    copies = [roof("copy.all"), roof("copy.one"), roof("copy-nt.all")]
    row = only_row({**ROOFS, **dict.fromkeys(copies), FORWARD: 5e-3})
    assert math.isnan(row["percent_of_roof"])


@pytest.mark.parametrize(("percent", "impossible"), [(100, False), (104.99, False), (105.01, True), (1000, True)])
def test_beyond_105_percent_is_impossible(percent, impossible):
    row = only_row({**ROOFS, FORWARD: 1.0e-3 * 100 / percent})
    assert row["percent_of_roof"] == pytest.approx(percent)
    assert row["impossible"] == impossible


@pytest.mark.parametrize(
    "others", [{"machine": "den"}, {"fingerprint": "g"}, {"commit": "d"}, {"env": "f"}, None], ids=str
)
def test_row_without_a_roof_of_its_own_has_no_percentage(others):
    """A row without a roof is not impossible, however short its time."""
    roofs = table(ROOFS, **others) if others else table({})
    rows = metrics.with_metrics(pd.concat([roofs, table({FORWARD: 1e-12})]))
    assert rows["percent_of_roof"].isna().tolist() == [True]
    assert rows["impossible"].tolist() == [False]
    assert rows["gb_per_s"].notna().all()


def test_roof_is_of_the_same_size_in_bytes():
    row = only_row({**ROOFS, time("forward", "numpy.fresh", 2**19): 5e-3})
    assert math.isnan(row["percent_of_roof"])
    row = only_row({**ROOFS, time("forward", "numpy.fresh", 2**19, "float64"): 5e-3})
    assert row["roof_s"] == 1.0e-3


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


def test_an_unknown_loop_is_no_roof():
    assert only_row({**ROOFS, FORWARD: 1.0, roof("gone.all"): 1e-9})["percent_of_roof"] < 105


def test_failures_are_kept_without_bandwidth():
    row = only_row({**ROOFS, FORWARD: None})
    assert row["status"] == "failed"
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


def test_training_steps_are_rated_by_nominal_operations():
    product = ProductCase("time", "torch", 1000)
    quick, slow = (StepCase("time", "mnist_cnn", name, 64) for name in ("torch.fresh", "numpy.inplace"))
    convolutions = (2 * 26 * 26 * 32 * 9, 2 * 11 * 11 * 64 * 9 * 32)
    operations = 2 * convolutions[0] + 3 * (convolutions[1] + 2 * 1600 * 10)
    rows = metrics.steps(table({product: 0.02, quick: 64e-4, slow: 64e-3})).set_index("variant")
    assert rows["images_per_s"].to_dict() == pytest.approx({"torch.fresh": 1e4, "numpy.inplace": 1e3})
    assert rows.loc["torch.fresh", "gflop_per_s"] == pytest.approx(operations * 1e4 / 1e9)
    assert rows.loc["torch.fresh", "percent_of_gemm"] == pytest.approx(100 * operations * 1e4 / 1e11)
    assert rows["impossible"].to_dict() == {"torch.fresh": True, "numpy.inplace": False}
    assert metrics.steps(table({})).empty


def test_a_step_above_the_roof_is_possible_with_fewer_multiplications():
    product = ProductCase("time", "torch", 1000)
    steps = {StepCase("time", "mnist_cnn", name, 64): 8e-3 for name in ("torch.fresh", "numpy.inplace")}
    for product_s, impossible in ((0.0167, (False, False)), (0.02, (True, False)), (0.05, (True, True))):
        rows = metrics.steps(table({product: product_s, **steps})).set_index("variant")
        assert tuple(rows.loc[["torch.fresh", "numpy.inplace"], "impossible"]) == impossible


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
    numbers = {time(row.direction, row.name, dtype=dtype): 1.0 for row in VARIANTS for dtype in row.dtypes}
    roofs = {roof(f"{kernel}.all", N * size): 0.5 for kernel in ORDINARY for size in (2, 4, 8)}
    rows = metrics.with_metrics(table({**roofs, **numbers}))
    assert len(rows) == len(numbers)
    assert (rows["gb_per_s"] > 0).all()
    assert (rows["bus_gb_per_s"] >= rows["gb_per_s"]).all()
    assert (rows["percent_of_roof"].notna() == (rows["device"] == "cpu")).all()


@given(st.floats(1e-9, 1e3), st.floats(1e-3, 1e3), st.sampled_from(sorted(ROOF_S)))
def test_percentage_is_inverse_to_time(seconds, factor, row):
    base, scaled = (only_row({**ROOFS, time(*row): value}) for value in (seconds, seconds * factor))
    assert scaled["percent_of_roof"] * factor == pytest.approx(base["percent_of_roof"])
    assert scaled["gb_per_s"] * factor == pytest.approx(base["gb_per_s"])
    assert scaled["impossible"] == (scaled["percent_of_roof"] > 105)


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
    rows = metrics.headline(metrics.with_metrics(table({**ROOFS, **numbers})))
    assert {(r.direction, r.framework): (r.variant, r.value) for r in rows.itertuples()} == {
        ("forward", "numpy"): ("numpy.out", 2e-3),
        ("forward", "torch"): ("torch.fresh", 4e-3),
        ("backward", "numpy"): ("numpy.out", 5e-3),
    }


def test_headline_does_not_mix_rows():
    """Columns missing in the fastest row stay missing; GPU and CPU have separate headlines."""
    numbers = {time("forward", "torch-cuda.fresh"): 1e-5, time("forward", "torch.fresh"): 2e-3}
    on_gpu, on_cpu = metrics.headline(metrics.with_metrics(table({**ROOFS, **numbers}))).to_dict("records")
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
    modes = metrics.modes(metrics.with_metrics(table({**ROOFS, **numbers})), "float32", N)
    assert dict(zip(modes["memory"], modes["value"], strict=True))["fresh"] == 2e-3
    assert modes.loc[modes["memory"] == "inplace", "value"].isna().all()
    assert set(modes["flavour"]) == {"numpy"}


def test_metrics_of_no_rows_are_empty():
    rows = metrics.with_metrics(table(ROOFS))
    assert rows.empty
    assert metrics.headline(rows).empty
    assert metrics.wide(rows).empty
    assert metrics.roofs(table({})).empty


def test_a_row_beyond_the_bus_roof_is_impossible():
    row = only_row({**ROOFS, time("roundtrip", "numpy-bits.fresh"): 2.2e-3})
    assert row["percent_of_roof"] < 105
    # Fill moves the most bytes per second: two arrays in 0.6 ms, with the fetches of its stores.
    assert row["percent_of_bus"] == pytest.approx(100 * (row["bus_bytes"] / 2.2e-3) / (2 * 2**22 / 0.6e-3))
    assert row["percent_of_bus"] > 105
    assert row["impossible"]


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
        *(DeviceLoopCase("time", work, 2**22) for work in ("copy", "scale")),
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
        tables.append(table(numbers, machine=machine, fingerprint=fingerprint, commit=commit))
    return tables


def by_size(measured: pd.DataFrame) -> pd.DataFrame:
    return metrics.modes(measured, "float32", N)


METRICS = [
    metrics.roofs, metrics.bus_roofs, metrics.device_roofs, metrics.gemms, metrics.steps, metrics.step_memory,
    metrics.with_metrics,
    *(lambda rows, f=f: f(metrics.with_metrics(rows)) for f in (metrics.wide, by_size, metrics.scaling)),
    lambda rows: metrics.headline(metrics.with_metrics(rows)),
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


def test_the_roof_of_a_step_is_of_the_same_run():
    first, *_, last = (metrics.steps(rows) for rows in runs())
    together = metrics.steps(pd.concat(runs(), ignore_index=True))
    assert together["first_call_s"].nunique() == together["value"].nunique() == len(RUNS)
    assert together["percent_of_gemm"].tolist() == pytest.approx([*first["percent_of_gemm"]] * len(RUNS))
    assert last["percent_of_gemm"].tolist() == pytest.approx(first["percent_of_gemm"].tolist())
