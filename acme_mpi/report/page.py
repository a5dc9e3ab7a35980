"""A run as one page of HTML that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Sequence
from functools import cache

from acme_mpi import __version__
from acme_mpi.report.markup import escaped, tag


def page_of(bodies: Sequence[str], title: str, version: str = "") -> str:
    """Return a whole page.

    Parameters
    ----------
    bodies : sequence of str
        From `sections.body_of`, one for each function.
    title : str
        Of the page.
    version : str
        Of the bodies, where a server has newer ones later; empty for a page that stays as it is.
    """
    style, script = _beside("page.css"), _beside("page.js")
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy()}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">'
    )
    head += tag("title", escaped(title)) + tag("style", style)
    live = {"data-version": version} if version else {}
    footer = f"acme_mpi {__version__}, {time.strftime('%Y-%m-%d %H:%M:%S')}. "
    footer += "Drag in a chart over time to zoom, double-click to see all of it."
    body = tag("main", "".join(bodies), **live) + tag("footer", footer)
    body += '<div id="tip" hidden></div>' + tag("script", script)
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def content_policy() -> str:
    """Return the content security policy of a page: its own style and script, and nothing else."""
    style, script = _digest(_beside("page.css")), _digest(_beside("page.js"))
    return (
        f"default-src 'none'; style-src '{style}'; script-src '{script}'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


@cache
def _beside(name: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
