"""`bench new-method NAME`: a small installable package with a method or evaluator, test, entry point and README."""

import keyword
import re
from pathlib import Path
from typing import Literal

from ...errors import InputError
from ..definition.plugins import Group, available

Kind = Literal["pairwise", "online", "evaluator"]
TEMPLATES = Path(__file__).parent / "new_method"


def new_method(name: str, parent: Path, kind: Kind = "pairwise") -> list[Path]:
    """Write the package into parent/alignment-bench-NAME and return its files.

    kind: what it starts as. InputError for a name that is no lower-case identifier or is taken, and for a folder that
    is already there.
    """
    import jinja2

    group: Group = "evaluators" if kind == "evaluator" else "methods"
    what = "an evaluator" if kind == "evaluator" else "a method"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise InputError(f"{what} cannot be named {name!r}; give lower-case letters, digits and _, such as my_dpo")
    if name in available(group) or name == "sft":
        raise InputError(f"there is already {what} {name!r}; choose another name")
    words = {
        "name": name,
        "group": group,
        "distribution": f"alignment-bench-{name.replace('_', '-')}",
        "module": f"{name}_{group[:-1]}",
        "cls": "".join(part.capitalize() for part in name.split("_")),
    }
    folder = parent / words["distribution"]
    if folder.exists():
        raise InputError(f"{folder} is already there; remove it or give another --parent")
    folder.mkdir(parents=True)
    loader = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    files = {
        "pyproject.toml": "pyproject.toml.j2",
        f"{words['module']}.py": f"{kind}.py.j2",
        f"test_{name}.py": f"test_{kind}.py.j2",
        "README.md": "README.md.j2",
    }
    for target, template in files.items():
        (folder / target).write_text(loader.get_template(template).render(words), encoding="utf-8")
    return [folder / target for target in files]
