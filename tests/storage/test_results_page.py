"""The function, the command and the snippets of docs/results.md work one after the other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.once]

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
FUNCTION, *SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMAND = shlex.split(re.findall(r"^```sh\n(.*?\n)python", PAGE, re.M | re.S)[0], comments=True)


def test_the_page_works_from_its_first_line_to_its_last(mpiexec, monkeypatch, tmp_path):
    for package in ("matplotlib", "pandas", "xarray"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    Path("mymod.py").write_text(FUNCTION)

    ran = mpiexec(2, *COMMAND[COMMAND.index("-m") :], cwd=tmp_path)

    assert ran.returncode == 1  # three tasks fail, as the page says
    names: dict[str, Any] = {}
    for snippet in SNIPPETS:
        exec(snippet, names)
    value = names["results"][7]
    assert (round(value["width"], 2), len(value["power"])) == (3.88, 33)
    assert names["sigma"] == 4
    said = [
        f"{task}\tsigma=-1, seed={task - 8}\t{error}" for task, _, error in names["results"].failed
    ]
    assert "\n".join(said) in PAGE
