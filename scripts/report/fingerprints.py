"""Distinguish machines whose results share a name, by their fingerprints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.machine import provenance, software
from scripts.report import results
from scripts.report.text import bytes_text

# The group of facts that move while a run is measured, or belong to no other group.
MOVING = "During the measurement, and others"


@dataclass(frozen=True)
class Machine:
    """A machine. commits: abbreviated hashes measured on it. numbers: count of its numbers. facts: the newest."""

    fingerprint: str
    commits: list[str]
    numbers: int
    facts: dict[str, Any]


def machines_named(loaded: results.Results, name: str) -> list[Machine]:
    """Return the machines with results under a name, the one that measured last first."""
    rows = loaded.table[(loaded.table["machine"] == name) & loaded.table["value"].notna()]
    groups = rows.sort_values("measured", ascending=False).groupby("fingerprint", sort=False)
    return [
        Machine(
            str(fingerprint),
            list(dict.fromkeys(group["commit"].str[:8])),
            len(group),
            facts(loaded, name, str(fingerprint)),
        )
        for fingerprint, group in groups
    ]


def facts(loaded: results.Results, name: str, fingerprint: str, commit: str | None = None) -> dict[str, Any]:
    """Return the newest recorded facts about a machine, of one commit or all.

    Facts about a framework come from a process that imported it.
    """
    newest: dict[str, Any] = {}
    for record in loaded.records:
        if (record.machine, record.fingerprint) == (name, fingerprint) and commit in (None, record.commit):
            newest |= {
                name: fact
                for name, fact in record.measurement.provenance.items()
                if name not in newest or fact != software.NOT_IMPORTED
            }
    return newest


def differences(machines: list[Machine]) -> dict[str, list[str]]:
    """Return the facts that affect speed and differ between machines: by name, the text for each machine."""
    names = (*provenance.AFFECTS_SPEED, "memory_bytes", "environment")
    texts_by_name = {
        name: [fact_text(name, machine.facts.get(name, "not recorded")) for machine in machines] for name in names
    }
    return {name: texts for name, texts in texts_by_name.items() if len(set(texts)) > 1}


def grouped(facts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the facts as text, in the groups of the harness; groups without a fact are left out."""
    names_by_group = {group: list(names) for group, names in provenance.FACTS.items()}
    grouped_names = {name for names in names_by_group.values() for name in names}
    names_by_group[MOVING] = [name for name in facts if name not in grouped_names]
    groups = {
        group: {name: fact_text(name, facts[name]) for name in names if name in facts}
        for group, names in names_by_group.items()
    }
    return {group: texts for group, texts in groups.items() if texts}


def fact_text(name: str, fact: Any) -> str:
    """Format a fact: bytes in units, booleans as yes or no, parts separated by semicolons."""
    if isinstance(fact, dict):
        return "; ".join(f"{key} {fact_text(name, part)}" for key, part in fact.items())
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if "_bytes" in name and isinstance(fact, int) and 0 <= fact < 2**63:
        return bytes_text(fact)
    return str(fact)
