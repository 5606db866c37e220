"""Who is ahead under which budget, from a study's rows."""

from alignment_bench.analysis.budgets import sentences
from alignment_bench.analysis.comparisons import NOT_DECIDED

METRIC = "win_rate.gold"


def row(difference, p, **more):
    verdict = NOT_DECIDED if p is None or p >= 0.05 else "rises" if difference > 0 else "falls"
    pair = {"a": "dpo", "b": "ppo", "metric": METRIC, "difference": difference, "p_adjusted": p, "seeds": 3}
    return {**pair, "verdict": verdict, **more}


def study(compute, kl, seeds=3):
    pairs = [row(0.2, 0.9, at=[None], value=8), row(0.1, 0.001, at=[None], value=16, seeds=seeds)]
    curve = {"metric": METRIC}
    part = {"at": {}, "equal_compute": [compute], "comparisons": [kl]}
    axes = {"budget": {"values": [8, 16], "pairs": pairs, "curves": [curve]}, "dpo.beta": {"curves": []}}
    return {"axes": axes, "frontiers": [part]}


def test_the_order_may_depend_on_what_is_equal():
    compute = row(0.05, 0.3, flops=[1e12, 2e12], crosses=False)
    (said,) = sentences(study(compute, row(-0.1, 0.01, kl=[0.1, 1.0], crosses=False)))
    assert said == (
        "dpo and ppo by the true reward: with equal examples (16) dpo is ahead, at equal training compute neither is "
        "shown to be ahead, at equal KL ppo is ahead; so the order depends on what is equal."
    )


def test_what_they_do_not_share_is_left_out_and_one_seed_speaks_of_policies():
    (said,) = sentences(study(row(None, None, flops=None), row(0.1, 0.01, kl=[0.1, 1.0], crosses=True), seeds=1))
    assert said == (
        "dpo and ppo by the true reward: with equal examples (16) the dpo policies are ahead, at equal KL the two "
        "cross; so the order depends on what is equal."
    )
    assert sentences({"axes": {"rows": {"curves": [{"metric": METRIC}]}}, "frontiers": []}) == []
