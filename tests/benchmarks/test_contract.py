"""A contract names how many processes trained, and what they divided among them; notes name what a template does."""

from types import SimpleNamespace

import pytest

from alignment_bench.benchmarks.contract import arrangement
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.notes import notes
from alignment_bench.models.chat import BARE_TEMPLATE
from alignment_bench.runtime import processes, zero

ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.mark.parametrize(
    ("variables", "divided"),
    [
        ({}, "nothing"),
        ({"ACCELERATE_USE_FSDP": "true"}, "weights, gradients, moments, frozen models"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_RESHARD_AFTER_FORWARD": "false"},
            "weights, gradients, moments",  # frozen ones are whole
        ),
        (ZERO, "gradients, moments"),  # accelerate's default is stage 2
        (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, "moments"),
        (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, "gradients, moments"),
    ],
)
def test_processes_and_what_they_divide(monkeypatch, variables, divided):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_SIZE", 3)
    monkeypatch.setattr(zero, "find_spec", lambda name: True)
    assert arrangement() == {"count": 3, "divided": divided}


@pytest.mark.parametrize(
    ("template", "same", "bits", "said"),
    [
        ("{{ strftime_now('%d') }}", 0, None, "01 January 2026 stands in every prompt"),
        ("x", 7, None, "7 prompts differ from another in their text and not in what the model sees"),
        (BARE_TEMPLATE, 0, None, "prompts are bare text"),
        (
            "x",
            0,
            4,
            "the frozen base lies in 4 bits (NF4): all rows, sft and the reference start",
        ),
        ("x", 0, None, None),
    ],
)
def test_notes_on_what_the_template_and_the_bits_do(template, same, bits, said):
    splits = {"heldout": {"prompts": 9, "pairs": 9}}
    record = {"splits": splits, "same_prompts": same, "dropped": {}, "read": 9}
    corpus = SimpleNamespace(record=record, questions=(), prompts=lambda rows, longest: range(9))
    tuning = SimpleNamespace(base_bits=bits)
    spec = SimpleNamespace(model="m", sft=True, collected=None, tuning=tuning, evaluation=SimpleNamespace(prompts=9))
    found = notes(spec, SimpleNamespace(chat_template=template), {}, {}, corpus)
    assert [said in note for note in found] == ([True] if said else [])


def test_a_round_says_who_labelled_and_that_such_a_judge_is_no_independent_one():
    record = {
        "read": 9, "dropped": {}, "same_prompts": 0, "splits": {"heldout": {"prompts": 300}},
        "more_pairs": {"sources": ["a", "b"], "used": 7, "dropped": {"duplicate row": 2}},
    }  # fmt: skip
    corpus = SimpleNamespace(record=record, questions=(), prompts=lambda rows, longest: range(300))
    round = {"number": 2, "parent": "abc", "labelled_by": "judge"}
    given = (load_spec("quick"), SimpleNamespace(chat_template=""), {}, {}, corpus, None)
    more, continues, judged = notes(*given, round)
    assert more == "7 of the training pairs are further ones (a, b); 2 of these were left out"
    assert continues.startswith("round 2 continues run abc: ") and "the labels (judge), are not among" in continues
    assert judged == "the judge labelled pairs of this round, so its win rates are what was trained for"
    by_people = {**round, "labelled_by": "people"}
    people = notes(*given, by_people)
    assert people[0] == more and len(people) == 2
