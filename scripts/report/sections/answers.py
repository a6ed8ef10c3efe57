"""The answers that the page opens with: sentences with numbers, made from the data, each with a link to its evidence.

None is given that the data does not carry.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
from markupsafe import Markup

from scripts.report import metrics
from scripts.report.section import Context, Section, rendered
from scripts.report.sections import activations, compiling, history
from scripts.report.text import bytes_text, count_text, interval_text, is_tie, number_text, row_label, time_text

NAME, TITLE = "answers", "Answers"
OPERATOR, DTYPE = "relu", "float32"
DIRECTION_WORDS = {"forward": "forward", "backward": "backward", "roundtrip": "in a round trip"}
DEVICE_WORDS = {"cpu": "", "cuda": " on the GPU"}


@dataclass(frozen=True)
class Answer:
    """A sentence, and the section that shows its evidence."""

    question: str
    text: Markup
    evidence: str


def section(context: Context) -> Section:
    """The section of a run; says so where it has too few numbers."""
    return rendered(NAME, TITLE, answers=list(answers(context)))


def answers(context: Context) -> Iterable[Answer]:
    """The answers that a run carries, in their order."""
    headline = metrics.headline(context.measured)
    headline = headline[headline["operator"] == OPERATOR]
    yield from _fastest(headline)
    yield from _fastest_steps(context.steps)
    yield from _roofs(headline, context.steps)
    yield from _modes(context)
    yield from _activations(context)
    yield from _step_memory(context)
    yield from _compiling(context)
    yield from _relu_share(context.steps)
    yield from _slower(context)


def _fastest(headline: pd.DataFrame) -> Iterable[Answer]:
    groups = {
        key: rows.to_dict("records") for key, rows in headline.sort_values("value").groupby(["device", "direction"])
    }
    for device, direction in product(DEVICE_WORDS, DIRECTION_WORDS):
        if (device, direction) not in groups:
            continue
        first, *others = groups[device, direction]
        yield Answer(
            f"Who is fastest {DIRECTION_WORDS[direction]}{DEVICE_WORDS[device]}?",
            Markup("<b>{}</b>: {} for {:,} {} elements{}. {}").format(
                first["variant"], time_text(first["value"]), first["elements"], DTYPE, _interval_s(first),
                _against(first, others),
            ),
            "winners",
        )  # fmt: skip


def _interval_s(row: Mapping[Any, Any]) -> str:
    """The interval of a time in parentheses; empty without one."""
    return "" if pd.isna(row["low"]) else f" ({time_text(row['low'])} … {time_text(row['high'])})"


def _against(first: Mapping[Any, Any], others: Iterable[Mapping[Any, Any]]) -> Markup:
    """Compare the best rows of the other frameworks with the first, by ratios of the same rounds."""
    parts = [
        Markup("{} {} ({})").format(
            row["variant"],
            _words(row),
            interval_text(row, "fastest"),
        )
        for row in others
        if row["fastest_to"] == first["variant"]
    ]
    return Markup("{}.").format(Markup("; ").join(parts)) if parts else Markup()


def _words(row: Mapping[Any, Any]) -> str:
    """Say how a time compares with the shortest median."""
    if is_tie(row, "fastest"):
        return "is as fast"
    but = ", though its median is longer" if row["fastest_high"] < 1 else ""
    return f"takes {number_text(row['fastest_ratio'])} times as long{but}"


def _fastest_steps(steps: pd.DataFrame) -> Iterable[Answer]:
    possible = steps[~steps["impossible"].astype(bool) & (steps["device"] == "cpu")]
    sentences = []
    for (network, batch), rows in possible.groupby(["network", "batch"], sort=False):
        first, *others = rows.sort_values("value").drop_duplicates("framework").to_dict("records")
        sentences.append(
            Markup("{}, batch {}: <b>{}</b>, {}{}. {}").format(
                network, batch, first["variant"], time_text(first["value"]), _interval_s(first),
                _against(first, others),
            )
        )  # fmt: skip
    if sentences:
        yield Answer("Who trains fastest?", Markup(" ").join(sentences), "steps")


def _roofs(headline: pd.DataFrame, steps: pd.DataFrame) -> Iterable[Answer]:
    known = headline[headline["device"] == "cpu"].dropna(subset=["percent_of_roof", "percent_of_roof_low"])
    best = known.sort_values("percent_of_roof", ascending=False).drop_duplicates("direction")
    parts = [
        Markup("{} {} reaches <b>{} %</b> ({}) of the memory's bandwidth").format(
            row["direction"], row["variant"], number_text(row["percent_of_roof"], 2),
            interval_text(row, "percent_of_roof"),
        )
        for row in sorted(best.to_dict("records"), key=lambda row: list(DIRECTION_WORDS).index(row["direction"]))
    ]  # fmt: skip
    possible = steps[~steps["impossible"].astype(bool) & ~steps["winograd"].astype(bool)]
    best = possible.dropna(subset=["percent_of_gemm", "percent_of_gemm_low"])
    best = best.sort_values("percent_of_gemm", ascending=False).drop_duplicates("network")
    parts += [
        Markup("without Winograd, a step of {} in {} reaches <b>{} %</b> ({}) of the fastest matrix product").format(
            row["network"], row["variant"], number_text(row["percent_of_gemm"], 2),
            interval_text(row, "percent_of_gemm"),
        )
        for row in best.to_dict("records")
    ]  # fmt: skip
    if parts:
        text = Markup("; ").join(parts)
        yield Answer("How far from the limit?", Markup("{}{}.").format(text[:1].upper(), text[1:]), "throughput")


def _modes(context: Context) -> Iterable[Answer]:
    """Compare out and in place with fresh at the largest size, for the first flavour of each framework."""
    rows = metrics.modes_against_fresh(context.measured)
    rows = rows[(rows["operator"] == OPERATOR) & (rows["dtype"] == DTYPE) & (rows["direction"] == "forward")]
    rows = rows[(rows["elements"] == rows["elements"].max()) & (rows["device"] == "cpu")]
    for mode, question, words in (
        ("out", "What does a fresh result cost?", "Writing into a buffer takes"),
        ("inplace", "What does in place save?", "Overwriting the input takes"),
    ):
        chosen = rows[rows["memory"] == mode].drop_duplicates("framework").to_dict("records")
        parts = [
            Markup("<b>{} %</b> ({} … {}) in {}").format(
                *(number_text(100 * row[f"fresh_{end}"], 2) for end in ("ratio", "low", "high")), row["flavour"]
            )
            for row in chosen
        ]
        if parts:
            elements = chosen[0]["elements"]
            yield Answer(
                question,
                Markup("{} {} of the time that a fresh result takes (forward, {:,} elements). {}").format(
                    words, Markup(", ").join(parts), elements, _bytes(context, mode, elements)
                ),
                "memory",
            )


def _activations(context: Context) -> Iterable[Answer]:
    """Compare ReLU with the other activations at the largest size, in the variant of each framework."""
    rows = activations.compared(context.measured)
    rows = rows[(rows["direction"] == "forward") & (rows["elements"] == rows["elements"].max())]
    parts = []
    for variant, of_variant in rows.groupby("variant", sort=False):
        first, *others = of_variant.sort_values("relu_ratio").to_dict("records")
        if others:
            parts.append(
                Markup("from {} times ({}, {}) to <b>{} times</b> ({}, {}) in {}").format(
                    *(text for row in (first, others[-1]) for text in _relative(row)), variant
                )
            )
    if parts:
        text = Markup("The other activations take {} of ReLU's time (forward, {:,} elements).{}").format(
            Markup("; ").join(parts), rows["elements"].iloc[0], _activations_in_training(context)
        )
        yield Answer("Is ReLU cheaper than functions with exponentials?", text, "activations")


def _activations_in_training(context: Context) -> Markup:
    """Say how much longer a training step takes with the slowest of the other activations; empty without steps."""
    rows = activations.fastest_in_training(activations.in_training(context))
    slowest = rows.sort_values("relu_ratio", ascending=False).drop_duplicates("framework").to_dict("records")
    parts = [
        Markup("<b>{} times</b> ({}, {}) in {}").format(
            number_text(row["relu_ratio"], 3), row["activation"], interval_text(row, "relu"), row["variant"]
        )
        for row in slowest
    ]
    if not parts:
        return Markup()
    return Markup(" With the slowest of them, a training step of {} takes {} of the time with ReLU.").format(
        slowest[0]["twin"], Markup(", ").join(parts)
    )


def _relative(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    """The ratio of a row to ReLU, its operator, and the interval."""
    return number_text(row["relu_ratio"], 2), row["operator"], interval_text(row, "relu")


def _bytes(context: Context, mode: str, elements: int) -> str:
    """The bytes that a mode does not allocate; empty where they were not measured."""
    rows = metrics.modes(context.measured, DTYPE, elements)
    rows = rows[(rows["operator"] == OPERATOR) & (rows["direction"] == "forward") & (rows["device"] == "cpu")]
    wide = rows.pivot_table(index="flavour", columns="memory", values="transient_bytes_per_element")
    if not {"fresh", mode} <= set(wide.columns):
        return ""
    saved = (wide["fresh"] - wide[mode]).dropna()
    if saved.empty:
        return ""
    low, high = saved.min(), saved.max()
    amount = number_text(low) if low == high else f"{number_text(low)} to {number_text(high)}"
    return f"It allocates {amount} bytes per element less."


def _step_memory(context: Context) -> Iterable[Answer]:
    rows = metrics.step_memory(context.table).dropna(subset=["spared_bytes"])
    rows = rows.assign(percent=100 * rows["spared_bytes"] / rows["peak_bytes_fresh"])
    best = rows.sort_values("percent", ascending=False).drop_duplicates("network")
    parts = [
        Markup("{} in {}: <b>{}</b> of {} ({} %){}").format(
            row["network"], row["flavour"], bytes_text(row["spared_bytes"]), bytes_text(row["peak_bytes_fresh"]),
            number_text(row["percent"], 2), _saved(row),
        )
        for row in best.to_dict("records")
    ]  # fmt: skip
    if parts:
        text = Markup("With ReLU in place, the peak of memory is at most this much lower: {}.").format(
            Markup("; ").join(parts)
        )
        yield Answer("And of a whole step?", text, "memory")


def _saved(row: Mapping[Any, Any]) -> str:
    """Say how many bytes less are saved for backward in place; empty where they were not measured."""
    saved = row["saved_bytes_fresh"] - row["saved_bytes_inplace"]
    return "" if pd.isna(saved) else f", {bytes_text(saved)} of what is saved for backward"


def _compiling(context: Context) -> Iterable[Answer]:
    rows = compiling.pays(context)
    rows = rows[(rows["operator"] == OPERATOR) & (rows["direction"] == "forward")]
    if rows.empty:
        return
    first = rows.sort_values("first_s")
    low, high = first.iloc[0], first.iloc[-1]
    paying = rows.dropna(subset=["calls"]).sort_values("calls")
    parts = [
        Markup("{} pays after <b>{}</b> calls with {:,} elements, against {}").format(
            row["variant"], number_text(row["calls"], 2), row["elements"], row["other"]
        )
        for row in paying.drop_duplicates("framework").to_dict("records")
    ]
    never = len(rows) - len(paying)
    if never:
        parts.append(Markup("{} of forward never {}").format(count_text(never, "row"), "does" if never == 1 else "do"))
    text = Markup("The first call of forward takes {} ({}) at least and {} ({}) at most. {}.").format(
        time_text(low["first_s"]), low["variant"], time_text(high["first_s"]), high["variant"],
        Markup("; ").join(parts),
    )  # fmt: skip
    yield Answer("Does compiling pay?", text, "compile")


def _relu_share(steps: pd.DataFrame) -> Iterable[Answer]:
    known = steps.dropna(subset=["relu_percent_low"])
    known = known[~known["impossible"].astype(bool) & (known["device"] == "cpu")]
    fastest = known.sort_values("value").drop_duplicates(["network", "batch"])
    parts = [
        Markup("{} of {} in {}").format(_share(row), row["network"], row["variant"])
        for row in fastest.to_dict("records")
        if row["relu_percent_high"] > 0
    ]
    if parts:
        text = Markup(", ").join(parts)
        yield Answer("What is ReLU's share of a step?", Markup("{}{}.").format(text[:1].upper(), text[1:]), "steps")


def _share(row: Mapping[Any, Any]) -> Markup:
    """A share with its interval, or its upper end where the lower one is below 0: no share is."""
    share, low, high = (number_text(row[f"relu_percent{end}"], 2) for end in ("", "_low", "_high"))
    if row["relu_percent_low"] <= 0:
        return Markup("at most <b>{} %</b>").format(high)
    return Markup("<b>{} %</b> ({} … {})").format(share, low, high)


def _slower(context: Context) -> Iterable[Answer]:
    series = history.of_run(context)
    if not series:
        return
    baseline = series[0].baseline
    slower = [each for each in series if each.is_apart and each.change > 0]
    parts = [
        Markup("{} by {} %").format(row_label(*_subject(each.axes)), number_text(100 * each.change, 2))
        for each in slower[:3]
    ]
    found = Markup(": {}").format(Markup(", ").join(parts)) if parts else Markup()
    text = Markup(
        "Against {}, {} of {} are larger with intervals apart{}. Runs at different times differ by themselves: "
        "<code>./scripts/compare {}</code> confirms."
    ).format(baseline[:8], len(slower), count_text(len(series), "number"), found, baseline[:8])
    yield Answer("What got slower?", text, "history")


def _subject(axes: Mapping[str, Any]) -> tuple[str, str, str]:
    return axes["operator"] or axes["network"], axes["direction"], axes["variant"]
