"""Tell apart the machines whose results share a name, by their fingerprints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.harness.machine import provenance, software
from scripts.report import figures, results


@dataclass(frozen=True)
class Machine:
    """One machine. commits: the first characters of those measured on it. numbers: how many."""

    fingerprint: str
    commits: list[str]
    numbers: int
    facts: dict[str, Any]


def machines_named(found: results.Results, name: str) -> list[Machine]:
    """The machines whose results are kept under a name, the one that measured last first."""
    rows = found.table[(found.table["machine"] == name) & found.table["value"].notna()]
    groups = rows.sort_values("measured", ascending=False).groupby("fingerprint", sort=False)
    return [
        Machine(
            str(fingerprint),
            list(dict.fromkeys(group["commit"].str[:8])),
            len(group),
            facts(found, name, str(fingerprint)),
        )
        for fingerprint, group in groups
    ]


def facts(found: results.Results, name: str, fingerprint: str, commit: str | None = None) -> dict[str, Any]:
    """The newest recorded facts about a machine; those of a framework from a process that had imported it."""
    known: dict[str, Any] = {}
    for record in found.records:
        if (record.machine, record.fingerprint) == (name, fingerprint) and commit in (None, record.commit):
            provenance = record.measurement.provenance
            known |= {
                key: fact for key, fact in provenance.items() if key not in known or fact != software.NOT_IMPORTED
            }
    return known


def differences(machines: list[Machine]) -> dict[str, list[str]]:
    """The facts that count and are not the same on all, with that of each machine."""
    counting = (*provenance.AFFECTS_SPEED, "memory_bytes", "environment")
    told = {
        name: [fact_text(name, machine.facts.get(name, "not recorded")) for machine in machines] for name in counting
    }
    return {name: texts for name, texts in told.items() if len(set(texts)) > 1}


def grouped(known: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The facts as text, in the groups that the harness has them in."""
    groups = {
        group: {name: known[name] for name in names if name in known} for group, names in provenance.FACTS.items()
    }
    placed = {name for group in groups.values() for name in group}
    groups["While it was measured, and others"] = {name: fact for name, fact in known.items() if name not in placed}
    return {group: {name: fact_text(name, fact) for name, fact in of.items()} for group, of in groups.items() if of}


def fact_text(name: str, fact: Any) -> str:
    """A fact as people read it: bytes in units, parts one after the other."""
    if isinstance(fact, dict):
        return "; ".join(f"{key} {fact_text(name, part)}" for key, part in fact.items())
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if "_bytes" in name and isinstance(fact, int) and 0 <= fact < 2**63:
        return figures.bytes_text(fact)
    return str(fact)


def fingerprints(table: pd.DataFrame, name: str, commits: list[str]) -> set[str]:
    """The fingerprints of the machines whose numbers of these commits are kept under a name."""
    rows = table[(table["machine"] == name) & table["commit"].isin(commits) & table["value"].notna()]
    return set(rows["fingerprint"])
