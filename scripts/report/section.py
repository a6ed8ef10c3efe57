"""Types that all sections of the page share: the context that they are made from, and the section itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from markupsafe import Markup

from impls.cnn.architecture import RELU_NETWORKS
from scripts.claims.document import Document
from scripts.profiling.document import CallProfile, Profile
from scripts.report import fingerprints, metrics
from scripts.report.comparison import Result as Comparison
from scripts.report.drawing import Figure
from scripts.report.rendering import template
from scripts.report.results import Results, Run


@dataclass(frozen=True)
class Context:
    """All that sections are made from.

    run: that the page shows. against: another one to show beside it. comparisons: by the names of their files.
    asv_site: a link to asv's own site, or empty. claims, examples: of `scripts.claims`, where there are such files;
    profiles, call_profiles: of `scripts.profiling`.
    """

    loaded: Results
    run: Run
    against: Run | None = None
    comparisons: Sequence[tuple[str, Comparison]] = ()
    asv_site: str = ""
    claims: Document | None = None
    examples: Document | None = None
    profiles: Sequence[Profile] = ()
    call_profiles: Sequence[CallProfile] = ()

    @cached_property
    def _numbered(self) -> pd.DataFrame:
        """All results, those of the run first, with the position of each."""
        table = self.loaded.table
        own = self.run.mask(table)
        return pd.concat([table[own], table[~own]], ignore_index=True).assign(position=range(len(table)))

    @cached_property
    def tidy(self) -> pd.DataFrame:
        """All results of all runs, with metrics."""
        return metrics.joined(self._numbered, self.operators, self.all_steps)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The rows of the run."""
        return self.run.rows(self._numbered)

    @cached_property
    def operators(self) -> pd.DataFrame:
        """The rows of operators of all runs, with metrics."""
        return metrics.with_metrics(self._numbered)

    @cached_property
    def measured(self) -> pd.DataFrame:
        """The rows of operators of the run, with metrics."""
        return self.run.rows(self.operators)

    @cached_property
    def all_steps(self) -> pd.DataFrame:
        """The training steps of all runs, with metrics."""
        return metrics.steps(self._numbered)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """The training steps of the run's ReLU networks, with metrics."""
        rows = self.run.rows(self.all_steps)
        return rows[rows["network"].isin(RELU_NETWORKS)]

    @cached_property
    def other_steps(self) -> pd.DataFrame:
        """The training steps of the run's networks with other activations, with metrics."""
        rows = self.run.rows(self.all_steps)
        return rows[~rows["network"].isin(RELU_NETWORKS)]

    @cached_property
    def roofs(self) -> pd.DataFrame:
        """The streaming loops of the run, by size."""
        return metrics.roofs(self.table)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The recorded facts about the machine and the software of the run."""
        return fingerprints.facts(self.loaded, self.run.machine, self.run.fingerprint, self.run.commit)


@dataclass(frozen=True)
class Section:
    """A section of the page. name: of its link."""

    name: str
    title: str
    html: Markup
    figures: Sequence[Figure] = ()


def rendered(name: str, title: str, figures: Sequence[Figure] = (), **values: Any) -> Section:
    """A section from the template of its name. values: of the template, which also gets the figures."""
    html = template(f"{name}.html.j2").render(figures=figures, **values)
    return Section(name, title, Markup(html), figures)
