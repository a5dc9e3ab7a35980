"""How Sphinx builds the site from these pages; `scripts/docs` calls it. No network is needed."""

import re
import sys
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from acme_mpi import __version__  # noqa: E402
from acme_mpi.cli.option_table import Entry, Option, option_table  # noqa: E402
from acme_mpi.cli.options import make_parser  # noqa: E402
from acme_mpi.cli.shell_command import shell_parser  # noqa: E402

project = "acme_mpi"
author = copyright = "the acme_mpi developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]
highlight_language = "none"
default_role = "py:obj"  # `name` in a docstring is a link, if that is something public
myst_heading_anchors = 4  # the names of headings, as GitHub makes them
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the parameters' own text has them, shorter
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
numpydoc_show_class_members = False  # autodoc shows them

html_theme = "pydata_sphinx_theme"
html_title = f"acme_mpi {__version__}"
html_show_sourcelink = False
html_sidebars = {"**": ["globaltoc.html"]}
html_theme_options = {
    "navbar_center": [],  # the pages are few: all of them are on the left
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


class CommandHelp(Directive):
    """Show what ``python -m acme_mpi --help`` prints."""

    def run(self) -> list[nodes.Node]:
        """Return it as one block of text."""
        return [nodes.literal_block(text=make_parser().format_help(), language="none")]


class Commands(Directive):
    """Show all commands with their options: a section for each."""

    def run(self) -> list[nodes.Node]:
        """Return the sections, without what ``submit`` takes for its run."""
        call, *commands = option_table(shell_parser())
        return [self._section(entry, call.options) for entry in commands]

    def _section(self, entry: Entry, known: tuple[Option, ...]) -> nodes.Node:
        title = nodes.title("", "", nodes.literal(text=entry.name))
        summary = nodes.paragraph(text=f"{entry.summary[:1].upper()}{entry.summary[1:]}.")
        own = [self._item(each) for each in entry.options if each not in known]
        section = nodes.section("", title, summary, nodes.definition_list("", *own))
        section["ids"] = [nodes.make_id(f"command {entry.name}")]
        return section

    def _item(self, option: Option) -> nodes.Node:
        names = ", ".join(option.names) or option.value
        value = f" {option.value}" if option.names and option.value else ""
        choices = f" ({', '.join(option.choices)})" if option.choices else ""
        term = nodes.term("", "", nodes.literal(text=names + value))
        text = nodes.paragraph(text=option.text + choices)
        return nodes.definition_list_item("", term, nodes.definition("", text))


class Outside(Directive):
    """Show a Markdown file of the checkout's top folder, from one heading to the next of its level.

    Its one argument is the file, ``:heading:`` the heading; without it the whole file is shown.
    """

    required_arguments = 1
    option_spec: ClassVar = {"heading": str}

    def run(self) -> list[nodes.Node]:
        """Return the file's content, parsed."""
        path = ROOT / self.arguments[0]
        text = path.read_text()
        if heading := self.options.get("heading"):
            text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
            text = f"# {heading}\n" + re.sub("^#(#+ )", r"\1", text, flags=re.MULTILINE)
        document = new_document(str(path), self.state.document.settings)
        MystParser().parse(lead_inside(text), document)
        self.state.document.settings.env.note_dependency(str(path))
        return document.children


def lead_inside(text: str) -> str:
    """Turn links as they are in the checkout into those of the site, which has one folder."""
    text = text.replace("](docs/", "](").replace("](../README.md#tutorial", "](tutorial.rst")
    return re.sub(r"\]\((\.\./)?CHANGES\.md", "](changes.rst", text)


def setup(app: Sphinx) -> None:
    """Tell Sphinx what stands here."""
    app.add_directive("command-help", CommandHelp)
    app.add_directive("commands", Commands)
    app.add_directive("outside", Outside)

    def change(app: Sphinx, page: str, content: list[str]) -> None:
        content[0] = lead_inside(content[0])

    app.connect("source-read", change)
