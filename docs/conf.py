"""Sphinx's configuration: `sphinx-build -W docs FOLDER` makes a site that loads nothing from elsewhere."""

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from reference import PARTS

project = "alignment-bench"
author = "the alignment-bench authors"
copyright = f"2026, {author}. MIT licence"
release = version = version_of("alignment-bench")

extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = html_show_sourcelink = False
html_static_path: list[str] = []
smartquotes = False  # `--option` in a sentence keeps its two dashes


def generated(app, page, text):
    """Puts what `<!-- generated: NAME -->` names in its place; KeyError, which ends the build, for an unknown NAME."""
    text[0] = re.sub(r"^<!-- generated: (\w+) -->$", lambda found: PARTS[found[1]](), text[0], flags=re.MULTILINE)


def setup(app):
    app.connect("source-read", generated)
