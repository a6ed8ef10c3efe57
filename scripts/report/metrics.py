"""From times, ratios and bytes to figures that people compare: bandwidth, percentage of a roof, memory of a mode.

Every function takes the tidy table of `results`, which may hold several runs, and returns a table. A run (machine,
fingerprint, commit, environment) is a key of every metric: numbers of two runs are never merged or compared.
"""

from collections.abc import Callable

import pandas as pd

from benchmarks.harness.case import SAMPLED
from benchmarks.harness.roofline.loops import DEVICE_LOOPS, DEVICE_PATTERNS, LOOPS, ORDINARY, OUT_OF_PLACE, parts_of
from impls.catalog import STEPS, VARIANTS
from impls.cnn.networks import NETWORKS, RELU_NETWORKS, autograd_saved_bytes, inplace_bytes, saved_bytes, work
from impls.cnn.operations import Work
from impls.variant import ITEMSIZE_BYTES, SavedModel
from scripts.report.results import RUN

# Above this with all of its interval, the roof or the traffic is wrong: the number is shown as impossible, never as a
# result.
IMPOSSIBLE_PERCENT = 105.0
# Catalog facts that a report shows beside each number, and those that its figures need.
FACTS = ["framework", "device", "memory", "saved_for_backward", "notes"]
DRAWN_FACTS = ["flavour"]
ROW = ["operator", "direction", "variant"]
# Rows that the fastest one is chosen from.
OPERATOR_RIVALS = [*RUN, "quantity", "operator", "direction", "elements", "dtype", "threads", "device"]
STEP_RIVALS = [*RUN, "network", "batch", "device", "precision"]
FASTEST = ["fastest_ratio", "fastest_low", "fastest_high"]
STEP_BYTES, ALLOCATED = ("saved_bytes", "peak_bytes"), "allocated_bytes"
STEP_FACTS = ["framework", "device", "memory", "winograd", "notes"]
STEP_METRICS = [
    *STEP_FACTS, "images_per_s", "gflop_per_s", "percent_of_gemm", "percent_of_gemm_low", "percent_of_gemm_high",
    "first_call_s", "impossible",
]  # fmt: skip
OPERATOR_METRICS = [
    "gb_per_s", "bus_gb_per_s",
    *(f"percent_of_{roof}{end}" for roof in ("roof", "bus") for end in ("", "_low", "_high")),
    "device_gb_per_s", "device_percent_of_roof", "impossible",
]  # fmt: skip
# Columns that `joined` adds to those of the tidy table, or corrects.
JOINED = list(dict.fromkeys([*FACTS, *OPERATOR_METRICS, *STEP_METRICS]))
PREDICTED = ["spared_bytes", "predicted_saved_bytes", "predicted_spared_bytes"]
STEP_MEMORY_KEY = [*RUN, "network", "batch", "flavour"]
# Python's own objects may be in a peak of traced memory.
OBJECTS_BYTES = 1024
ROOF_KEY = [*RUN, "array_bytes"]
ROOF_TYPES = dict.fromkeys([*DEVICE_PATTERNS, "least"], "float64")
# Bandwidth decides a GPU's time only from so many times the shortest one; below, starting and ending do.
BANDWIDTH_BOUND = 4

_SAVED_MODELS: dict[SavedModel, Callable[..., int]] = {
    "hand-written": saved_bytes,
    "eager autograd": autograd_saved_bytes,
}


def numbered(table: pd.DataFrame, quantity: str, kind: str = "operator") -> pd.DataFrame:
    """The rows of a quantity and kind that have a number."""
    return table[(table["kind"] == kind) & (table["quantity"] == quantity) & table["value"].notna()]


def roofs(table: pd.DataFrame) -> pd.DataFrame:
    """Best seconds a pass of each streaming loop, one row for each size: ROOF_KEY, then the names in loops.ORDINARY.

    Of one thread and all, and of ordinary and non-temporal stores, the faster counts: a roof is the limit of the
    machine. Loops that are not known here are left out: another commit may have had others.
    """
    rows = numbered(table, "time", "loop")
    rows = rows[rows["kernel"].isin(LOOPS)]
    if rows.empty:
        return pd.DataFrame(columns=[*ROOF_KEY, *ORDINARY])
    rows = rows.assign(pattern=[LOOPS[name].pattern.name for name in rows["kernel"]])
    wide = rows.pivot_table(index=ROOF_KEY, columns="pattern", values="value", aggfunc="min")
    return wide.reindex(columns=list(ORDINARY)).reset_index()


