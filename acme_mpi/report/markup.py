"""Elements of a page; whatever others wrote stays text."""

from __future__ import annotations

from html import escape

from acme_mpi.visible import visible


def escaped(text: str) -> str:
    """Return a text of whomever as it may stand in a page, between tags or in an attribute."""
    return escape(visible(text))


def tag(name: str, inside: str = "", **attributes: object) -> str:
    """Return an element; `inside` is markup, attributes are texts and are escaped here."""
    given = "".join(f' {key}="{escaped(str(value))}"' for key, value in attributes.items())
    return f"<{name}{given}>{inside}</{name}>"
