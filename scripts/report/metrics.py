"""From times and bytes to what people compare: bandwidth, percentage of the measured roof, memory a mode saves.

Every function takes the tidy table of `scripts.report.results` and returns a table.
"""

import pandas as pd

from benchmarks.harness.case import ROOFS
from benchmarks.harness.roofline.loops import KERNELS, ORDINARY, kernel_of, ordinary
from impls.catalog import ITEMSIZE_BYTES, STEPS, VARIANTS, Traffic
from impls.cnn.networks import STEP_OF, autograd_saved_bytes, inplace_bytes, saved_bytes, work
from scripts.report.results import RUN

# Above this, a number says that the roof or the traffic is wrong: shown as impossible, never as a result.
IMPOSSIBLE_PERCENT = 105.0
# Quantities that are held against the roofs.
TIMES = ("time", "cold", "scaling")
# Catalog facts that a report shows beside each number.
FACTS = ["framework", "device", "memory", "saves", "contract"]
STEP_BYTES = ("saved_bytes", "peak_bytes")
STEP_FACTS = ["framework", "device", "memory", "winograd", "contract"]
STEP_METRICS = [*STEP_FACTS, "images_per_s", "gflop_per_s", "percent_of_gemm", "first_call_s", "impossible"]
# Training steps whose bytes the network's table predicts.
_BY_HAND = {row.name.split(".")[0] for row in STEPS if row.by_hand}
_EAGER = {"torch"}
# Python's own objects may be in a peak of traced memory.
OBJECTS_BYTES = 1024
ROOF_KEY = [*RUN, "array_bytes"]
# What a GPU's rows are held against, out of place and in place.
DEVICE_LOOPS = ("copy", "scale")
TYPES_OF_ROOFS = dict.fromkeys([*DEVICE_LOOPS, "least"], "float64")
# So many times what a GPU takes at the least: below, a time tells of starting and ending, and nothing of bandwidth.
BANDWIDTH_BOUND = 4


def roofs(table: pd.DataFrame) -> pd.DataFrame:
    """Best seconds a pass of each streaming loop, one row for each size: ROOF_KEY, then the names in kernels.ORDINARY.

    Of one thread and all, and of ordinary and streaming stores, the faster counts: a roof is what the
    machine can do.
    """
    rows = _loops(table)
    rows = rows.assign(kernel=rows["variant"].map(ordinary)).rename(columns={"elements": "array_bytes"})
    if rows.empty:
        return pd.DataFrame(columns=[*ROOF_KEY, *ORDINARY])
    wide = rows.pivot_table(index=ROOF_KEY, columns="kernel", values="value", aggfunc="min")
    return wide.reindex(columns=list(ORDINARY)).reset_index()


def _loops(table: pd.DataFrame) -> pd.DataFrame:
    """The streaming loops that have a time, of those there are: another commit may have had others."""
    known = table["variant"].map(lambda name: kernel_of(name) in KERNELS)
    return table[(table["op"] == "roof") & table["value"].notna() & known.astype(bool)]


def bus_roofs(table: pd.DataFrame) -> pd.DataFrame:
    """The most bytes a second that any streaming loop moved, fetches included, by size: ROOF_KEY, bus_roof_gb_per_s."""
    rows = _loops(table).rename(columns={"elements": "array_bytes"})
    loops = zip(rows["variant"], rows["array_bytes"], rows["value"], strict=True)
    rates = [KERNELS[kernel_of(loop)].bus_bytes(size) / value_s / 1e9 for loop, size, value_s in loops]
    return rows.assign(bus_roof_gb_per_s=rates).groupby(ROOF_KEY)["bus_roof_gb_per_s"].max().reset_index()


