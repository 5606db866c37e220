"""KL, length and EOS rate are handed through per prompt."""

from alignment_bench.evaluators.divergence import Divergence
from alignment_bench.evaluators.length import Length
from alignment_bench.results.records import Generation, Score

PROMPT = ({"role": "user", "content": "Say hello."},)
ENDED = Generation("p1", PROMPT, "hello", length=2, finished=True, kl=0.75)
CUT_OFF = Generation("p2", PROMPT, "hello hello", length=7, finished=False, kl=None)
BASELINE = Generation("p1", PROMPT, "hi", length=40, finished=False, kl=9.0)


def test_kl_is_the_policys_own_and_stays_unknown_where_unknown():
    scores = list(Divergence().score([ENDED, CUT_OFF], [BASELINE, BASELINE]))
    assert scores == [Score("kl", "p1", 0.75), Score("kl", "p2", None)]


def test_no_kl_at_all_yields_nothing():
    assert list(Divergence().score([CUT_OFF, CUT_OFF], [BASELINE, BASELINE])) == []


def test_length_counts_tokens_and_eos_rate_tells_who_ended():
    assert list(Length().score([ENDED, CUT_OFF], [BASELINE, BASELINE])) == [
        Score("length", "p1", 2.0),
        Score("eos_rate", "p1", 1.0),
        Score("length", "p2", 7.0),
        Score("eos_rate", "p2", 0.0),
    ]
