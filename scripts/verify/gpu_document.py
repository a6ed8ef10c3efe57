"""What ./scripts/gpu_check has found, as JSON and as a page; both are written again whenever there is more."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.harness.measurement import Measurement

VERDICTS = {True: "met", False: "missed", None: "not judged"}


@dataclass(frozen=True)
class Time:
    """The times of a row at a size; NaN if unknown.

    subject: the operator and direction, or the network. size: elements, or images of a batch.
    latency_s: host latency of a call. device_s: device time. moved_bytes: required traffic.
    roof_s: device time of streaming loops with the same traffic.
    remark: the reason for a missing time, or what disturbed it. precision: of a step's products, where below float32.
    """

    framework: str
    subject: str
    variant: str
    size: int
    latency_s: float
    device_s: float
    moved_bytes: float
    roof_s: float
    remark: str
    precision: str = ""

    @property
    def used_s(self) -> float:
        """Device time; host latency where it is unknown."""
        return self.latency_s if isnan(self.device_s) else self.device_s

    @property
    def gb_per_s(self) -> float:
        return self.moved_bytes / self.used_s / 1e9

    @property
    def percent_of_roof(self) -> float:
        return 100 * self.roof_s / self.used_s


@dataclass(frozen=True)
class Target:
    """A target; `text` includes the figure that was reached. met: None if there is nothing to compare with."""

    text: str
    met: bool | None

    def __str__(self) -> str:
        return f"{self.text}: {VERDICTS[self.met]}"


@dataclass(frozen=True)
class Failure:
    """A row without a result, or with a wrong one. counts: it makes the check fail."""

    row: str
    reason: str
    counts: bool


@dataclass
class Check:
    """The findings so far.

    facts: the machine, its software, and the options. sheet_gb_per_s: the datasheet's bandwidth, NaN if unknown.
    checked: rows and dtypes that were compared with the reference, of which `failures` failed.
    operators, steps: times. finished: parts that are complete.
    """

    facts: dict[str, str]
    sheet_gb_per_s: float
    checked: int = 0
    failures: list[Failure] = field(default_factory=list)
    operators: list[Time] = field(default_factory=list)
    steps: list[Time] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)

    def learn(self, measurements: "Iterable[Measurement]") -> None:
        """Fill in the facts about frameworks, which this process does not import, from the first that measured."""
        from benchmarks.harness.machine.software import NOT_IMPORTED
        from benchmarks.harness.measurement import UNKNOWN

        for measurement in measurements:
            for name, fact in measurement.provenance.items():
                if self.facts.get(name) == NOT_IMPORTED and fact != UNKNOWN:
                    self.facts[name] = fact

    @property
    def missed(self) -> list[Target]:
        """The targets that were missed."""
        return [target for target in self.targets if target.met is False]

    @property
    def failed(self) -> int:
        """The number of failures and missed targets that make the check fail."""
        return sum(failure.counts for failure in self.failures) + len(self.missed)

    def write(self, stem: Path) -> None:
        """Write STEM.json and STEM.html; each then exists completely or not at all."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        _replace(
            stem.with_name(f"{stem.name}.json"), json.dumps(_plain(asdict(self)), indent=1, allow_nan=False) + "\n"
        )
        _replace(stem.with_name(f"{stem.name}.html"), self.page())

    def page(self) -> str:
        """One HTML file."""
        from scripts.report.rendering import style, template

        return template("gpu_check.html.j2").render(check=self, **style())


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(content)
    os.replace(partial, path)


def _plain(value: Any) -> Any:
    """The same value with null for NaN, which JSON lacks."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and isnan(value) else value
