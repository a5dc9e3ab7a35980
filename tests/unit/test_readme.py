"""README and docs/ say what is true: their tests, options, commands, code and links are there."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import acme_mpi
from acme_mpi.cli.options import check_options, make_parser, split_script
from acme_mpi.cli.summaries import COMMANDS

pytestmark = pytest.mark.once

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CHANGES.md", *sorted((ROOT / "docs").glob("*.md")))
}
README, FAULTS, OPTIONS = (
    PAGES[name] for name in ("README.md", "docs/faults.md", "docs/options.md")
)
NAMED = re.findall(r"`(test_\w+)::(test_\w+)`", "".join(PAGES.values()))
BLOCKS = [
    (page, language, text)
    for page, whole in PAGES.items()
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", whole, re.MULTILINE | re.DOTALL)
]
every_page = pytest.mark.parametrize("page", PAGES)


def blocks(page: str, *languages: str) -> list[str]:
    return [text for where, language, text in BLOCKS if where == page and language in languages]


def commands(page: str) -> list[list[str]]:
    """Return the arguments of each ``python -m acme_mpi`` that a page shows as a line of code."""
    lines = "".join(blocks(page, "sh", "console")).splitlines()
    typed = [line for line in lines if re.match(r"(\$ )?(python|mpiexec|srun) ", line)]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in typed]
    begin = ["python", "-m", "acme_mpi"]
    return [
        line[k + 3 :] for line in words for k in range(len(line) - 3) if line[k : k + 3] == begin
    ]


def anchors(text: str) -> set[str]:
    """Return the names by which the headings of a page are linked."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_the_named_test_exists(file, test):
    assert re.search(rf"def {test}\(", next(TESTS.rglob(f"{file}.py")).read_text())


def test_every_fault_has_a_test():
    rows = [line for line in FAULTS.splitlines() if line.startswith("| ")]

    assert len(rows) > 20
    for row in rows[2:]:
        assert re.search(r"\| `test_\w+::test_\w+` \|$", row), row


@pytest.mark.parametrize(
    "option",
    sorted(
        text
        for action in make_parser()._actions
        for text in action.option_strings
        if text.startswith("--") and text not in ("--help", "--version")
    ),
)
def test_every_option_is_explained(option):
    assert re.search(rf"`{option}[ `]", OPTIONS)


def test_the_readme_is_a_front_door():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_the_readme_leads_to_every_page(page):
    assert f"]({page})" in README


def test_the_site_has_every_page():
    """Sphinx says so, too, but takes longer."""
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", PAGES["docs/index.md"], re.M | re.S)
    pages = {path.stem for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".rst")}

    assert {*re.findall(r"^\w+$", "".join(trees), re.MULTILINE)} == pages - {"index"}


def test_the_list_of_symptoms_is_that_of_the_table():
    """scripts/symptoms writes it."""
    words = [sys.executable, str(ROOT / "scripts" / "symptoms"), "--print"]

    ran = subprocess.run(words, capture_output=True, text=True)

    assert ran.stdout == PAGES["docs/doctor.md"], ran.stderr


@every_page
def test_every_link_leads_somewhere(page):
    prose = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@every_page
def test_code_is_python_and_its_public_names_exist(page):
    for block in blocks(page, "python"):
        ast.parse(block)
        for name in re.findall(r"acme_mpi\.(\w+)", block):
            assert hasattr(acme_mpi, name)


@every_page
def test_commands_are_understood(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("script.py").touch()
    for words in commands(page):
        if words[0] not in (*COMMANDS, "TARGET"):
            own, _ = split_script(words)
            check_options(make_parser().parse_args(own))


def test_the_plan_of_the_tutorial_is_what_is_printed(mpiexec, monkeypatch, tmp_path):
    first, _, arguments = blocks("README.md", "python")[:3]
    function = re.search(r"^def f.*?\n\n", first, re.M | re.S)
    assert function is not None
    monkeypatch.chdir(tmp_path)
    Path("mymod.py").write_text(function[0])
    exec(arguments, {})
    command, *shown = blocks("README.md", "console")[0].splitlines()

    ran = mpiexec(0, *shlex.split(command)[2:], cwd=tmp_path)

    assert (ran.returncode, ran.stdout.splitlines()) == (0, shown)


def test_the_version_is_the_newest_of_the_changes():
    """The version has one source and is the newest of the changes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "acme_mpi.__version__"}
    others = [ROOT / "pyproject.toml", *(ROOT / "acme_mpi").rglob("*.py")]
    said = [path for path in others if f'"{acme_mpi.__version__}"' in path.read_text()]
    assert said == [ROOT / "acme_mpi" / "__init__.py"]
    assert re.findall(r"^## ([\d.]+)", PAGES["CHANGES.md"], re.M)[0] == acme_mpi.__version__


# Whatever leads out of these pages leads to one of these places. Nobody asks the network here, so
# this is what finds a slip of the pen.
PLACES = {
    "github.com": r"/[\w.-]+/[\w.-]+(/issues/\d+)?",
    "jobqueue.dask.org": r"/en/latest/\w+\.html",
    "nipy.org": r"/nitime/",
    "pywavelets.readthedocs.io": "",
}
SOURCES = [
    *(ROOT / name for name in ("README.md", "CHANGES.md", "CITATION.cff", "pyproject.toml")),
    *(ROOT / "docs").glob("*.[mr][ds]*"),
    *(ROOT / "acme_mpi").rglob("*.py"),
]


def test_links_to_the_world_have_no_slips():
    links = {
        link
        for path in SOURCES
        for link in re.findall(r"\bhttps?://[^\s\"'`<>)\]{}]*", path.read_text())
        if not re.match(r"https?://(localhost|127\.0\.0\.1)?([:/]|$)", link)
    }
    wrong = [
        link
        for link in links
        if not (parts := re.fullmatch(r"https://([^/]+)(.*)", link))
        or not re.fullmatch(PLACES.get(parts[1], "nowhere"), parts[2])
    ]

    assert wrong == []
    assert len({link.rstrip("/").lower() for link in links}) == len(links)
