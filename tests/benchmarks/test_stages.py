"""SFT as a stage: which replies it imitates, and that a short reply does not weigh more than a long one."""

import math

from alignment_bench.benchmarks.spec import SupervisedFineTuning
from alignment_bench.benchmarks.stages import MODEL, Workshop, train_sft
from alignment_bench.methods.base import Pair, Prompt
from alignment_bench.methods.policy import Policy
from alignment_bench.results.checkpoint import Checkpoint
from alignment_bench.results.store import Store

PROMPT = Prompt("p", ({"role": "user", "content": "?"},), (0, 10, 11))
SHORT, LONG = (20, 1), (30, *range(40, 70), 1)  # ids; 1 is EOS


def first_token_logps(tmp_path, tiny, full, replies: str) -> tuple[float, float]:
    """Train on one pair with SFT; log-probs of the first token of the chosen (short) and the rejected (long) reply."""
    pairs = [Pair("x", PROMPT, chosen=SHORT, rejected=LONG)]
    settings = SupervisedFineTuning(examples=480, lr=3e-3, batch_size=4, replies=replies)
    stage = train_sft(Workshop(Store(tmp_path), full, {}), tiny, settings, pairs, pairs)
    policy = Policy.open(Checkpoint(stage.path / MODEL, ""), full, trainable=False)
    short, long = policy.total_logps([(PROMPT.ids, SHORT[:1]), (PROMPT.ids, LONG[:1])])
    return float(short), float(long)


def test_both_replies_weigh_the_same_whatever_their_length(tmp_path, tiny, full):
    """Each reply is shown equally often, so each first token has probability 1/2; with a mean over each reply's own
    tokens the short one's would weigh 32 / 2 = 16 times as much, and have 16/17."""
    short, long = first_token_logps(tmp_path, tiny, full, "both")
    assert abs(math.exp(short) - 0.5) < 0.1
    assert abs(math.exp(long) - 0.5) < 0.1


def test_chosen_replies_only(tmp_path, tiny, full):
    short, long = first_token_logps(tmp_path, tiny, full, "chosen")
    assert math.exp(short) > 0.95
    assert math.exp(long) < 0.02
