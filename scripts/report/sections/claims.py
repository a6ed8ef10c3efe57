"""Claims of tutorials, measured on small networks, where `python -m scripts.claims` has left its results."""

from datetime import UTC, datetime

from scripts.claims import document, pictures
from scripts.claims.document import Document
from scripts.report.section import Context, Section, rendered
from scripts.report.text import ends_text, figure_text

NAME, TITLE = "claims", "Claims"


def section(context: Context) -> Section | None:
    """The section; None without claims."""
    return of_document(NAME, TITLE, context.claims)


def of_document(name: str, title: str, found: Document | None) -> Section | None:
    """The section of claims or examples, by the name of their kind; None without any."""
    if found is None:
        return None
    figures = {entry.name: figure for entry in found.entries if (figure := pictures.drawn(name, entry))}
    return rendered(
        name,
        title,
        list(figures.values()),
        found=found,
        figure_of=figures,
        date=datetime.fromtimestamp(found.time_s, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        rule=document.RULE,
        value_text=figure_text,
        ends_text=ends_text,
    )
