"""The JSON Schema of a benchmark's YAML, for editors.

`python -m alignment_bench.benchmarks.definition.schema` writes it anew.
"""

import ast
import inspect
import json
import warnings
from collections import defaultdict
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import PydanticJsonSchemaWarning

from .plugins import Group, available, inherited, load
from .spec import SUITES, BenchmarkSpec
from .yaml_file import EXTENDS, SIZES

PUBLISHED = SUITES / "benchmark.schema.json"  # beside the suites, which name it in their first line


def json_schema() -> dict[str, Any]:
    """The schema of `BenchmarkSpec`, with the fields of our own methods and evaluators in it.

    Nothing but `name` is required: what a file leaves out may come from what it extends, or from the command line.
    """
    schema = BenchmarkSpec.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    for part in definitions.values():
        part.pop("required", None)
    text = "A benchmark, by name or path from this file, whose fields this one takes over and changes."
    schema["properties"] = {EXTENDS: {"type": "string", "description": text}, **schema["properties"]}
    text = "Fields that take the place of the file's own, by the name of a size (--size): small: {budget: 2000}."
    schema["properties"][SIZES] = {
        "type": "object", "description": text, "additionalProperties": {"type": "object"}
    }  # fmt: skip
    schema["required"] = ["name"]
    for group in ("methods", "evaluators"):
        schema["properties"][group]["properties"] = _plugins(group, definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_titles(schema)}


def _plugins(group: Group, definitions: dict[str, Any]) -> dict[str, Any]:
    """The settings of each plugin that is shipped; those of others are not known here and not checked."""
    found = {}
    for name, entry in available(group).items():
        if not entry.module.startswith("alignment_bench."):
            continue
        settings, used = settings_schema(group, name)
        definitions |= used
        found[name] = {"anyOf": [{"type": "object", **settings}, {"type": "null"}]}  # null leaves out what is extended
    return found


def settings_schema(group: Group, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A plugin's settings, each described by the docstring of its field; and the definitions that they refer to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # defaults that JSON has no word for
        schema = TypeAdapter(load(group, name)).json_schema()
    told = _field_docs(available(group)[name])
    for kind in schema["properties"].values():
        if kind.get("format") == "path":  # where this machine has it installed
            kind.pop("default", None)
    fields = {field: {"description": told[field], **kind} for field, kind in schema["properties"].items()}
    settings = {"description": schema["description"], "properties": fields, "additionalProperties": False}
    return settings, schema.get("$defs", {})


def _field_docs(entry: EntryPoint) -> dict[str, str]:
    """The docstrings of a plugin's fields, inherited ones too."""
    found: dict[str, str] = defaultdict(str)
    for _, node in inherited(entry.module, entry.attr):
        for field, doc in pairwise(node.body):
            text = doc.value.value if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) else None
            name = field.target.id if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) else None
            if isinstance(text, str) and name and name not in found:
                found[name] = inspect.cleandoc(text).replace("\n", " ")
    return found


def _without_titles(schema: Any) -> Any:
    """The schema without pydantic's titles, which only repeat the names."""
    if isinstance(schema, dict):
        return {k: _without_titles(v) for k, v in schema.items() if not (k == "title" and isinstance(v, str))}
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema


def text() -> str:
    """The published file's content."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(PUBLISHED).write_text(text(), encoding="utf-8")
    print(PUBLISHED)
