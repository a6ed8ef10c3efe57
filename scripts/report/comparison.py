"""The result of a comparison, and its forms: a table for the terminal, Markdown, JSON and a page.

The JSON form has the version SCHEMA; it is the dataclasses below, field for field
(`python -m scripts.report.schema --comparison` prints it as JSON Schema). Change SCHEMA when a field changes its
meaning or goes.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

import msgspec

from benchmarks.harness.timing.verdicts import LOOKS
from scripts.report import strips
from scripts.report.rendering import style, template
from scripts.report.text import number_text, time_text

SCHEMA = 1
# In the order of tables: what to look at first.
Verdict = Literal[
    "wrong", "failed", "slower", "larger", "faster", "smaller", "inconclusive", "gone", "new", "same"
]  # fmt: skip
VERDICTS: tuple[str, ...] = Verdict.__args__  # type: ignore[attr-defined]
WORSE, UNMEASURED = ("slower", "larger"), ("wrong", "failed")
# The exit code where something could not be measured.
NOT_MEASURED = 2
# Of the plot in text: its columns, and the changes at its ends.
COLUMNS, EDGE = 31, 0.15
# Rows of a figure.
STRIPS = 40


@dataclass(frozen=True)
class Side:
    """One side of a comparison. name: as the user gave it. packages: installed versions by name."""

    name: str
    commit: str
    packages: dict[str, str]


@dataclass(frozen=True)
class Compared:
    """A row that was compared.

    base_case, head_case: values of `case.AXES`. base, head: median seconds per call, or bytes.
    ratio: head to base, the geometric mean of the passes, with its 95 % interval from `low` to `high`.
    visible: the smallest slowdown, as a share, that would have been suspected with a probability of 95 %.
    control: the code of the row is the same on both sides. other_truth: the reference that judges the row, or what it
    declares to depart from it, is not the same on both sides.
    passes: seconds per call of base and head in each round that counts, by pass.
    """

    label: str
    base_case: dict[str, str | int]
    head_case: dict[str, str | int]
    unit: str
    verdict: Verdict
    reason: str = ""
    base: float | None = None
    head: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    visible: float | None = None
    control: bool = False
    other_truth: bool = False
    passes: list[list[tuple[float, float]]] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """A comparison. time_s: when it ended, in seconds since 1970. threshold: smallest change that counts, as a share.

    spent_s: seconds of the passes, of budget_s. interrupted: before all had a verdict. disturbed: rows whose code is
    the same moved too, so no row is called slower or faster.
    """

    schema: int
    time_s: float
    machine: str
    fingerprint: str
    base: Side
    head: Side
    profile: str
    threshold: float
    budget_s: float
    spent_s: float
    passes: int
    interrupted: bool
    disturbed: bool
    rows: list[Compared]


def to_json(result: Result) -> bytes:
    """The JSON form."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1)


def from_json(content: bytes) -> Result:
    """The inverse of `to_json`. Raises msgspec.ValidationError that names the field."""
    return msgspec.json.decode(content, type=Result)


def exit_code(result: Result, strict: bool = False) -> int:
    """0: nothing is slower or larger. 1: something is. 2: something could not be measured. 3: strict, inconclusive.

    1 also where something else could not be measured; 2 also where no time had enough passes to be judged.
    """
    verdicts = {row.verdict for row in result.rows}
    if verdicts & set(WORSE):
        return 1
    passes = [len(row.passes) for row in result.rows if row.unit == "seconds" and row.verdict not in ("new", "gone")]
    if verdicts & set(UNMEASURED) or result.disturbed or (passes and max(passes) < LOOKS[0]):
        return NOT_MEASURED
    return 3 if strict and "inconclusive" in verdicts else 0


def ordered(rows: Sequence[Compared]) -> list[Compared]:
    """The rows by verdict, each with the largest change first."""
    changes = {row.label: 0.0 if row.ratio is None else abs(_log(row.ratio)) for row in rows}
    return sorted(rows, key=lambda row: (VERDICTS.index(row.verdict), -changes[row.label], row.label))


