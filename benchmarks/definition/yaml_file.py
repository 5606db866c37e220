"""A benchmark's YAML file: `extends`, `sizes`, `--set` on the command line, and where each field was written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError, nearest
from .plugins import read_value
from .yaml_text import LONGEST, read_yaml

EXTENDS, SIZES = "extends", "sizes"
Field = tuple[str, ...]  # ("methods", "dpo", "beta")


@dataclass(frozen=True)
class Written:
    """The fields of a benchmark as they were written, and where."""

    fields: dict[str, Any]
    places: dict[Field, str]
    left_out: frozenset[Field] = frozenset()
    """What a null left out of what was extended or set before."""

    def place(self, field: Sequence[str]) -> str:
        """The place of a field, or of what it lies in, if absent: `file quick.yaml, line 12`, or the option."""
        lengths = range(len(field), -1, -1)
        return next(self.places[found] for n in lengths if (found := tuple(field[:n])) in self.places)

    def with_field(self, field: Field, value: Any, place: str) -> "Written":
        """The same with one field set."""
        nested = value
        for name in reversed(field):
            nested = {name: nested}
        return over(Written(nested, {field[:n]: place for n in range(1, len(field) + 1)}), self)


def read_benchmark(
    name: str, known: Mapping[str, Path], settings: Sequence[str] = (), size: str | None = None
) -> Written:
    """A benchmark by name or path, with what it extends; over it the fields of a size, and `FIELD=VALUE` settings.

    InputError names file and line: of what is not YAML, of a field that is given twice, of an unknown `extends`.
    """
    found, sizes = _apart(_read(name, known, Path("."), ()))
    if size is not None:
        if not sizes:
            raise InputError(f"--size {size}: benchmark {name} has no sizes; leave --size out, or see `bench list hh`")
        if size not in sizes:
            raise InputError(f"--size {size}: benchmark {name} has no such size; {nearest(size, sizes)}")
        found = over(sizes[size], found)
    for text in settings:
        field, equals, value = text.partition("=")
        if not equals or not all(field.split(".")):
            raise InputError(f"--set {text} has no field or no value; give for example --set methods.dpo.beta=0.05")
        found = found.with_field(tuple(field.split(".")), read_value(value), f"--set {text}")
    return found


def sizes_of(name: str, known: Mapping[str, Path]) -> list[str]:
    """The names of a benchmark's sizes; InputError as `read_benchmark`."""
    return list(_apart(_read(name, known, Path("."), ()))[1])


def _apart(found: Written) -> tuple[Written, dict[str, Written]]:
    """A benchmark without its sizes, and the fields of each size, which have the places where they stand."""
    given = found.fields.get(SIZES) or {}
    place = found.places.get((SIZES,), found.places[()])
    if not isinstance(given, dict) or not all(isinstance(fields, dict) for fields in given.values()):
        raise InputError(
            f"{place}: sizes is a mapping of names to fields of the benchmark, such as small: {{budget: 2000}}"
        )
    sizes = {}
    for name, fields in given.items():
        places = {field[2:]: at for field, at in found.places.items() if field[:2] == (SIZES, name) and field[2:]}
        sizes[str(name)] = Written(fields, places)  # YAML reads 3 as a number, and --size gives text
    rest = {name: value for name, value in found.fields.items() if name != SIZES}
    places = {field: at for field, at in found.places.items() if field[:1] != (SIZES,)}
    return Written(rest, places, found.left_out), sizes


def over(child: Written, parent: Written) -> Written:
    """A file merged over what it extends: mappings are merged, and an entry that is null there is left out."""
    places, left_out = {**parent.places, **child.places}, set(parent.left_out | child.left_out)
    return Written(_merge(child.fields, parent.fields, (), places, left_out), places, frozenset(left_out))


def _merge(child: Any, parent: Any, field: Field, places: dict[Field, str], left_out: set[Field]) -> Any:
    if not isinstance(child, dict):
        return child
    if not isinstance(parent, dict):
        if parent is not None and field:
            raise InputError(f"{places[field]}: {'.'.join(field)} is not a mapping but {parent!r}, so it has no fields")
        return child
    merged = dict(parent)
    for name, value in child.items():
        if value is None and field and name in parent:
            del merged[name]
            left_out.add((*field, name))
        else:
            merged[name] = _merge(value, parent.get(name), (*field, name), places, left_out)
            left_out.discard((*field, name))
    return merged


def _read(name: str, known: Mapping[str, Path], folder: Path, within: tuple[Path, ...]) -> Written:
    path = known.get(name, folder / name)
    if not path.is_file():
        where = f"file {within[-1]}: extends: " if within else ""
        raise InputError(f"{where}there is no benchmark {name!r}, by name or as a YAML file; {nearest(name, known)}")
    if path.resolve() in (p.resolve() for p in within):
        raise InputError(f"{within[-1]}: extends {name}, which extends it; remove one of the two")
    try:
        with open(path, encoding="utf-8") as stream:
            fields, root = read_yaml(stream.read(LONGEST + 1), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8 ({error.reason}); save it as UTF-8") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: a benchmark is a mapping of fields, see benchmarks/suites/quick.yaml")
    found = Written(fields, {(): f"file {path}", **dict(_places(root, (), path))})
    parent = fields.pop(EXTENDS, None)
    if parent is None:
        return found
    return over(found, _read(str(parent), known, path.parent, (*within, path)))


def _places(node: yaml.Node | None, field: Field, path: Path) -> Iterator[tuple[Field, str]]:
    """Each field below a node with the line of its name."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen and name != "<<":
            raise InputError(
                f"file {path}, line {line}: {'.'.join((*field, name))} is given twice, first in line {seen[name]}"
            )
        seen[name] = line
        yield (*field, name), f"file {path}, line {line}"
        yield from _places(value, (*field, name), path)
