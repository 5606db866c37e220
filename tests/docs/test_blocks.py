"""Every code block and every `bench` command of the documents: understood by the command line, the schema, Python."""

import ast
import json
import re
import shlex
import textwrap
from functools import lru_cache
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml

from alignment_bench.benchmarks.cli.main import app
from alignment_bench.benchmarks.definition.schema import PUBLISHED

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
STARTS = {"bench", ".venv/bin/bench", "alignment_bench", "alignment-bench"}  # before the arguments of `bench`
LAUNCHERS = {
    "--multi_gpu",
    "--num_processes",
    "--machine_rank",
    "--cpu",
    "--config_file",
    "--build-arg",
}  # options of other commands


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, code) of every block of a language."""
    texts = ((str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")) for page in PAGES)
    return [(page, code) for page, text in texts for kind, code in BLOCK.findall(text) if kind == language]


def in_prose() -> list[tuple[str, str]]:
    """(page, code) of every piece of code in a sentence."""
    texts = ((str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")) for page in PAGES)
    return [(page, code) for page, text in texts for code in INLINE.findall(re.sub(r"```.*?```", "", text, flags=re.S))]


def bench_lines() -> list[tuple[str, list[str]]]:
    """(page, arguments) of every line of the shell blocks that runs `bench`, however it is started."""
    found = []
    for page, code in blocks("bash"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            starts = [place for place, word in enumerate(words) if word in STARTS]
            if starts and Path(words[0]).name != "pip" and words[:2] != ["podman", "build"]:
                found.append((page, words[starts[0] + 1 :]))
    return found


@lru_cache
def command(name: str, *rest: str):
    """The command behind one or two words; KeyError for none."""
    found = typer.main.get_command(app)
    for word in (name, *rest):
        found = found.commands[word]
    return found


def parse(words: list[str]) -> None:
    """Read arguments as the command line would, and do nothing. Raises what it would tell."""
    if words[0].startswith("-"):
        typer.main.get_command(app).make_context("bench", [*words, "list"], resilient_parsing=True)
        return
    path = words[:2] if hasattr(command(words[0]), "commands") else words[:1]
    command(*path).make_context(" ".join(path), words[len(path) :])


def test_there_are_commands_to_look_at():
    lines = bench_lines()
    assert len(lines) > 70 and ("README.md", ["cache", "ls"]) in lines
    assert any(words[:3] == ["run", "--method", "ppo,dpo"] and page.endswith("devices.md") for page, words in lines)
    assert any(words[:1] == ["run"] and page == "docs/install.md" for page, words in lines)


@pytest.mark.parametrize(
    ("page", "words"), bench_lines(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_the_command_line_understands(page, words):
    parse(words)


@pytest.mark.parametrize(
    "wrong", ["runn -m ppo", "run -m ppo --seed 3", "show", "run -m ppo --seeds three", "cache lss"]
)
def test_what_it_does_not_understand_is_noticed(wrong):
    with pytest.raises(Exception, match=r"."):
        parse(wrong.split())


def test_commands_and_options_in_sentences_are_there():
    options = {name for path in _paths() for parameter in command(*path).params for name in parameter.opts}
    options |= {"--help", "--version", "--install-completion", *LAUNCHERS}
    for page, code in in_prose():
        words = code.split()
        if words[0] == "bench" and len(words) > 1 and not words[1].startswith("-") and words[1] != "COMMAND":
            assert words[1] in typer.main.get_command(app).commands, f"{page}: {code}"
        if words[0] in ("bench", "") or words[0].startswith("--"):
            for word in words:
                assert not word.startswith("--") or word.partition("=")[0] in options, f"{page}: {code}"


def _paths() -> list[list[str]]:
    groups = typer.main.get_command(app).commands.items()
    return [
        [a, *b] for a, found in groups for b in ([[x] for x in found.commands] if hasattr(found, "commands") else [[]])
    ]


@pytest.mark.parametrize(("page", "code"), blocks("yaml"), ids=lambda value: value.splitlines()[0])
def test_yaml_fits_the_schema(page, code):
    jsonschema.validate(yaml.safe_load(code), json.loads(PUBLISHED.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("page", "code"), blocks("python"), ids=lambda value: value.splitlines()[0])
def test_python_is_python_and_its_names_are_there(page, code):
    import alignment_bench

    for node in ast.walk(ast.parse(textwrap.dedent(code))):
        if isinstance(node, ast.ImportFrom) and node.module == "alignment_bench":
            assert {alias.name for alias in node.names} <= set(alignment_bench.__all__)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "results":
            from alignment_bench.benchmarks.api import Results

            assert hasattr(Results, node.attr), f"{page}: results.{node.attr}"


@pytest.mark.parametrize("line", ["--version", "list", "doctor", "new-method my_dpo"])
def test_commands_that_take_no_time_run(bench, tmp_path, monkeypatch, line):
    assert line.split() in [words for _, words in bench_lines()]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert bench(*line.split(), cwd=tmp_path).stdout


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 20 and [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_fits_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90