def table(result: Result) -> str:
    """A table for the terminal: the largest changes first, with intervals as numbers and as a plot."""
    rows = ordered(result.rows)
    width = max((len(name(row)) for row in rows), default=0)
    heading = f"{'verdict':12} {'change':>8}  {'95 % interval':19} {scale()} {'row':{width}}  {'would have seen':>15}"
    lines = [
        f"{heading}  reason",
        *(_line(row, width).rstrip() for row in rows),
        "",
        *sentences(result),
    ]
    return "\n".join(lines)


def _line(row: Compared, width: int) -> str:
    # A reason is foreign text, and may hold what moves a terminal's cursor.
    reason = "".join(character if character.isprintable() else " " for character in row.reason)
    return (
        f"{row.verdict:12} {change_text(row.ratio):>8}  {interval_text(row):19} {plot(row)} {name(row):{width}}  "
        f"{visible_text(row):>15}  {reason}"
    )


def name(row: Compared) -> str:
    """The label of a row, and whether it is a control."""
    return f"{row.label} (control)" if row.control else row.label


def counts(result: Result) -> str:
    """How many rows have each verdict: "3 slower, 20 same"."""
    found = Counter[str](row.verdict for row in result.rows)
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict]) or "nothing was compared"


def sentences(result: Result) -> list[str]:
    """The result in sentences: the sides, the counts, and what limits the verdicts."""
    lines = [
        f"{result.head.name} ({result.head.commit[:8]}) against {result.base.name} ({result.base.commit[:8]}) on "
        f"{result.machine}: {counts(result)}.",
        f"{result.passes} passes in {result.spent_s:.0f} s; changes of less than {percent_text(result.threshold)} do "
        "not count.",
    ]
    if differing := _differing(result):
        lines.append(f"Packages: {differing}.")
    if others := sum(row.other_truth for row in result.rows):
        lines.append(
            f"{others} rows are judged by another reference, or accept other errors, on each side: "
            "a ratio does not mean that both compute the same."
        )
    if result.disturbed:
        lines.append("Disturbed: rows whose code is the same on both sides moved too. Repeat on a quieter machine.")
    if result.interrupted:
        lines.append("Interrupted: rows without enough passes are inconclusive.")
    return lines


def _differing(result: Result) -> str:
    base, head = result.base.packages, result.head.packages
    names = sorted(name for name in base.keys() | head.keys() if base.get(name) != head.get(name))
    return ", ".join(f"{name} {base.get(name, 'none')} -> {head.get(name, 'none')}" for name in names)


def change_text(ratio: float | None) -> str:
    """A ratio as a change: "+5.1 %"; a dash without one."""
    return "–" if ratio is None else f"{100 * (ratio - 1):+.1f} %"


def interval_text(row: Compared) -> str:
    """The ends of the 95 % interval as changes: "+3.4 … +6.9 %"; empty without one."""
    if row.low is None or row.high is None:
        return ""
    return f"{100 * (row.low - 1):+.1f} … {100 * (row.high - 1):+.1f} %"


def percent_text(share: float) -> str:
    """A share as a percentage with two significant digits: "2.1 %"."""
    return f"{number_text(100 * share, 2)} %"


def visible_text(row: Compared) -> str:
    """The smallest slowdown that would have been found: "2.1 %"; empty without one."""
    return "" if row.visible is None else percent_text(row.visible)


def value_text(row: Compared, value: float | None) -> str:
    """Seconds with a unit, or bytes; a dash where there is none."""
    if row.unit == "seconds" or value is None:
        return time_text(value)
    return f"{int(value):,} bytes"


