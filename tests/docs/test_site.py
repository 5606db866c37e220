"""The documentation as a site: built without a warning, from what the code says, and read without a network."""

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from alignment_bench.benchmarks.definition.spec import BenchmarkSpec

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site's folder."""
    pytest.importorskip(
        "sphinx", reason="the documentation's packages are not here: pip install 'alignment-bench[docs]'"
    )
    pytest.importorskip("myst_parser")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-d", out / "trees", DOCS, out / "html"],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in [*pages, *site.rglob("*.css"), *site.rglob("*.js")]:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"""(?:\bsrc=|<link[^>]*\bhref=|url\(|@import )["']?(?:https?:)?//[^"')>\s]+""", text)
        assert loaded == [], page


def test_the_search_has_an_index_that_needs_no_server(site):
    assert (site / "searchindex.js").read_text(encoding="utf-8").startswith("Search.setIndex(")
    assert 'src="searchindex.js"' in (site / "search.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "ids"),
    [
        ("commands", ["bench-run", "bench-cache-gc", "bench-audit-data"]),
        ("methods", [e.name for e in entry_points(group="alignment_bench.methods") if "alignment_bench." in e.module]),
        (
            "evaluators",
            [e.name for e in entry_points(group="alignment_bench.evaluators") if "alignment_bench." in e.module],
        ),
        ("benchmark", ["splits", "tuning", "select"]),
        ("python", ["run", "tune", "results", "options"]),
    ],
)
def test_the_reference_has_a_section_for_each(site, page, ids):
    text = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
    assert ids and [name for name in ids if f'id="{name.replace("_", "-")}"' not in text] == []
    assert "generated:" not in text


def test_the_reference_says_what_the_code_says(site):
    page = (site / "reference" / "benchmark.html").read_text(encoding="utf-8")
    assert [name for name in BenchmarkSpec.model_fields if f">{name}</span>" not in page] == []
    row = re.search(r"<tr[^>]*><td><p><code[^>]*><span class=\"pre\">margin</span>.*?</tr>", page, re.DOTALL)
    assert row and "0.05" in row[0] and "number above 0 below 0.5" in row[0]
    options = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert (
        "Seconds that the training of one cell may take." in options
        and "<em>" not in options.partition("bench-run")[2][:9000]
    )


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ({"anyOf": [{"$ref": "#/$defs/Part"}, {"type": "null"}]}, "mapping or null"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 0.5}, "number from 0 below 0.5"),
        ({"enum": ["torch", "vllm"], "type": "string"}, "`torch`, `vllm`"),
        ({"type": "array"}, "list"),
    ],
)
def test_values_of_a_field(monkeypatch, kind, values):
    monkeypatch.syspath_prepend(str(DOCS))
    import reference

    assert reference._values(kind) == values
    assert reference._reference(kind) == ("Part" if "anyOf" in kind else "")


@pytest.mark.parametrize("known", [True, False])
def test_a_marker_without_a_part_ends_the_build(monkeypatch, known):
    pytest.importorskip("myst_parser")
    monkeypatch.syspath_prepend(str(DOCS))
    import conf

    text = ["before\n<!-- generated: " + ("benchmarks" if known else "nothing") + " -->\nafter"]
    if known:
        conf.generated(None, "page", text)
        assert text[0].startswith("before\n| benchmark |") and "| `quick` |" in text[0]
    else:
        with pytest.raises(KeyError):
            conf.generated(None, "page", text)