def device_roofs(table: pd.DataFrame) -> pd.DataFrame:
    """Device time of a pass of each streaming loop on a GPU, by size: ROOF_KEY, then DEVICE_PATTERNS, in seconds.

    Of the kernels of one loop the fastest counts. And `least`, the shortest time of the run: starting and ending.
    """
    rows = numbered(table, "time", "device_loop")
    rows = rows[rows["kernel"].isin(list(DEVICE_LOOPS))]
    if rows.empty:
        return pd.DataFrame(columns=[*ROOF_KEY, *DEVICE_PATTERNS, "least"]).astype(ROOF_TYPES)
    rows = rows.assign(pattern=[DEVICE_LOOPS[name].name for name in rows["kernel"]])
    wide = rows.pivot_table(index=ROOF_KEY, columns="pattern", values="value", aggfunc="min")
    wide = wide.reindex(columns=list(DEVICE_PATTERNS)).reset_index()
    # In place fewer bytes take part, which may fit a cache that those of the other loop do not.
    fastest = {
        **{pattern: wide[[pattern, other]].min(axis=1) for pattern, other in OUT_OF_PLACE.items()},
        "least": wide[list(DEVICE_PATTERNS)].min(axis=1).groupby([wide[key] for key in RUN]).transform("min"),
    }
    return wide.assign(**fastest)


def gemms(table: pd.DataFrame, kind: str = "product") -> pd.DataFrame:
    """Matrix products, the fastest first: RUN, library, n and gflop_per_s, of 2 n^3 operations.

    kind: "product" of the processor, "device_product" of a GPU.
    """
    rows = numbered(table, "time", kind)
    rows = rows.assign(gflop_per_s=2e-9 * rows["n"] ** 3.0 / rows["value"])
    return rows.sort_values("gflop_per_s", ascending=False)[[*RUN, "library", "n", "gflop_per_s"]]


def _device_gemm_roofs(table: pd.DataFrame) -> pd.DataFrame:
    """The fastest matrix product of each run on a GPU: RUN, gemm_gflop_per_s."""
    best = gemms(table, "device_product").groupby(RUN)["gflop_per_s"].max()
    return best.rename("gemm_gflop_per_s").reset_index()


