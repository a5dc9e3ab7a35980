"""All findings and facts, as a person or a program reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from acme_mpi.doctor.finding import NOTE, WRONG, Finding
from acme_mpi.doctor.versions import facts_as_lines

_SHOWN = {"ok": "ok", NOTE: "note", WRONG: "WRONG"}


class Report(NamedTuple):
    """All findings, and facts for whoever is asked for help.

    Attributes
    ----------
    findings : tuple of Finding
        In the order of the checks.
    facts : dict of str to str
        Versions and places by what they are called.
    """

    findings: tuple[Finding, ...]
    facts: dict[str, str]

    @property
    def n_wrong(self) -> int:
        """How many things are wrong."""
        return sum(each.level == WRONG for each in self.findings)

    @property
    def exit_code(self) -> int:
        """0 when nothing is wrong, else 1."""
        return int(self.n_wrong > 0)

    def with_findings(self, more: Iterable[Finding]) -> Report:
        """Return this report with more findings."""
        return self._replace(findings=(*self.findings, *more))

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        findings = [each._asdict() for each in self.findings]
        return {"n_wrong": self.n_wrong, "findings": findings, "facts": self.facts}


def lines_of(findings: Iterable[Finding]) -> list[str]:
    """Return findings as a person reads them, a cure only once."""
    lines: list[str] = []
    cured: set[str] = set()
    for each in findings:
        lines.append(f"{_SHOWN[each.level]:<6}{each.check}: {each.evidence}")
        if each.cure and each.cure not in cured:
            cured.add(each.cure)
            lines.append(f"      {each.cure}")
    return lines


def text_of(report: Report) -> str:
    """Return a report as a person reads it; at the end stands what to paste into an issue."""
    n = report.n_wrong
    verdict = "Nothing is wrong." if not n else f"{n} thing{'s are' if n > 1 else ' is'} wrong."
    lines = [*lines_of(report.findings), "", verdict]
    if report.facts:
        bad = [each for each in report.findings if each.level != "ok"]
        lines += ["", "To report a problem, paste this into the issue:", "```"]
        lines += facts_as_lines(report.facts)
        lines += [f"{_SHOWN[each.level]:<12} {each.check}: {each.evidence}" for each in bad]
        lines += ["```"]
    return "\n".join(lines)
