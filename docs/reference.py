"""The reference's pages as Markdown, from the commands, the published schema, entry points and docstrings."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from importlib.metadata import EntryPoint, metadata
from typing import Any

import typer

import alignment_bench
from alignment_bench.benchmarks.api import Results
from alignment_bench.benchmarks.cli.doctor import EXTRAS, PACKAGE
from alignment_bench.benchmarks.cli.main import app
from alignment_bench.benchmarks.cli.show import limits
from alignment_bench.benchmarks.definition.options import Options
from alignment_bench.benchmarks.definition.plugins import Group, available, describe
from alignment_bench.benchmarks.definition.proof import proof_of, seed_lines
from alignment_bench.benchmarks.definition.schema import PUBLISHED, _field_docs
from alignment_bench.benchmarks.definition.spec import describe_suite, suites


def commands() -> str:
    """A section for each command: what its help says, then its arguments and options."""
    return "\n\n".join(_commands(typer.main.get_command(app), "bench"))


def _commands(command: Any, path: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _commands(inner, f"{path} {name}")
        return
    said, _, example = inspect.cleandoc(command.help).partition("Example: ")
    yield f"## {path}\n\n{said}```bash\n{example.strip()}\n```"
    context = command.context_class(command, info_name=path)
    records = (parameter.get_help_record(context) for parameter in command.params)
    if rows := [(f"`{names}`", told) for names, told in filter(None, records)]:
        yield _table(("option", "what it is"), rows)


@lru_cache
def schema() -> Any:
    """The published schema of a benchmark's YAML."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def benchmark() -> str:
    """A table of a benchmark's fields, and one for each part that has fields of its own."""
    found = schema()
    named = {name: _reference(kind) for name, kind in found["properties"].items()}
    parts = {name: found["$defs"][part] for name, part in named.items() if part}
    tables = [_fields(found["properties"], parts)]
    tables += [f"## {name}\n\n{part['description']}\n\n{_fields(part['properties'])}" for name, part in parts.items()]
    return "\n\n".join(tables)


def _reference(kind: Mapping[str, Any]) -> str:
    """The part of the schema that has a field's own fields, where it may be one; else nothing."""
    refs = (option["$ref"].rpartition("/")[2] for option in (kind, *kind.get("anyOf", ())) if "$ref" in option)
    return next(refs, "")


def methods() -> str:
    """A section for each method that is shipped, with what speaks for it."""
    return _plugins("methods", lambda name: [*proof_of(name).lines(), *seed_lines(name)])


def evaluators() -> str:
    """A section for each evaluator that is shipped."""
    return _plugins("evaluators")


def _plugins(group: Group, told: Callable[[str], Sequence[str]] = lambda name: ()) -> str:
    entries, parts = available(group), []
    for name, settings in schema()["properties"][group]["properties"].items():
        found = describe(entries[name])
        settings = next(kind for kind in settings["anyOf"] if kind["type"] == "object")
        needs = f"\n\nNeeds: {', '.join(found.needs)}." if found.needs else ""
        paper = f"\n\nPaper: {found.paper}." if found.paper else ""
        more = "".join(f"\n\n{line}" for line in told(name))
        parts.append(
            f"## {name}\n\n{settings['description']}{paper}{needs}{more}\n\n{_fields(settings['properties'])}".rstrip()
        )
    return "\n\n".join(parts)


def benchmarks() -> str:
    """A table of the benchmarks that are shipped."""
    return _table(("benchmark", "what it is"), [(f"`{name}`", describe_suite(name)) for name in suites()])


def extras() -> str:
    """A table of the package's extras."""
    names = metadata(PACKAGE).get_all("Provides-Extra") or []
    return _table(("extra", "what it enables"), [(f"`{PACKAGE}[{name}]`", EXTRAS.get(name, "")) for name in names])


def python() -> str:
    """The functions that `import alignment_bench` offers, what they return, and the options that they share."""
    functions = [(name, getattr(alignment_bench, name)) for name in alignment_bench.__all__]
    parts = [f"## {name}\n\n```python\n{name}{_signature(f)}\n```\n\n{inspect.getdoc(f)}" for name, f in functions]
    members = [(name, member) for name, member in vars(Results).items() if name[0] != "_" and inspect.getdoc(member)]
    rows = [(f"`{name}{_signature(member)}`", _line(inspect.getdoc(member) or "")) for name, member in members]
    parts.append(f"## Results\n\n{inspect.getdoc(Results)}\n\n{_table(('', 'what it is'), rows)}")
    told = _field_docs(EntryPoint("options", f"{Options.__module__}:{Options.__qualname__}", ""))
    rows = [(f"`{f.name}`", told[f.name]) for f in fields(Options)]
    parts.append(f"## Options\n\n{inspect.getdoc(Options)}\n\n{_table(('option', 'what it is'), rows)}")
    return "\n\n".join(parts)


def _signature(member: Any) -> str:
    """The arguments of a function; nothing for a property."""
    return str(inspect.signature(member)).replace("(self, ", "(").replace("(self)", "()") if callable(member) else ""


def _fields(properties: Mapping[str, Any], parts: Mapping[str, Any] | None = None) -> str:
    if not properties:
        return "It has no settings."
    rows = [
        (f"`{name}`", _values(kind), _default(kind), _about(name, kind, parts or {}))
        for name, kind in properties.items()
    ]
    return _table(("field", "values", "default", "what it is"), rows)


def _about(name: str, kind: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    return f"{parts[name]['description']} See [below](#{name})." if name in parts else kind.get("description", "")


def _values(kind: Mapping[str, Any]) -> str:
    """The values that a field may have."""
    if "$ref" in kind:
        return "mapping"
    if "anyOf" in kind:
        return " or ".join(map(_values, kind["anyOf"]))
    if "enum" in kind or "const" in kind:
        return ", ".join(f"`{value}`" for value in kind.get("enum", [kind.get("const")]))
    name = {"object": "mapping", "array": "list"}.get(kind.get("type", ""), kind.get("type", ""))
    return " ".join(filter(None, [name, limits(kind)]))


def _default(kind: Mapping[str, Any]) -> str:
    if "default" not in kind or isinstance(kind["default"], dict) and kind["default"]:
        return ""  # a part's are in its own table
    return f"`{kind['default']:g}`" if isinstance(kind["default"], float) else f"`{json.dumps(kind['default'])}`"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())


PARTS = {part.__name__: part for part in (benchmark, benchmarks, commands, evaluators, extras, methods, python)}
