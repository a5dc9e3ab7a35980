"""The snippets of docs/pools.md print what they say, in script mode."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.once]

PAGE = (Path(__file__).parents[2] / "docs" / "pools.md").read_text()
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
SAID = re.findall(r"^ *print\(.*\)  # (.*)$", CODE, re.MULTILINE)


def test_every_print_says_what_comes():
    assert len(SAID) == CODE.count("print(") > 10


def test_the_snippets_print_what_they_say(mpiexec, write_script):
    for package in ("joblib", "scipy", "sklearn"):
        pytest.importorskip(package)

    ran = mpiexec(2, "-m", "acme_mpi", write_script(CODE))

    assert (ran.returncode, ran.stdout.splitlines()) == (0, SAID), ran.stderr
