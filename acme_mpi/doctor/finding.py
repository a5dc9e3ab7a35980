"""What one check has found."""

from __future__ import annotations

import re
from typing import NamedTuple

from acme_mpi.symptoms import symptom, symptoms_in

OK, NOTE, WRONG = "ok", "note", "wrong"


class Finding(NamedTuple):
    """What one check has found.

    Attributes
    ----------
    check : str
        Its name; in the table of symptoms, if it is about one of them.
    level : str
        ``"ok"``; ``"note"``: good to know, all works; ``"wrong"``.
    evidence : str
        What was seen, as a sentence without its point.
    cure : str
        What to do, as sentences; empty if that is nothing.
    """

    check: str
    level: str
    evidence: str
    cure: str = ""


def fine(check: str, evidence: str) -> Finding:
    """Return a finding about which nothing has to be done."""
    return Finding(check, OK, evidence)


def noted(check: str, evidence: str, cure: str | None = None) -> Finding:
    """Return what is good to know, with the table's cure unless there is another."""
    return Finding(check, NOTE, evidence, symptom(check).cure if cure is None else cure)


def wrong(check: str, evidence: str, cure: str | None = None) -> Finding:
    """Return what is wrong, with the table's cure unless there is another."""
    return Finding(check, WRONG, evidence, symptom(check).cure if cure is None else cure)


def explained(text: str, check: str, evidence: str, level: str = WRONG) -> list[Finding]:
    """Return findings for what a program has said of its failure.

    Parameters
    ----------
    text : str
        All that it has said.
    check : str
        Of the table: what it is taken for if the text tells of nothing that is known.
    evidence : str
        What the program was to do.
    level : str
        Of the findings.
    """
    known = symptoms_in(text) or [symptom(check)]
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "it says nothing")
    found = [(each, _telling_line(each.pattern, text) or last) for each in known]
    return [Finding(each.name, level, f"{evidence}: {said}", each.cure) for each, said in found]


def _telling_line(pattern: str, text: str) -> str:
    return next((line.strip() for line in text.splitlines() if re.search(pattern, line)), "")