def joined(table: pd.DataFrame, operators: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """The tidy table with JOINED, from `with_metrics` and `steps` of it: NaN, "" or False where a row has none.

    position: a column of all three, which tells rows apart.
    """
    corrected = [*FASTEST, "fastest_to"]
    parts = [part.reindex(columns=["position", *JOINED, *corrected]) for part in (operators, steps)]
    known = pd.concat([part.astype("object") for part in parts]).set_index("position")
    rows = table.drop(columns=corrected).join(known, on="position")
    numbers = [name for name in [*JOINED, *corrected] if name not in (*FACTS, *STEP_FACTS, "fastest_to", "impossible")]
    rows[numbers] = rows[numbers].astype("float64")
    texts = [*FACTS, "fastest_to"]
    rows[texts] = rows[texts].fillna("").astype("str")
    return rows.assign(**{name: rows[name].fillna(False).astype(bool) for name in ("impossible", "winograd")})


def percent_of(rows: pd.DataFrame, roof: str) -> pd.DataFrame:
    """Percentages of a roof by the paired ratios to it: of the value, and of the low and the high end of its interval.

    roof: the name of a ratio. NaN where a time was not compared with it.
    """
    ratios = [f"{roof}_ratio", f"{roof}_high", f"{roof}_low"]
    return (100 / rows[ratios]).set_axis(["value", "low", "high"], axis=1)


def steps(table: pd.DataFrame) -> pd.DataFrame:
    """Training steps that have a time, with STEP_METRICS.

    FLOPs are the nominal ones of the network; the roof is the fastest library's product of two large matrices, in the
    same rounds, or on a GPU in the same run; steps of a lower precision have none. first_call_s: to build a step and
    make one, for the smallest batch.
    impossible: all of the interval is above IMPOSSIBLE_PERCENT of the roof with the fewest FLOPs that the variant may
    take.
    """
    rows = numbered(table, "time", "step")
    rows = rows[rows["network"].isin(NETWORKS)]
    catalog = pd.DataFrame(
        [{"variant": row.name, **{fact: getattr(row, fact) for fact in (*STEP_FACTS, "precision")}} for row in STEPS]
    )
    rows = rows.merge(catalog, on="variant", how="inner")
    first = numbered(table, "first_call", "step").rename(columns={"value": "first_call_s"})
    key = [*RUN, "network", "variant"]
    first = first.sort_values("batch").drop_duplicates(key)[[*key, "first_call_s"]]
    rows = rows.merge(first, on=key, how="left").merge(_device_gemm_roofs(table), on=RUN, how="left")
    figures: list[Work] = [work(NETWORKS[network]) for network in rows["network"]]
    nominal = pd.Series([each.forward_flops + each.backward_flops for each in figures], rows.index, dtype="float64")
    fewest = pd.Series([each.least_flops for each in figures], rows.index, dtype="float64")
    rows["images_per_s"] = rows["batch"] / rows["value"]
    rows["gflop_per_s"] = rows["images_per_s"] * nominal / 1e9
    paired, on_gpu = percent_of(rows, "roof"), rows["device"] == "cuda"
    # The products are those of float32.
    unpaired = (100 * rows["gflop_per_s"] / rows["gemm_gflop_per_s"]).where(rows["precision"] == "")
    rows["percent_of_gemm"] = paired["value"].mask(on_gpu, unpaired)
    rows["percent_of_gemm_low"], rows["percent_of_gemm_high"] = paired["low"], paired["high"]
    least_percent = paired["low"].mask(on_gpu, unpaired) * (fewest / nominal).where(rows["winograd"], 1.0)
    rows["impossible"] = (least_percent > IMPOSSIBLE_PERCENT).astype(bool)
    return _with_fastest(rows, STEP_RIVALS).sort_values(["network", "batch", "value"])


def _with_fastest(rows: pd.DataFrame, rivals: list[str]) -> pd.DataFrame:
    """The rows, without ratios to impossible rows, and without the claims of others to be the fastest.

    A row that was measured by itself was compared with itself alone.
    """
    possible = rows[~rows["impossible"] & rows["value"].notna()]
    fastest = possible.sort_values("value").drop_duplicates(rivals)[[*rivals, "variant"]]
    named = rows.merge(fastest.rename(columns={"variant": "fastest"}), on=rivals, how="left")
    claims = named["fastest_to"] == named["variant"]
    known = ~_to_impossible(named, "fastest", rivals) & (~claims | (named["variant"] == named["fastest"]))
    named[FASTEST] = named[FASTEST].where(known)
    return named.assign(fastest_to=named["fastest_to"].where(known, "")).drop(columns="fastest")


def _to_impossible(rows: pd.DataFrame, name: str, rivals: list[str]) -> pd.Series:
    """Return, for each row, whether its ratio is relative to an impossible row.

    rivals: the columns in which both rows agree.
    """
    impossible = set(rows.loc[rows["impossible"], [*rivals, "variant"]].itertuples(index=False, name=None))
    others = rows[[*rivals, f"{name}_to"]].itertuples(index=False, name=None)
    return pd.Series([other in impossible for other in others], rows.index, dtype=bool)


def step_memory(table: pd.DataFrame) -> pd.DataFrame:
    """The bytes of training steps of ReLU networks, fresh and in place side by side: a row for each STEP_MEMORY_KEY.

    Columns such as saved_bytes_fresh; allocated_bytes_fresh: the peak in the allocator's blocks; spared_bytes: what in
    place takes off the peak; predicted_saved_bytes and predicted_spared_bytes: the prediction of the network's table
    for hand-written steps, and for eager autograd; differs: whether a measurement is not the prediction.
    """
    rows = table[(table["kind"] == "step") & table["quantity"].isin(STEP_BYTES) & table["value"].notna()]
    rows = rows[rows["network"].isin(RELU_NETWORKS)]
    catalog = pd.DataFrame(
        [
            {"variant": row.name, "flavour": row.flavour, "memory": row.memory, "saved_model": row.saved_model}
            for row in STEPS
        ]
    )
    rows = rows.merge(catalog, on="variant", how="inner")
    columns = [f"{quantity}_{memory}" for quantity in (*STEP_BYTES, ALLOCATED) for memory in ("fresh", "inplace")]
    if rows.empty:
        return pd.DataFrame(columns=[*STEP_MEMORY_KEY, *columns, *PREDICTED, "differs"])
    models = dict(zip(catalog["flavour"], catalog["saved_model"], strict=True))
    rows = rows.assign(column=rows["quantity"] + "_" + rows["memory"])
    allocated = rows.assign(column=f"{ALLOCATED}_" + rows["memory"], value=rows[ALLOCATED]).dropna(subset=["value"])
    wide = pd.concat([rows, allocated]).pivot_table(index=STEP_MEMORY_KEY, columns="column", values="value")
    wide = wide.reindex(columns=columns).reset_index()
    wide["spared_bytes"] = wide["peak_bytes_fresh"] - wide["peak_bytes_inplace"]
    sizes = list(zip(wide["network"], wide["batch"], [models[flavour] for flavour in wide["flavour"]], strict=True))
    wide["predicted_saved_bytes"] = [_predicted(_SAVED_MODELS.get(model), *size) for *size, model in sizes]
    wide["predicted_spared_bytes"] = [
        _predicted(inplace_bytes if model == "hand-written" else None, *size) for *size, model in sizes
    ]
    pairs = (
        ("saved_bytes_fresh", "predicted_saved_bytes", 0),
        ("saved_bytes_inplace", "predicted_saved_bytes", 0),
        ("spared_bytes", "predicted_spared_bytes", OBJECTS_BYTES),
    )
    wrong = [wide[measured].sub(wide[predicted]).fillna(0).abs() > room for measured, predicted, room in pairs]
    return wide.assign(differs=pd.concat(wrong, axis=1).any(axis=1))


def _predicted(predict: Callable[..., int] | None, network: str, batch: int) -> float:
    return float(predict(NETWORKS[network], batch, ITEMSIZE_BYTES["float32"])) if predict else float("nan")


def with_metrics(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of operators that the catalog knows, with FACTS, DRAWN_FACTS and, for SAMPLED, the columns

    gb_per_s: required bytes, each counted once (as STREAM counts), by the time.
    bus_gb_per_s: bytes that this variant moves, fetches of write-allocate included, by the time.
    percent_of_roof: 100 times the time of streaming loops for the required traffic, in the same rounds, by the time.
    percent_of_bus: the same of the loop that moves most bytes a second, for the bytes that this variant moves.
    Both with the ends of their intervals, such as percent_of_roof_low; NaN above IMPOSSIBLE_PERCENT where the interval
    also holds possible values.
    Of a GPU's rows percent_of_roof has no interval: its roof is the median of the same rounds (`device_roofs`).
    device_gb_per_s, device_percent_of_roof: the same of a GPU's rows by device time.
    impossible: all of the interval of one of the percentages is above IMPOSSIBLE_PERCENT: the time is too short, or
    the bytes too many. On a GPU only where bandwidth decides.
    """
    catalog = pd.DataFrame(
        [{"operator": row.operator, "direction": row.direction, "variant": row.name, "row": row} for row in VARIANTS]
    )
    operators = table[(table["kind"] == "operator") & table["dtype"].isin(ITEMSIZE_BYTES)]
    # In the table, only loops have a size in bytes.
    joined = operators.drop(columns="array_bytes").merge(catalog, on=ROW, how="inner")
    for fact in (*FACTS, *DRAWN_FACTS):
        joined[fact] = [getattr(row, fact) for row in joined["row"]]
    tolerances = (f"; within {row.tolerance_ulps:g} ulps" if row.tolerance_ulps else "" for row in joined["row"])
    joined["notes"] += list(tolerances)
    itemsizes = joined["dtype"].map(ITEMSIZE_BYTES)
    joined["array_bytes"] = joined["elements"] * itemsizes
    sized = list(zip(joined["row"], joined["elements"], itemsizes, strict=True))
    joined["required_bytes"] = [row.required_traffic.algorithmic_bytes(n, size) for row, n, size in sized]
    joined["bus_bytes"] = [row.traffic.bus_bytes(n, size) for row, n, size in sized]
    time_s = joined["value"].where(joined["quantity"].isin(SAMPLED))
    joined["gb_per_s"] = joined["required_bytes"] / time_s / 1e9
    joined["bus_gb_per_s"] = joined["bus_bytes"] / time_s / 1e9
    for roof in ("roof", "bus"):
        names = [f"percent_of_{roof}", f"percent_of_{roof}_low", f"percent_of_{roof}_high"]
        joined[names] = percent_of(joined, roof).to_numpy()
    on_gpu = joined["device"] == "cuda"
    of_device = device_roofs(table).rename(columns={name: f"device_{name}" for name in (*DEVICE_PATTERNS, "least")})
    joined = joined.merge(of_device, on=ROOF_KEY, how="left")
    device_roof_s = pd.Series([_device_roof_s(roof) for roof in joined.to_dict("records")], joined.index).where(on_gpu)
    joined["percent_of_roof"] = joined["percent_of_roof"].mask(on_gpu, 100 * device_roof_s / time_s)
    joined["device_gb_per_s"] = joined["required_bytes"] / joined["device_s"] / 1e9
    joined["device_percent_of_roof"] = 100 * device_roof_s / joined["device_s"]
    least_percent = joined[["percent_of_roof_low", "percent_of_bus_low"]].max(axis=1)
    of_gpu_percent = joined[["percent_of_roof", "device_percent_of_roof"]].max(axis=1)
    is_bound = device_roof_s > BANDWIDTH_BOUND * joined["device_least"]
    of_gpu = is_bound & (of_gpu_percent > IMPOSSIBLE_PERCENT)
    joined["impossible"] = (least_percent > IMPOSSIBLE_PERCENT).mask(on_gpu, of_gpu).astype(bool)
    # Such a percentage is not known well enough to be called impossible, and cannot be right: only its interval stays.
    for name in ("percent_of_roof", "percent_of_bus"):
        joined[name] = joined[name].mask((joined[name] > IMPOSSIBLE_PERCENT) & ~joined["impossible"] & ~on_gpu)
    return _with_fastest(joined, OPERATOR_RIVALS)


def _device_roof_s(row: dict) -> float:
    """Seconds of streaming loops on a GPU for the required traffic."""
    itemsize_bytes = ITEMSIZE_BYTES[row["dtype"]]
    parts = parts_of(row["row"].required_traffic, row["memory"] == "inplace", itemsize_bytes)
    return sum(factor * row[f"device_{name}"] for name, factor in parts.items())


def wide(metrics: pd.DataFrame) -> pd.DataFrame:
    """One line for each row, size and dtype that has a time or a reason: the metrics of the time, and beside them
    the time with cold caches (cold_s, cold_status, cold_impossible) and bytes.

    Bytes were measured at some sizes only; they are proportional to the size, and given per element.
    """
    times = metrics[metrics["quantity"] == "time"].copy()
    key = [*RUN, *ROW, "dtype"]
    for quantity in ("transient_bytes", "saved_bytes"):
        rows = numbered(metrics, quantity)
        name = f"{quantity}_per_element"
        rows = rows.assign(**{name: (rows["value"] / rows["elements"]).round(3)})
        times = times.merge(rows.groupby(key, as_index=False)[name].first(), on=key, how="left")
    cold = numbered(metrics, "cold")
    cold = cold.rename(columns={"value": "cold_s", "status": "cold_status", "impossible": "cold_impossible"})
    key = [*key, "elements"]
    return times.merge(cold[[*key, "cold_s", "cold_status", "cold_impossible"]], on=key, how="left")


def modes(metrics: pd.DataFrame, dtype: str, elements: int) -> pd.DataFrame:
    """Memory modes side by side: for each flavour, time and transient bytes of fresh, out and in place.

    Bytes are right where the time is impossible: such a row stays, without its time.
    """
    rows = wide(metrics)
    rows = rows[(rows["dtype"] == dtype) & (rows["elements"] == elements) & rows["value"].notna()]
    rows = rows.assign(value=rows["value"].where(~rows["impossible"]))
    facts = [*RUN, "operator", "direction", "flavour", "framework", "device", "memory"]
    return rows[[*facts, "value", "transient_bytes_per_element", "percent_of_roof"]]


def modes_against_fresh(metrics: pd.DataFrame) -> pd.DataFrame:
    """Possible warm times that were compared with possible ones of the fresh mode in the same rounds."""
    rows = numbered(metrics, "time")
    rows = rows[~_to_impossible(rows, "fresh", OPERATOR_RIVALS)]
    return rows[~rows["impossible"] & rows["fresh_ratio"].notna()]


def scaling(metrics: pd.DataFrame) -> pd.DataFrame:
    """Possible times over the number of threads, with `efficiency`: that of one thread by threads times this time."""
    rows = numbered(metrics, "scaling")
    rows = rows[~rows["impossible"]]
    key = [*RUN, *ROW, "elements", "dtype"]
    one = rows[rows["threads"] == 1].rename(columns={"value": "one_s"})[[*key, "one_s"]]
    rows = rows.merge(one, on=key, how="left")
    rows["efficiency"] = rows["one_s"] / (rows["threads"] * rows["value"])
    return rows.sort_values([*key, "threads"])


def headline(metrics: pd.DataFrame) -> pd.DataFrame:
    """The fastest possible row of each run, operator, direction, framework and device, in float32, at the largest
    size that the run has."""
    rows = numbered(metrics, "time")
    rows = rows[~rows["impossible"] & (rows["dtype"] == "float32")]
    rows = rows[rows["elements"] == rows.groupby(RUN)["elements"].transform("max")]
    return rows.sort_values("value").drop_duplicates([*RUN, "operator", "direction", "framework", "device"])