def device_roofs(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds that a GPU takes to copy and to scale an array, by size: ROOF_KEY, copy, scale.

    And `least`: what it takes at the least in that run, which is starting and ending.
    """
    rows = table[(table["op"] == "device") & table["variant"].isin(DEVICE_LOOPS) & table["value"].notna()]
    rows = rows.rename(columns={"elements": "array_bytes"})
    if rows.empty:
        return pd.DataFrame(columns=[*ROOF_KEY, *DEVICE_LOOPS, "least"]).astype(TYPES_OF_ROOFS)
    wide = rows.pivot_table(index=ROOF_KEY, columns="variant", values="value", aggfunc="min")
    wide = wide.reindex(columns=list(DEVICE_LOOPS)).reset_index()
    # In place fewer bytes take part, which may fit a cache that those of a copy do not.
    fastest = wide[list(DEVICE_LOOPS)].min(axis=1)
    return wide.assign(scale=fastest, least=fastest.groupby([wide[key] for key in RUN]).transform("min"))


def gemms(table: pd.DataFrame, op: str = "gemm") -> pd.DataFrame:
    """Matrix products, the fastest first: library, n (elements of a side) and gflop_per_s, of 2 n^3 operations.

    op: "gemm" of the processor, "device_gemm" of a GPU.
    """
    rows = table[(table["op"] == op) & table["value"].notna()]
    rows = rows.assign(gflop_per_s=2e-9 * rows["elements"] ** 3.0 / rows["value"])
    rows = rows.rename(columns={"variant": "library", "elements": "n"})
    return rows.sort_values("gflop_per_s", ascending=False)[["library", "n", "gflop_per_s"]]


def steps(table: pd.DataFrame) -> pd.DataFrame:
    """Training steps that have a time, with their contract, images_per_s, gflop_per_s, percent_of_gemm, first_call_s.

    FLOPs are the nominal ones of the network; the roof is the fastest library's product of two large matrices.
    impossible: whether a step is above IMPOSSIBLE_PERCENT of it with the fewest FLOPs that its form may take.
    """
    rows = numbered(table[table["op"].isin(STEP_OF)], "time")
    catalog = pd.DataFrame(
        [{"variant": row.name, **{fact: getattr(row, fact) for fact in STEP_FACTS}} for row in STEPS]
    )
    rows = rows.merge(catalog, on="variant", how="inner")
    # Of building a step and making the first: what compiles is compiled, for the smallest batch.
    first = numbered(table, "first_call").rename(columns={"value": "first_call_s"})
    rows = rows.merge(first[["op", "variant", "first_call_s"]], on=["op", "variant"], how="left")
    found = [work(STEP_OF[op]) for op in rows["op"]]
    rows["images_per_s"] = rows["elements"] / rows["value"]
    rows["gflop_per_s"] = rows["images_per_s"] * [one.forward_flops + one.backward_flops for one in found] / 1e9
    roof = {"cpu": gemms(table)["gflop_per_s"].max(), "cuda": gemms(table, "device_gemm")["gflop_per_s"].max()}
    rows["percent_of_gemm"] = 100 * rows["gflop_per_s"] / rows["device"].map(roof)
    nominal = [one.forward_flops + one.backward_flops for one in found]
    least = [one.least_flops / flops for one, flops in zip(found, nominal, strict=True)]
    fewest_percent = rows["percent_of_gemm"] * pd.Series(least, rows.index).where(rows["winograd"], 1.0)
    rows["impossible"] = fewest_percent > IMPOSSIBLE_PERCENT
    return rows.sort_values(["op", "elements", "value"])


def step_memory(table: pd.DataFrame) -> pd.DataFrame:
    """The bytes of training steps, fresh and in place side by side, a row for each network, batch and flavour.

    Columns such as saved_bytes_fresh; spared_bytes: what in place takes off the peak; predicted_saved_bytes and
    predicted_spared_bytes: what the network table predicts of what is written by hand or kept by eager autograd;
    differs: whether that is not so.
    """
    rows = table[table["op"].isin(STEP_OF) & table["quantity"].isin(STEP_BYTES) & table["value"].notna()].copy()
    rows[["flavour", "memory"]] = rows["variant"].str.rsplit(".", n=1, expand=True) if len(rows) else None
    key = ["op", "elements", "flavour"]
    columns = [f"{quantity}_{memory}" for quantity in STEP_BYTES for memory in ("fresh", "inplace")]
    if rows.empty:
        return pd.DataFrame(columns=[*key, *columns])
    rows["column"] = rows["quantity"] + "_" + rows["memory"]
    side_by_side = rows.pivot_table(index=key, columns="column", values="value").reindex(columns=columns).reset_index()
    by_hand, eager = (side_by_side["flavour"].isin(flavours) for flavours in (_BY_HAND, _EAGER))
    side_by_side["spared_bytes"] = side_by_side["peak_bytes_fresh"] - side_by_side["peak_bytes_inplace"]
    predicted = {
        predict: pd.Series(
            [
                float(predict(STEP_OF[op], n, ITEMSIZE_BYTES["float32"]))
                for op, n in zip(side_by_side["op"], side_by_side["elements"], strict=True)
            ],
            side_by_side.index,
        )
        for predict in (saved_bytes, autograd_saved_bytes, inplace_bytes)
    }
    kept = predicted[saved_bytes].where(by_hand).fillna(predicted[autograd_saved_bytes].where(eager))
    side_by_side["predicted_saved_bytes"] = kept
    side_by_side["predicted_spared_bytes"] = predicted[inplace_bytes].where(by_hand)
    pairs = (
        ("saved_bytes_fresh", "predicted_saved_bytes"),
        ("saved_bytes_inplace", "predicted_saved_bytes"),
        ("spared_bytes", "predicted_spared_bytes"),
    )
    wrong = [
        side_by_side[found].sub(side_by_side[predicted]).fillna(0).abs() > (OBJECTS_BYTES if "spared" in found else 0)
        for found, predicted in pairs
    ]
    return side_by_side.assign(differs=pd.concat(wrong, axis=1).any(axis=1))


def with_metrics(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of variants and dtypes that the catalog knows, with FACTS and, for TIMES, the columns

    gb_per_s: required bytes, each counted once (as STREAM counts), by the time.
    bus_gb_per_s: bytes this form moves, fetches of write-allocate included, by the time.
    roof_s: what streaming loops of this machine take for the required traffic at this size.
    percent_of_roof: 100 roof_s by the time. percent_of_bus: 100 bus_gb_per_s by the most that any loop moved.
    device_gb_per_s, device_percent_of_roof: of a GPU's rows, by the device's own time.
    impossible: whether a percentage is above IMPOSSIBLE_PERCENT: the time is too short, or the bytes too many; on a GPU
    where bandwidth decides.
    """
    catalog = pd.DataFrame([{"op": row.op, "variant": row.name, "row": row} for row in VARIANTS])
    known = table[~table["op"].isin(ROOFS) & table["dtype"].isin(ITEMSIZE_BYTES)]
    joined = known.merge(catalog, on=["op", "variant"], how="inner")
    for fact in FACTS:
        joined[fact] = [getattr(row, fact) for row in joined["row"]]
    itemsizes = joined["dtype"].map(ITEMSIZE_BYTES)
    joined["array_bytes"] = joined["elements"] * itemsizes
    sized = list(zip(joined["row"], joined["elements"], itemsizes, strict=True))
    joined["required_bytes"] = [row.required_traffic.algorithmic_bytes(n, b) for row, n, b in sized]
    joined["bus_bytes"] = [row.traffic.bus_bytes(n, b) for row, n, b in sized]
    on_cpu = joined["device"] == "cpu"
    of_device = device_roofs(table).rename(columns={name: f"device_{name}" for name in (*DEVICE_LOOPS, "least")})
    joined = joined.merge(roofs(table), on=ROOF_KEY, how="left").merge(of_device, on=ROOF_KEY, how="left")
    joined["roof_s"] = [
        _roof_s(row.required_traffic, row.memory == "inplace", itemsize, roof)
        if row.device == "cpu"
        else _device_roof_s(row.memory == "inplace", roof)
        for (row, _, itemsize), roof in zip(sized, joined.to_dict("records"), strict=True)
    ]
    time_s = joined["value"].where(joined["quantity"].isin(TIMES))
    joined["gb_per_s"] = joined["required_bytes"] / time_s / 1e9
    joined["bus_gb_per_s"] = joined["bus_bytes"] / time_s / 1e9
    joined["percent_of_roof"] = 100 * joined["roof_s"] / time_s
    joined = joined.merge(bus_roofs(table), on=ROOF_KEY, how="left")
    # That bus is the processor's; a GPU's rows have none here.
    joined["percent_of_bus"] = (100 * joined["bus_gb_per_s"] / joined["bus_roof_gb_per_s"]).where(on_cpu)
    joined["device_gb_per_s"] = joined["required_bytes"] / joined["device_s"] / 1e9
    joined["device_percent_of_roof"] = 100 * joined["roof_s"] / joined["device_s"]
    percent = joined[["percent_of_roof", "percent_of_bus", "device_percent_of_roof"]]
    bound = on_cpu | (joined["roof_s"] > BANDWIDTH_BOUND * joined["device_least"])
    joined["impossible"] = (percent > IMPOSSIBLE_PERCENT).any(axis=1) & bound
    return joined


def _device_roof_s(inplace: bool, roof: dict) -> float:
    """Seconds on a GPU for the required bytes: those of a copy in proportion, but for starting and ending.

    No store of a device fetches a line: bytes are bytes.
    """
    one, least = roof["device_scale" if inplace else "device_copy"], roof["device_least"]
    return least + (one - least) * roof["required_bytes"] / (2 * roof["array_bytes"])


def _roof_s(traffic: Traffic, inplace: bool, itemsize_bytes: int, roof: dict) -> float:
    """Seconds for the traffic, put together from kernels that read one array or two for each one they write."""
    one, two = (roof["scale"], roof["accumulate"]) if inplace else (roof["copy"], roof["triad"])
    reads = traffic.reads + traffic.mask_reads / itemsize_bytes
    writes = traffic.writes + traffic.mask_writes / itemsize_bytes
    return writes * one + (reads - writes) * (two - one)


def wide(metrics: pd.DataFrame) -> pd.DataFrame:
    """One row for each variant, size and dtype that has a time or a reason: the time's metrics, and beside them
    the time with cold caches (cold_s, cold_status, cold_impossible) and bytes.

    Bytes were measured at some sizes only; they are proportional to the size, and given per element.
    """
    times = metrics[metrics["quantity"] == "time"].copy()
    for quantity in ("transient_bytes", "saved_bytes"):
        rows = numbered(metrics, quantity)
        rows = rows.assign(**{quantity: (rows["value"] / rows["elements"]).round(3)})
        key = ["machine", "fingerprint", "commit", "env", "op", "variant", "dtype"]
        times = times.merge(rows.groupby(key, as_index=False)[quantity].first(), on=key, how="left")
    cold = numbered(metrics, "cold")
    cold = cold.rename(columns={"value": "cold_s", "status": "cold_status", "impossible": "cold_impossible"})
    key = ["machine", "commit", "env", "op", "variant", "elements", "dtype"]
    times = times.merge(cold[[*key, "cold_s", "cold_status", "cold_impossible"]], on=key, how="left")
    return times.rename(
        columns={"transient_bytes": "transient_bytes_per_element", "saved_bytes": "saved_bytes_per_element"}
    )


def modes(metrics: pd.DataFrame, dtype: str, elements: int) -> pd.DataFrame:
    """Memory modes side by side: for each operator and flavour, time and transient bytes of fresh, out and in place.

    Bytes are right where the time is impossible: such a row stays, without its time.
    """
    rows = wide(metrics)
    rows = rows[(rows["dtype"] == dtype) & (rows["elements"] == elements) & rows["value"].notna()]
    rows = rows.assign(
        flavour=rows["variant"].str.rsplit(".", n=1).str[0], value=rows["value"].where(~rows["impossible"])
    )
    facts = ["op", "flavour", "framework", "device", "memory"]
    return rows[[*facts, "value", "transient_bytes_per_element", "percent_of_roof"]]


def scaling(metrics: pd.DataFrame) -> pd.DataFrame:
    """Possible times over the number of threads, with `efficiency`: that of one thread by threads times this time."""
    rows = numbered(metrics, "scaling")
    rows = rows[~rows["impossible"]]
    key = ["op", "variant", "elements", "dtype"]
    one = rows[rows["threads"] == 1].rename(columns={"value": "one_s"})[[*key, "one_s"]]
    rows = rows.merge(one, on=key, how="left")
    rows["efficiency"] = rows["one_s"] / (rows["threads"] * rows["value"])
    return rows.sort_values([*key, "threads"])


def numbered(metrics: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """The rows of a quantity that have a number."""
    return metrics[(metrics["quantity"] == quantity) & metrics["value"].notna()]


def headline(metrics: pd.DataFrame) -> pd.DataFrame:
    """The fastest possible row of each operator, framework and device at the largest size measured in float32."""
    rows = numbered(metrics, "time")
    rows = rows[~rows["impossible"] & (rows["dtype"] == "float32")]
    rows = rows[rows["elements"] == rows["elements"].max()]
    return rows.sort_values("value").drop_duplicates(["op", "framework", "device"])
