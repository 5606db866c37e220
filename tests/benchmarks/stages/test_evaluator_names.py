"""Nothing in benchmarks/ asks which evaluator it has before it: it asks what the evaluator's class says of itself."""

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ENTRIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
NAMES = set(ENTRIES["alignment_bench.evaluators"])
PLACE = "options.py"  # the options of the command line write into the settings of two evaluators
LABELLED_BY = {"labeller", "found.labelled_by", "round['labelled_by']"}
OTHERS = {
    *LABELLED_BY,
    "Literal",
    "wanted",
    "self.found",
    "step.kind",
    "self.kind",
    "kind",
    "inputs",
    "m.manifest['inputs']",
    "spec.labels.taste",
    "taste",
}  # labellers and their tastes, built-in models, stages, their inputs and kinds of steps, which bear the same names
LOOKUPS = ("get", "pop", "setdefault")


def asked(source: str, constants: Mapping[str, str] | None = None) -> Iterator[str]:
    """The expressions that compare with an evaluator's name, look it up, go over some, or load the class behind it.

    constants: texts by the names that they have in code.
    """

    def is_name(node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return (constants or {}).get(node.id) in NAMES
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return any(map(is_name, node.elts))
        return isinstance(node, ast.Constant) and node.value in NAMES

    for node in ast.walk(ast.parse(source)):
        beside: list[ast.AST] = []
        match node:
            case ast.Compare():
                found, beside = any(map(is_name, [node.left, *node.comparators])), [node.left, *node.comparators]
            case ast.Subscript():
                found, beside = isinstance(node.ctx, ast.Load) and is_name(node.slice), [node.value]
            case ast.Call(func=ast.Attribute(attr=attr)) if attr in LOOKUPS:
                found, beside = any(map(is_name, node.args[:1])), [node.func.value]
            case ast.Call(func=ast.Name(id="build" | "load")):
                found = any(map(is_name, node.args))
            case ast.For() | ast.comprehension():
                found = is_name(node.iter)
            case ast.MatchValue():
                found = is_name(node.value)
            case _:
                found = False
        if found and not OTHERS & {ast.unparse(part) for part in beside}:
            yield ast.unparse(node)


def texts(source: str) -> Iterator[tuple[str, str]]:
    """The names that a module gives to texts, one by one or several in a line."""
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts, strict=True) if several else [(target, node.value)]
            for name, value in pairs:
                if isinstance(name, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield name.id, value.value


def test_no_evaluator_is_asked_for_by_its_name():
    sources = {path: path.read_text() for path in sorted((ROOT / "benchmarks").rglob("*.py"))}
    assert len(sources) > 40 and PLACE in {path.name for path in sources}
    constants = dict(pair for source in sources.values() for pair in texts(source))
    assert {"reward_model", "judge"} <= set(constants.values())  # those of the one place are among them
    found = {path.name: list(asked(source, constants)) for path, source in sources.items() if path.name != PLACE}
    assert {name: said for name, said in found.items() if said} == {}


@pytest.mark.parametrize(
    "line",
    [
        'name == "judge"',
        '"judge" in spec.evaluators',
        'spec.evaluators["reward_model"]',
        'settings.evaluators.get("judge")',
        'evaluators.pop("gold", None)',
        'name in ("reward_model", "gold")',
        '{name: evaluators[name] for name in ("reward_model", "gold")}',
        'for name in ["length"]:\n    pass',
        'build("evaluators", "divergence", {}, "along training")',
        'match name:\n    case "implicit_reward":\n        pass',
        "name != JUDGE",
        "spec.evaluators[JUDGE]",
    ],
)
def test_every_form_of_asking_is_seen(line):
    assert list(asked(line, {"JUDGE": "judge"}))


def test_what_is_no_question_is_let_through():
    """Settings that name an evaluator, what has another kind of name, and the names of stages."""
    for line in ('spec = {"evaluators": {"judge": {}}}', 'labeller == "judge"', 'name == "dpo"',
                 'self.found.get("reward_model", [])', 'store.stage("reward_model", inputs, build)'):  # fmt: skip
        assert list(asked(line)) == []