def scale() -> str:
    """The heading of the plots in text: the changes at their ends and in the middle."""
    end = f"{100 * EDGE:.0f} %"
    half = COLUMNS // 2
    return f"{f'-{end}':{half}}0{f'+{end}':>{half}}"


def plot(row: Compared) -> str:
    """The interval of a ratio as a line of text, with its value as a dot; "<" and ">" mark what lies outside."""
    cells = list(" " * COLUMNS)
    cells[COLUMNS // 2] = "│"
    if row.ratio is None:
        return "".join(cells)
    if row.low is not None and row.high is not None:
        for column in range(_column(row.low), _column(row.high) + 1):
            cells[column] = "─"
    change = _log(row.ratio)
    cells[_column(row.ratio)] = "<" if change < -EDGE else ">" if change > EDGE else "●"
    return "".join(cells)


def _column(ratio: float) -> int:
    share = (_log(ratio) / EDGE + 1) / 2
    return round(min(1.0, max(0.0, share)) * (COLUMNS - 1))


def _log(ratio: float) -> float:
    """The logarithm of a ratio; no bytes are infinitely less than some."""
    return math.log(ratio) if ratio > 0 else -math.inf


def markdown(result: Result) -> str:
    """A summary for a pull request: the rows that changed or could not be measured, and the others folded away."""
    rows = ordered(result.rows)
    first = [row for row in rows if row.verdict not in ("same", "inconclusive")]
    others = [row for row in rows if row not in first]
    parts = [f"### {_escaped(result.head.name)} against {_escaped(result.base.name)}", ""]
    parts += [f"{_escaped(line)}  " for line in sentences(result)]
    if first:
        parts += ["", *_markdown_table(first)]
    if others:
        summary = f"{len(others)} rows without a change that is certain"
        parts += ["", f"<details><summary>{summary}</summary>", "", *_markdown_table(others), "", "</details>"]
    return "\n".join([*parts, "", ""])


def _markdown_table(rows: Sequence[Compared]) -> list[str]:
    head = [
        "| verdict | change | 95 % interval | row | base | head | would have seen | |",
        "|---|--:|--:|---|--:|--:|--:|---|",
    ]
    return head + [
        "| "
        + " | ".join(
            [
                row.verdict,
                change_text(row.ratio),
                interval_text(row),
                _escaped(name(row)),
                value_text(row, row.base),
                value_text(row, row.head),
                visible_text(row),
                _escaped(row.reason),
            ]
        )
        + " |"
        for row in rows
    ]


def _escaped(text: str) -> str:
    """Foreign text in a line of Markdown: no markup, no line break."""
    special = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
    special |= {character: f"\\{character}" for character in "\\|`*_[]"}
    return "".join(special.get(character, character) for character in text)


def page(result: Result) -> str:
    """One HTML file, with a strip of the ratios of all rounds for each row."""
    rows = ordered(result.rows)
    drawn = [_strip(row) for row in rows if row.ratio is not None and row.passes]
    groups = [drawn[start : start + STRIPS] for start in range(0, len(drawn), STRIPS)]
    filters: dict[str, Callable[..., str]] = {
        "change": change_text, "interval": interval_text, "visible": visible_text, "percent": percent_text
    }  # fmt: skip
    return template("comparison.html.j2", **filters).render(
        result=result,
        rows=rows,
        sentences=sentences(result),
        strips=[strips.figure(number, group, result.threshold) for number, group in enumerate(groups)],
        value=value_text,
        name=name,
        **style(),
    )


def _strip(row: Compared) -> strips.Strip:
    """The change of a row in percent: of each pass, of all together, and its interval."""
    assert row.ratio is not None
    passes = [median(head_s / base_s for base_s, head_s in pairs) for pairs in row.passes]
    low, high = row.low or row.ratio, row.high or row.ratio
    change, start, end, *of_passes = [100 * (ratio - 1) for ratio in (row.ratio, low, high, *passes)]
    return strips.Strip(row.label, row.verdict, change, start, end, of_passes)
