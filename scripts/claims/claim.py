"""The type of a claim."""

from collections.abc import Callable
from dataclasses import dataclass

from scripts.claims.document import Result


@dataclass(frozen=True)
class Claim:
    """A claim that an experiment can refute.

    text: in the words of its origin. experiment(seeds): measures it with so many seeds, 0 and on; of a claim that needs
    no random numbers, it ignores them. seeds, quick_seeds: of the command, without and with --quick; 0 for such claims.
    """

    name: str
    title: str
    text: str
    origin: str
    experiment: Callable[[int], Result]
    seeds: int = 30
    quick_seeds: int = 10
