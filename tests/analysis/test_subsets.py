"""Win rates by groups of prompts: by hand, against another computation, and the words for them."""

import numpy as np
import pandas
import pytest
from scipy.stats import t as student

from alignment_bench.analysis.subsets import by_group, groups_of, influence, sentences
from alignment_bench.benchmarks.selfcheck import claims_subsets

GOLD = "win_rate.gold"
IDS = [f"p{i}" for i in range(60)]
GROUPS = {"subset": {name: ("helpful" if i < 40 else "honest") for i, name in enumerate(IDS)}}


def table(wins, method="ppo", metric=GOLD):
    """wins: [seeds, prompts]."""
    rows = [(method, s, metric, IDS[i], v) for s, row in enumerate(wins) for i, v in enumerate(row)]
    return pandas.DataFrame(rows, columns=["method", "seed", "metric", "prompt_id", "value"])


def test_groups_are_the_datas_subsets_and_the_halves_by_length():
    subsets = {"a": "helpful", "b": None, "c": "honest"}
    assert groups_of(subsets, {"a": 3, "b": 5, "c": 9}) == {
        "subset": {"a": "helpful", "c": "honest"},
        "length": {"a": "shorter prompts", "b": "shorter prompts", "c": "longer prompts"},
    }
    assert groups_of({"a": "helpful", "b": "helpful"}, {"a": 4, "b": 4}) == {}  # nothing to tell apart
    assert groups_of({}, {}) == {}


def test_a_gain_on_one_subset_alone_is_found_there():
    """36 of 40 helpful prompts won, 10 of 20 honest ones: 90% and 50%; the difference is 40 points."""
    wins = [[1.0] * 36 + [0.0] * 4 + [1.0, 0.0] * 10]
    found = by_group(pandas.concat([table(wins), table([[0.5] * 60], "sft")]), GROUPS)
    assert found["metric"] == GOLD
    rows = found["kinds"]["subset"]["ppo"]
    assert [rows[name]["mean"] for name in ("helpful", "honest")] == [0.9, 0.5]
    assert [rows[name]["prompts"] for name in ("helpful", "honest")] == [40, 20]
    assert rows["helpful"]["against_others"]["difference"] == pytest.approx(0.4)
    assert rows["honest"]["against_others"]["difference"] == pytest.approx(-0.4)
    # four tests: helpful's rate has the smallest p, times 4, then the two contrasts; honest's rate, p = 1, is the last
    assert rows["helpful"]["p_adjusted"] == pytest.approx(4 * rows["helpful"]["p"]) and rows["helpful"]["p"] > 0
    assert rows["honest"]["against_others"]["p_adjusted"] == pytest.approx(3 * rows["honest"]["against_others"]["p"])
    assert rows["honest"]["p_adjusted"] == 1.0
    summary = {"subsets": found, "methods": {"ppo": {"seeds": 1}}}
    assert sentences(summary) == [
        "By the true reward this ppo policy does not gain everywhere alike (prompts by subset): it beats SFT on "
        "helpful (90%); no difference to SFT is shown on honest (50%)."
    ]
    summary["methods"]["ppo"]["seeds"] = 3
    assert sentences(summary)[0].startswith("By the true reward ppo does not gain")


def test_p_is_that_of_a_t_test_between_the_groups_where_they_are_large():
    """Welch's t of 90% of 40 against 50% of 20; ours has 60 / 59 more variance for all prompts."""
    inside = np.arange(60) < 40
    wins = np.array([[1.0] * 36 + [0.0] * 4 + [1.0, 0.0] * 10])
    values = influence(wins, inside)
    a, b = wins[0, :40], wins[0, 40:]
    welch = np.sqrt(a.var(ddof=1) / 40 + b.var(ddof=1) / 20)
    assert values.mean() == pytest.approx(0.4)
    assert values.std(ddof=1) / np.sqrt(60) == pytest.approx(welch * np.sqrt(60 / 59))
    row = by_group(table(wins), GROUPS)["kinds"]["subset"]["ppo"]["helpful"]["against_others"]
    assert row["p"] == pytest.approx(2 * student.sf(0.4 / welch / np.sqrt(60 / 59), 59), rel=1e-6)


def test_a_missing_value_moves_neither_group():
    inside = np.arange(4) < 2
    values = influence(np.array([[1.0, np.nan, 0.0, 0.5], [0.0, 1.0, 0.0, 1.0]]), inside)
    assert np.isnan(values[0, 1]) and np.nanmean(values) == pytest.approx(2 / 3 - 3 / 8)


def test_a_seed_that_is_better_everywhere_moves_no_difference():
    """Seeds of 90 and 50%, and of 80 and 40%: each says 40 points; were the shifts added, one would say 50 or more."""
    inside = np.arange(40) < 20
    wins = [[1.0] * (18 - 2 * s) + [0.0] * (2 + 2 * s) + [1.0] * (10 - 2 * s) + [0.0] * (10 + 2 * s) for s in (0, 1)]
    assert influence(np.array(wins), inside).mean(1) == pytest.approx([0.4, 0.4])


def test_alike_everywhere_is_no_sentence_and_small_groups_are_left_out():
    wins = [[1.0, 1.0, 1.0, 0.0] * 15]
    found = by_group(table(wins), GROUPS)
    assert sentences({"subsets": found, "methods": {"ppo": {"seeds": 1}}}) == []
    small = {"subset": {name: ("helpful" if i < 45 else "honest") for i, name in enumerate(IDS)}}
    assert by_group(table(wins), small) == {}  # 15 honest prompts, and no others beside them
    assert by_group(table(wins, metric="length"), GROUPS) == by_group(table(wins), {}) == {}
    assert sentences({}) == []


def test_worse_than_sft_is_told_too():
    wins = [[1.0] * 39 + [0.0] + [0.0] * 20]
    (said,) = sentences({"subsets": by_group(table(wins), GROUPS), "methods": {"ppo": {"seeds": 2}}})
    assert said.endswith("it beats SFT on helpful (98%); it loses to SFT on honest (0%).")


def test_simulated_runs_know_a_false_sentence(monkeypatch):
    """A gain of 85% on harmless alone: it is true to say so, and false to say it of honest or to tell lengths apart."""
    truth = {"helpful": 0.5, "honest": 0.5, "harmless": 0.85}

    def judged(kind, **rows):
        found = {
            name: {"mean": mean, "p_adjusted": p, "against_others": {"p_adjusted": p}}
            for name, (mean, p) in rows.items()
        }
        monkeypatch.setattr(claims_subsets, "by_group", lambda *_: {"kinds": {kind: {"a": found}}})
        return claims_subsets._is_false(None, {}, truth)

    assert not judged("subset", harmless=(0.85, 0.01), honest=(0.5, 0.4))
    assert judged("subset", harmless=(0.85, 0.01), honest=(0.6, 0.01))
    assert judged("subset", harmless=(0.3, 0.01))
    assert judged("length", shorter=(0.85, 0.01)) and not judged("length", shorter=(0.85, 0.2))


def test_equal_methods_are_hardly_ever_told_apart_by_subset():
    """20 runs of 3 methods with 70% everywhere: at a rate of 5% more than four would be false in one case of 400."""
    assert claims_subsets._false(np.random.default_rng(1), (0.7, 0.7, 0.7), 48, 2, 20) <= 4
