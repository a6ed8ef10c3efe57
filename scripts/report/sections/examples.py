"""The examples that tutorials work out, where `python -m scripts.claims.examples` has left its results."""

from scripts.report.section import Context, Section
from scripts.report.sections.claims import of_document

NAME, TITLE = "examples", "Examples"


def section(context: Context) -> Section | None:
    """The section; None without examples."""
    return of_document(NAME, TITLE, context.examples)
