"""Files that a team brings beside its pairs: what is kept of them, what is left out, and that nothing else moves."""

import json

import pytest

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.data.brought import with_brought
from alignment_bench.benchmarks.data.corpus import load_corpus
from alignment_bench.benchmarks.definition.spec import BenchmarkSpec, Splits
from alignment_bench.errors import InputError
from alignment_bench.models.chat import encode_response
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.results.store import Looking, Store

from .conftest import STAGE

SIX = {"sft": 0.2, "training": 0.2, "evaluation": 0.2, "heldout": 0.2, "selection": 0.1, "tuning": 0.1}
LEARNT = "prompt is among those that are trained or tuned on"
KEPT = "prompt is among those kept for evaluation or tuning"
SILENT = "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"  # of systems


def question(i):
    return f"Question {i}?"


@pytest.fixture
def save(tmp_path):
    def write(name, rows):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def load(tiny, full, tmp_path, save):
    """load(model=, store=, **spec): the corpus of 40 pairs with what the spec brings."""

    def load_from(model=tiny, kind=Store, rows=None, **more):
        pairs = rows or [{"prompt": question(i), "chosen": "yes", "rejected": "no"} for i in range(40)]
        spec = BenchmarkSpec(**{
            "name": "made-up", "model": str(model.path), "preferences": save("pairs", pairs), "sft": STAGE,
            "reward_model": STAGE, "budget": 8, "max_prompt_tokens": 60, "max_response_tokens": 30,
            "splits": Splits(**SIX), **more,
        })  # fmt: skip
        shop = Workshop(kind(tmp_path / "results"), full, {})
        return with_brought(spec, model, shop, load_corpus(spec, model, shop))

    return load_from


def asked(rows):
    return {row.messages[-1]["content"] for row in rows}


def of(corpus, *parts):
    return {pair.prompt.messages[0]["content"] for part in parts for pair in getattr(corpus, part)}


def test_questions_keep_away_from_all_that_is_learnt_from(load, save):
    """Of questions those go that any split but the held-out one has; of prompts then those that are questions."""
    plain = load()
    learnt = of(plain, "sft", "training", "evaluation", "selection", "tuning")
    heldout = of(plain, "heldout")
    questions = [*map(question, range(50)), "New?", question(0), "n" * 70]  # 40 are the pairs'
    corpus = load(
        evaluation={"questions": save("questions", [{"prompt": text, "subset": "s"} for text in questions])},
        prompts=save("prompts", [{"prompt": text} for text in (*questions, "Another?")]),
    )
    left = heldout | {*questions[40:51]}
    assert asked(corpus.prompts(corpus.questions, 9).prompts) == left and len(learnt) == 32
    assert corpus.record["questions"]["dropped"] == {
        "duplicate row": 1, LEARNT: 32, "prompt longer than 60 tokens": 1,
    }  # fmt: skip
    assert corpus.subsets == {row.id: "s" for row in corpus.prompts(corpus.questions, 9).prompts}
    assert asked(corpus.prompts(corpus.practice, 9).prompts) == of(plain, "sft", "training") | {"Another?"}
    assert list(corpus.heldout) == list(plain.heldout) and list(corpus.sft) == list(plain.sft)


def test_what_is_left_of_practice_and_demonstrations(load, save, tiny):
    bare = load(sft=None)  # the same splits as with demonstrations
    apart = of(bare, "evaluation", "heldout", "selection", "tuning")
    texts = [*map(question, range(40)), "Another?", "New?"]
    corpus = load(
        evaluation={"questions": save("questions", [{"prompt": "New?"}])},
        prompts=save("prompts", [{"prompt": text} for text in texts]),
        demonstrations=save("told", [{"prompt": t, "completion": c} for t in texts for c in ("yes!", "y" * 40, "no!")]),
    )
    assert of(corpus, "training") == of(bare, "training")
    free = of(bare, "training") | {"Another?"}
    assert asked(corpus.prompts(corpus.practice, 9).prompts) == free == set(texts) - apart - {"New?"}
    assert corpus.record["prompts"] | {"content": ""} == {
        "source": corpus.record["prompts"]["source"], "read": 42, "used": len(free), "dropped": {KEPT: len(apart) + 1},
        "content": "",
    }  # fmt: skip
    replies = [(r.prompt.messages[0]["content"], r.ids) for r in corpus.demonstrations]
    tokenizer = tiny.tokenizer()
    assert replies == [
        (text, tuple(encode_response(tokenizer, reply))) for text in texts if text in free for reply in ("yes!", "no!")
    ]
    assert corpus.record["demonstrations"]["dropped"] == {"reply longer than 30 tokens": 42, KEPT: 2 * len(apart) + 2}
    assert bare.questions is bare.heldout and bare.practice is bare.training and corpus.digest != bare.digest


def test_prompts_are_one_where_the_model_sees_one(load, save, make_tiny, tmp_path):
    """A template that leaves system messages out: with another system message a prompt is the same to the model."""
    model = Checkpoint(make_tiny(tmp_path / "silent", template=SILENT), "silent")

    def with_system(text, system):
        return [{"role": "system", "content": system}, {"role": "user", "content": text}]

    corpus = load(model)
    heldout = sorted(of(corpus, "heldout"))
    rows = [{"prompt": with_system(text, system)} for text in [*heldout, "New?"] for system in ("a", "b")]
    found = load(model, prompts=save("prompts", rows))
    assert asked(found.prompts(found.practice, 9).prompts) == {"New?"}
    assert found.record["prompts"]["dropped"] == {KEPT: 2 * len(heldout), "the same prompt again": 1}


def test_without_sft_its_share_goes_to_the_others(load):
    corpus = load(sft=None)
    assert corpus.record["splits"] == {
        "training": {"pairs": 10, "prompts": 10}, "evaluation": {"pairs": 10, "prompts": 10},
        "heldout": {"pairs": 10, "prompts": 10}, "selection": {"pairs": 5, "prompts": 5},
        "tuning": {"pairs": 5, "prompts": 5},
    }  # fmt: skip
    assert corpus.digest == load(sft=None, splits=Splits(**SIX | {"sft": 0.0})).digest != load().digest


def test_found_again_looked_at_and_made_anew(load, save):
    prompts = save("prompts", [{"prompt": "One?"}, {"prompt": "Two?"}])
    seen = load(kind=Looking, prompts=prompts)
    first, again = load(prompts=prompts), load(prompts=prompts)
    assert "brought" in first.record and first.record == again.record
    assert seen.record["prompts"] == first.record["prompts"] and seen.digest == first.digest
    save("prompts", [{"prompt": "One?"}, {"prompt": "Three?"}])
    other = load(prompts=prompts)
    assert other.digest != first.digest and other.record["brought"] != first.record["brought"]


def test_what_cannot_be_used_is_one_sentence(load, save):
    rows = save("prompts", [{"prompt": question(i)} for i in range(40)])
    heldout = save("heldout", [{"prompt": text} for text in of(load(), "heldout")])
    for more, said in (
        ({"prompts": "none.jsonl"}, "prompts: there is no file none.jsonl; give a file with rows of a prompt"),
        ({"evaluation": {"questions": "none.jsonl"}}, "evaluation.questions: there is no file none.jsonl"),
        ({"prompts": heldout}, rf"none of the 8 rows of .* is left \({KEPT}: 8\); give others"),
        (
            {"demonstrations": rows},
            r"none of its 40 rows can be used \(prompt is missing: 40\); a row needs prompt and",
        ),
    ):
        with pytest.raises(InputError, match=said):
            load(**more)
