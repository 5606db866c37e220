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
    said, unknown = sentences(study(compute, row(-0.1, 0.01, kl=[0.1, 1.0], crosses=False)))
    assert said == (
        "dpo and ppo by the true reward: with equal examples (16) dpo is ahead, at equal training compute neither is "
        "shown to be ahead, at equal KL ppo is ahead; so the order depends on what is equal."
    )
    assert unknown == "Who is ahead with equal tuning is not known: dpo and ppo were not tuned equally here."


def test_what_they_do_not_share_is_left_out_and_one_seed_speaks_of_policies():
    said, _ = sentences(study(row(None, None, flops=None), row(0.1, 0.01, kl=[0.1, 1.0], crosses=True), seeds=1))
    assert said == (
        "dpo and ppo by the true reward: with equal examples (16) the dpo policies are ahead, at equal KL the two "
        "cross; so the order depends on what is equal."
    )
    assert sentences({"axes": {"rows": {"curves": [{"metric": METRIC}]}}, "frontiers": []}) == []


def test_the_winners_of_a_tuning_with_the_same_data_and_models_are_the_fourth_kind():
    """The winners' run names its rows in its own way, and has the two in the other order."""
    found = study(row(None, None, flops=None), row(None, None, kl=None))
    won = {"a": "ppo", "b": "dpo:lr=1", "metric": METRIC, "difference": 0.1, "verdict": "ppo is better", "seeds": 5}
    tuned = {"rows": {"dpo": "dpo:lr=1", "ppo": "ppo"}, "trials": {"dpo": 12, "ppo": 12}, "at": [{}]}
    (said,) = sentences({**found, "tuned": {**tuned, "comparisons": [won]}})
    assert said == (
        "dpo and ppo by the true reward: with equal examples (16) dpo is ahead, with equal tuning (12 trials each) ppo "
        "is ahead; so the order depends on what is equal."
    )
    open_ = {**won, "verdict": NOT_DECIDED, "seeds": 1}
    counts = {"dpo": 12, "ppo": 3}
    (said,) = sentences({**found, "tuned": {**tuned, "trials": counts, "comparisons": [open_]}})
    assert said.endswith("with equal tuning (12 trials of dpo, 3 of ppo) neither is shown to be ahead.")
    for none in ({"comparisons": [won], "at": [{"labels.flip": 1}]}, {"comparisons": [{**won, "metric": "x"}]}):
        assert "is not known: dpo and ppo" in sentences({**found, "tuned": {**tuned, **none}})[-1]
