"""Words that a user has typed: numbers among them, and what a wrong one was meant to be."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

MAX_WORD, MAX_LINE = 300, 1500  # characters of one in a message
_WHOLE = re.compile("[+-]?[0-9]{1,18}")  # what fits into 64 bits, whatever it is used for


def whole_number(text: str) -> int | None:
    """Return the whole number that a text is, in ASCII digits; None if it is none.

    ``int`` takes digits of all scripts, underscores and spaces, and `str.isdigit` also what
    ``int`` refuses.
    """
    return int(text) if _WHOLE.fullmatch(text) else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known word that is nearest, empty if none is."""
    import difflib

    known = list(known)
    close = [each for each in known if each.lower() == word.lower()]
    close += difflib.get_close_matches(word[:MAX_WORD], known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def file_did_you_mean(path: str, suffix: str = "") -> str:
    """Return as `did_you_mean` which file beside a missing one, with the suffix, may be meant."""
    folder, name = os.path.split(path)
    try:
        found = [each for each in os.listdir(folder or ".") if each.endswith(suffix)]
    except OSError:
        return ""
    return did_you_mean(path, [os.path.join(folder, each) for each in found if each != name])


def shortened(text: str) -> str:
    """Return a text with the middle of its long words, and of its long lines, left out."""
    words = re.sub(rf"\S{{{MAX_WORD + 1},}}", lambda match: _ends(match[0], MAX_WORD), text)
    return "\n".join(_ends(line, MAX_LINE) for line in words.split("\n"))


def _ends(text: str, n: int) -> str:
    return text if len(text) <= n else f"{text[: n // 2]}[...]{text[-n // 4 :]}"
