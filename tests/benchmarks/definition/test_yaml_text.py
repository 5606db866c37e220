"""YAML that hangs, overflows or breaks a reader: one sentence with the line, at once; values that are no numbers."""

import random
import time

import pytest
import yaml

from alignment_bench.benchmarks.definition.plugins import build, read_value
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.definition.yaml_text import DEEPEST, LONGEST, MOST_NODES, read_yaml
from alignment_bench.errors import InputError
from alignment_bench.preferences.files import path_of
from alignment_bench.preferences.read import read_preferences

SPEC = """\
name: tiny
model: m
preferences: p
max_prompt_tokens: 150
max_response_tokens: 90
sft: {examples: 8, lr: 1e-3}
reward_model: {examples: 8, lr: 1e-3}
budget: 8
"""


def laughs(levels: int, times: int, merged: bool = False) -> str:
    """Aliases of aliases: times ** levels values in some lines; or mappings that merge mappings."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels + 1):
        names = ", ".join([f"*a{level - 1}"] * times)
        lines.append(f"a{level}: &a{level} {{<<: [{names}]}}" if merged else f"a{level}: &a{level} [{names}]")
    return "\n".join(lines)


HARMFUL = {  # text: (line, what is said)
    laughs(9, 9): (5, "more than 20,000 values"),  # 3, 28, 253, 2,278 and 20,503 of them in its first lines
    laughs(9, 9, merged=True): (5, "more than 20,000 values"),  # 3, 30, 273, 2,460 and 22,143
    "a: &a [*a]": (1, "an alias stands within what it names"),
    "x: 1\na: &a {b: {c: *a}}": (2, "an alias stands within what it names"),
    "a: &a {<<: *a}": (1, "an alias stands within what it names"),
    "a: &a\n  ? *a\n  : 1": (1, "an alias stands within what it names"),
    f"a: {'[' * 31}{']' * 31}": (1, f"nested more than {DEEPEST} deep"),
    "a: 2024-13-45": (1, "'2024-13-45' is no timestamp"),
    "a: 1\nb: 2024-01-01T99:00:00Z": (2, "is no timestamp"),
    "a: " + "9" * 6000: (1, "a number of 6,000 characters"),
    "a: -0x" + "f" * 5000: (1, "a number of 5,003 characters"),  # Python writes none of more than 4,300 digits
    "a: " + "1:" * (2**19 - 4) + "1": (1, "a number of 1,048,569 characters"),  # in base 60
    "a: " + "1:" * 2**18 + "1.5": (1, "a number of 524,291 characters"),
    f"a: 1\n{'k' * 201}: 2": (2, "a name of 201 characters"),
    f"? {'k' * 900_000}\n: 2": (1, "a name of 900,000 characters"),
    "a: !!int x": (1, "'x' is no int"),
    "a: !!int ''": (1, "'' is no int"),
    "a: !!float x": (1, "'x' is no float"),
    "a: !!bool x": (1, "'x' is no bool"),
    "a: !!timestamp x": (1, "'x' is no timestamp"),
    'a: "x\\0y"': (1, "a character of code 0"),
    "a: !!python/object/apply:os.getcwd []": (1, "could not determine a constructor"),
    "? [a]\n: 1": (1, "found unhashable key"),
}


@pytest.mark.parametrize("text", HARMFUL)
def test_harmful_text_is_told_at_once(text):
    line, said = HARMFUL[text]
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        read_yaml(text, "file x.yaml")
    assert time.process_time() - began < 2
    assert str(caught.value).startswith(f"file x.yaml, line {line}: not valid YAML (") and said in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 10**5, "{a: " * 10**4, "- " * 10**4])
def test_depth_beyond_what_the_parser_takes(text):
    with pytest.raises(InputError, match="x: not valid YAML|x, line 1: not valid YAML"):
        read_yaml(text, "x")


def test_the_limits_are_within_reach():
    assert read_yaml(f"a: {'[' * DEEPEST}{']' * DEEPEST}", "x")[0]
    flat = "[" + "1, " * (MOST_NODES - 2) + "1]"
    assert len(read_yaml(flat, "x")[0]) == MOST_NODES - 1
    with pytest.raises(InputError, match="more than 20,000 values"):
        read_yaml(flat[:-1] + ", 1]", "x")
    assert read_yaml("# " + "x" * (LONGEST - 2), "x") == (None, None)
    with pytest.raises(InputError, match="longer than 1 MiB"):
        read_yaml("# " + "x" * (LONGEST - 1), "x")


def test_aliases_are_read_as_the_library_reads_them():
    text = (
        "a: &a {x: 1, y: [2, &b three]}\nb: *a\nc: {<<: *a, z: *b}\nd: [*a, *b]\ne: 2024-02-29\nf: 0x1F\ng: ~\nh: 1:30"
    )
    assert read_yaml(text, "x")[0] == yaml.safe_load(text)


@pytest.mark.parametrize("value", ["9" * 6000, "&a [*a]", "2024-13-45", "[" * 10**5, "!!int x"])
def test_a_value_of_the_command_line(value):
    with pytest.raises(InputError, match="^value .* cannot be read") as caught:
        read_value(value)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "inf", "nan", "1e999", "1.0e+999", "Infinity", "9" * 400])
@pytest.mark.parametrize("field", ["sft.lr", "budget", "margin", "splits.sft", "evaluation.temperature"])
def test_a_number_that_is_not_finite_is_refused_before_anything_trains(tmp_path, number, field):
    (tmp_path / "x.yaml").write_text(SPEC)
    with pytest.raises(InputError, match=f"--set {field}=.*: {field}: "):
        load_spec(str(tmp_path / "x.yaml"), settings=[f"{field}={number}"])


def test_an_error_repeats_no_long_value(tmp_path):
    (tmp_path / "x.yaml").write_text(SPEC.replace("budget: 8", f"budget: {'x' * 300_000}"))
    with pytest.raises(InputError, match=r"line 8: budget: .*, not 'xxx.*x\.\.\. \(300,002 characters\)$") as caught:
        load_spec(str(tmp_path / "x.yaml"))
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_a_method_s_number_that_is_not_finite():
    for settings in ({"beta": float("inf")}, {"beta": "inf"}, {"lr": float("nan")}, {"beta": 10**400}):
        with pytest.raises(InputError, match=f"here: {[*settings][0]}: "):
            build("methods", "dpo", settings, "here")
    assert build("methods", "dpo", {"beta": 0.5}, "here").beta == 0.5


def test_paths_that_are_none():
    with pytest.raises(InputError, match="~nosuchuser/x.jsonl: there is no user of that name here"):
        list(read_preferences("~nosuchuser/x.jsonl"))
    with pytest.raises(InputError, match="code 0"):
        path_of("a\0b")


def test_mutated_benchmarks_are_read_or_told(tmp_path):
    """Seeded mutations of a benchmark's text: nothing but an InputError comes of any."""
    rng, signs = (
        random.Random(21),
        list("[]{}:,&*!|>-?'\"\n #%@`~0\0\t") + ["<<", ".inf", "&a", "*a", "!!int", "null", "9" * 5000],
    )
    told = 0
    for _ in range(400):
        text = list(SPEC)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(text))
            text[place : place + rng.randint(0, 3)] = rng.choice(signs)
        (tmp_path / "x.yaml").write_text("".join(text))
        try:
            load_spec(str(tmp_path / "x.yaml"))
        except InputError:
            told += 1
    print(f"tried 400, told {told}, read {400 - told}")
    assert 100 < told < 400
