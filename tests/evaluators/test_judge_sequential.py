"""The number of prompts that a judge is asked about, and what it is asked with."""

from alignment_bench.analysis.sequential import UNTIL_DECIDED, asking_order
from alignment_bench.evaluators.judge_sequential import judge_until_decided
from alignment_bench.results.records import Generation, Score


def pairs(count):
    def answer(i, text):
        return Generation(f"p{i}", ({"role": "user", "content": f"q{i}"},), text, 3, True)

    return [(answer(i, "ours"), answer(i, "theirs")) for i in range(count)]


class Recorded:
    """A judge with a fixed value for each prompt; remembers its batches."""

    def __init__(self, value):
        self.value, self.batches = value, []

    def __call__(self, pairs):
        self.batches.append([ours.prompt_id for ours, _ in pairs])
        for ours, _ in pairs:
            yield Score("win_rate.judge", ours.prompt_id, self.value(ours.prompt_id))
            yield Score("judge.position_consistency", ours.prompt_id, 1.0)


def test_a_clear_winner_costs_one_batch():
    judge = Recorded(lambda name: 1.0)  # nine wins in a row decide at 5%
    scores = list(judge_until_decided(judge, pairs(100), 0.05, batch=10))
    assert [len(b) for b in judge.batches] == [10]
    assert judge.batches[0] == asking_order(f"p{i}" for i in range(100))[:10]
    assert [s.value for s in scores if s.metric == UNTIL_DECIDED] == [1.0] * 10
    assert {s.metric for s in scores} == {UNTIL_DECIDED, "judge.position_consistency"}


def test_a_tie_is_asked_to_the_end():
    judge = Recorded(lambda name: 0.5)
    assert len(list(judge_until_decided(judge, pairs(45), 0.05, batch=20))) == 90
    assert [len(b) for b in judge.batches] == [20, 20, 5]


def test_invalid_verdicts_are_no_evidence():
    judge = Recorded(lambda name: None)
    scores = list(judge_until_decided(judge, pairs(40), 0.05, batch=20))
    assert len(judge.batches) == 2
    assert [s.value for s in scores if s.metric == UNTIL_DECIDED] == [None] * 40
