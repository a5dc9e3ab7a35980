"""Text that others wrote, as a person may see it: no character of it can act on a terminal.

Names of hosts, files and functions, texts of exceptions and reasons come from users, from other
machines, and from files that anybody may have written. Whatever leaves for a terminal or a log goes
through here, at the last moment; what programs read (attributes of exceptions, JSON) stays as it
was.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

# What terminals obey, halves of surrogate pairs, which no encoding has, and what turns the
# direction of the text that follows, so that it reads as what it is not.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, kept: str = "\n\t") -> str:
    r"""Return a text with its control characters written as escapes, ``\x1b``.

    A text that has gone through here stays as it is, so twice is once.

    Parameters
    ----------
    text : str
        Of whomever.
    kept : str
        Control characters that stay; ``"\t"`` for a text that has to stay in its line.
    """
    return _UNSEEN.sub(lambda match: _escaped(match[0], kept), text)


def _escaped(character: str, kept: str) -> str:
    return character if character in kept else character.encode("unicode_escape").decode()


def say(text: str, file: TextIO | None = None) -> None:
    """Print a text, visible, to `file`, default `sys.stdout`, whatever its encoding can write."""
    file = sys.stdout if file is None else file
    encoding = file.encoding or "utf-8"
    line = visible(text).encode(encoding, "backslashreplace").decode(encoding)
    print(line, file=file)
