"""Types of a recorded step, and the time that each operator takes of it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from impls.cnn import PHASES

# Phase, layer and name of an operator.
Key = tuple[str, str, str]
# The layer of what belongs to none.
OTHER = "other"
# The phase after each.
FOLLOWING = dict(pairwise(PHASES))


@dataclass(frozen=True)
class Span:
    """An operator that ran on a thread. Spans of one thread are nested or apart.

    layer: a block of the network with all that follows its convolution ("conv1"), a dense layer, "loss", "update", or
    OTHER. covers: the operations that it computes (`impls.cnn.operations`), as far as known. kernel: the one of a GPU
    that the operator launched, where that has a name of its own. Times in seconds, of one clock.
    """

    operator: str
    phase: str
    layer: str
    start_s: float
    end_s: float
    thread: int = 0
    covers: tuple[str, ...] = ()
    kernel: str = ""

    @property
    def key(self) -> Key:
        """Identifies the operator within the step."""
        return self.phase, self.layer, self.operator


@dataclass(frozen=True)
class Recorded:
    """A step, with the spans that it consists of, and the end of each phase that it marks.

    host: what the host did meanwhile, where the spans are those of a GPU, whose streams are the threads.
    """

    start_s: float
    end_s: float
    spans: tuple[Span, ...]
    phases: tuple[tuple[str, float], ...] = ()
    host: tuple[Span, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration of the step."""
        return self.end_s - self.start_s


def layer_of(operation: str) -> str:
    """The layer of an operation, by its name: "conv1" of "conv1.relu" and of "norm1"."""
    return operation.partition(".")[0].replace("norm", "conv")


def attributed_s(step: Recorded) -> dict[Key, float]:
    """Seconds of each operator of a step; with the time in which no span is open they add up to the step.

    A moment belongs to the innermost open span of its thread; where several threads have one, in equal parts.
    """
    # At one moment, ends precede starts; a span without duration has neither.
    lasting = [number for number, span in enumerate(step.spans) if span.end_s > span.start_s]
    edges = sorted(
        [(step.spans[number].start_s, 1, number) for number in lasting]
        + [(step.spans[number].end_s, 0, number) for number in lasting]
    )
    seconds: dict[Key, float] = defaultdict(float)
    open_spans: dict[int, list[int]] = defaultdict(list)
    before_s = step.start_s
    for time_s, starts, number in edges:
        inside_s = min(time_s, step.end_s) - before_s
        active = [spans[-1] for spans in open_spans.values() if spans]
        for innermost in active:
            seconds[step.spans[innermost].key] += max(0.0, inside_s) / len(active)
        before_s = max(before_s, min(time_s, step.end_s))
        of_thread = open_spans[step.spans[number].thread]
        if starts:
            of_thread.append(number)
        else:
            of_thread.remove(number)
    return dict(seconds)


def medians_s(steps: Sequence[Recorded]) -> dict[Key, float]:
    """Median seconds of each operator over the steps; one that a step lacks takes no time there."""
    each = [attributed_s(step) for step in steps]
    return {key: median(found.get(key, 0.0) for found in each) for key in dict.fromkeys(_keys(each))}


def unexplained_s(steps: Sequence[Recorded]) -> float:
    """Median seconds of a step that no operator explains."""
    return median(step.seconds - sum(attributed_s(step).values()) for step in steps)


def covered(steps: Iterable[Recorded]) -> dict[Key, tuple[str, ...]]:
    """The operations that each operator computes."""
    found: dict[Key, dict[str, None]] = defaultdict(dict)
    for step in steps:
        for span in step.spans:
            found[span.key].update(dict.fromkeys(span.covers))
    return {key: tuple(names) for key, names in found.items()}


def _keys(each: Iterable[dict[Key, float]]) -> Iterable[Key]:
    for found in each:
        yield from found
