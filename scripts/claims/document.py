"""Types of the JSON files that the commands of this package write and the report reads. Imports msgspec only.

The types accept nothing else: no unknown field, no number that a figure cannot show, no text with control characters,
no verdict that does not follow from its parts. `python -m scripts.report.schema --claims` prints them as JSON Schema.
Change SCHEMA when a field changes its meaning or goes.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

SCHEMA: Literal[1] = 1
CLAIMS, EXAMPLES = "claims", "examples"
# A larger file is none of ours.
LARGEST_BYTES = 2**20
LARGEST_NUMBER = 1e30
LONGEST_TEXT, LONGEST_LABEL = 2000, 100
# More take too long to draw.
MOST_PANELS = 40
# No control characters, and none that are invisible or change the direction of text; "$" would allow a line break.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*(?![\s\S])"
NAME = r"^[a-z][a-z0-9-]{0,39}(?![\s\S])"

Name = Annotated[str, Meta(pattern=NAME)]
Label = Annotated[str, Meta(max_length=LONGEST_LABEL, pattern=PRINTABLE)]
Text = Annotated[str, Meta(max_length=LONGEST_TEXT, pattern=PRINTABLE)]
Number = Annotated[float, Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
Numbers = Annotated[list[Number], Meta(max_length=500)]
Verdict = Literal["holds", "holds in part", "does not hold here"]
# How verdicts follow from parts.
RULE = "Each holds where all of its parts do, in part where some do, and does not hold here where none does."


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all types here."""


Kind = TypeVar("Kind", bound=Strict)


class Value(Strict, frozen=True):
    """A figure. low, high: the ends of its 95 % interval; None where it is exact."""

    name: Label
    value: Number
    unit: Label = ""
    low: Number | None = None
    high: Number | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high: one of them given, both or none needed")
        low, high = self.ends
        if not low <= self.value <= high:
            raise ValueError("value: it lies outside its interval")

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval; the value itself where it is exact."""
        return self.value if self.low is None else self.low, self.value if self.high is None else self.high


class Part(Strict, frozen=True):
    """A part of a claim, and whether it holds."""

    text: Text
    holds: bool


class Series(Strict, frozen=True):
    """Points of a picture. low, high: ends of the interval of each y, or empty. A reference is drawn in grey."""

    name: Label
    x: Numbers
    y: Numbers
    low: Numbers = []
    high: Numbers = []
    kind: Literal["line", "points", "bars", "reference"] = "line"

    def __post_init__(self) -> None:
        if not self.x or len(self.y) != len(self.x):
            raise ValueError("x and y: one number of each needed for each point")
        if len(self.low) != len(self.high) or len(self.low) not in (0, len(self.x)):
            raise ValueError("low and high: one number of each needed for each point, or none")


class Panel(Strict, frozen=True):
    """A plot. ticks: names of the positions 0, 1, ... of the x axis, where it has no scale."""

    title: Label
    x_label: Label
    y_label: Label
    series: Annotated[list[Series], Meta(min_length=1, max_length=8)]
    log_x: bool = False
    log_y: bool = False
    ticks: Annotated[list[Label], Meta(max_length=12)] = []


class Result(Strict, frozen=True):
    """The outcome of an experiment. remark: explains or limits it. panels: of its picture."""

    figures: Annotated[list[Value], Meta(min_length=1, max_length=40)]
    parts: Annotated[list[Part], Meta(min_length=1, max_length=20)]
    panels: Annotated[list[Panel], Meta(min_length=1, max_length=9)]
    remark: Text
    verdict: Verdict

    def __post_init__(self) -> None:
        if self.verdict != verdict_of(self.parts):
            raise ValueError("verdict: it does not follow from the parts")


class Entry(Strict, frozen=True):
    """A claim or an example. seeds: of its experiment; 0 where it needs none. failure: why there is no result."""

    name: Name
    title: Label
    text: Text
    origin: Text
    seeds: Annotated[int, Meta(ge=0, le=100_000)]
    duration_s: Annotated[float, Meta(ge=0, le=1e9)]
    result: Result | None = None
    failure: Text = ""

    def __post_init__(self) -> None:
        if (self.result is None) != bool(self.failure):
            raise ValueError("result and failure: both or none given, one needed")


class Document(Strict, frozen=True):
    """A run of a command. time_s: when it ended, in seconds since 1970. quick: with fewer seeds."""

    schema: Literal[1]
    time_s: Annotated[float, Meta(ge=0, le=1e11)]
    machine: Text
    commit: Label
    versions: Annotated[dict[Label, Label], Meta(max_length=40)]
    quick: bool
    entries: Annotated[list[Entry], Meta(min_length=1, max_length=20)]

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if len(set(names)) != len(names):
            raise ValueError("entries: a name is given twice")
        if sum(len(entry.result.panels) for entry in self.entries if entry.result) > MOST_PANELS:
            raise ValueError(f"entries: at most {MOST_PANELS} panels can be drawn")


def verdict_of(parts: list[Part]) -> Verdict:
    """The verdict that follows from the parts by RULE."""
    held = sum(part.holds for part in parts)
    return "does not hold here" if not held else "holds" if held == len(parts) else "holds in part"


def result(figures: list[Value], parts: list[Part], panels: list[Panel], remark: str) -> Result:
    """A result with the verdict that follows from its parts."""
    return Result(figures, parts, panels, remark, verdict_of(parts))


def to_json(document: Strict) -> bytes:
    """The JSON form."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def from_json(content: bytes) -> Document:
    """The inverse of `to_json`. Raises ValueError that names the field."""
    return msgspec.json.decode(content, type=Document)


def write(path: Path, document: Strict) -> None:
    """Write the JSON form as `write_bytes` does."""
    write_bytes(path, to_json(document))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step: a reader finds the whole file or the one before. Raises OSError, and leaves no part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def read(path: Path) -> Document | None:
    """The document in a file; None where there is no file. Raises OSError and ValueError."""
    return read_as(Document, path)


def read_as(kind: type[Kind], path: Path) -> Kind | None:
    """The file of a kind; None where there is none. Raises OSError and ValueError."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"larger than {LARGEST_BYTES:,} bytes")
    return msgspec.json.decode(content, type=kind)


def printable(text: str, most: int = LONGEST_TEXT) -> str:
    """A foreign text as the types accept it: a space for each character that they refuse, and not too long."""
    return "".join(character if character.isprintable() else " " for character in text)[:most]
