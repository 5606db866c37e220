"""Few labels and a scorer's many outcomes: the paper's estimate and variance, when it is told, what it promises."""

import json

import numpy as np
import pandas
import pytest

from alignment_bench.analysis.prediction_powered import FEWEST, correct, narrows, prediction_powered, sentences
from alignment_bench.analysis.statistics import t_squared
from alignment_bench.benchmarks.selfcheck import claims_people, coverage

PUBLISHED = json.loads(claims_people.PUBLISHED.read_text())


def world(agreement, prompts=400, labels=100, rate=0.6, seed=0):
    """People's labels [1, prompts], NaN where there is none, and outcomes that agree with people's with this chance."""
    rng = np.random.default_rng(seed)
    people = (rng.random((1, prompts)) < rate).astype(float)
    outcomes = np.where(rng.random(people.shape) < agreement, people, 1 - people)
    given = np.full(people.shape, np.nan)
    asked = rng.permutation(prompts)[:labels]
    given[:, asked] = people[:, asked]
    return given, outcomes


def grids_of(labels, outcomes):
    return {("a", "win_rate.people"): pandas.DataFrame(labels), ("a", "win_rate.judge"): pandas.DataFrame(outcomes)}


def test_estimate_and_variance_are_those_of_the_paper():
    """PPI++ for a mean, with the n labelled and the N unlabelled responses apart: its estimate, lambda and variance."""
    labels, outcomes = world(0.85)
    given = np.isfinite(labels[0])
    y, f, rest = labels[0][given], outcomes[0][given], outcomes[0][~given]
    n, unlabelled = len(y), len(rest)
    weight = np.cov(y, f, bias=True)[0, 1] / f.var() / (1 + n / unlabelled)
    expected = weight * rest.mean() + (y - weight * f).mean()
    variance = weight**2 * outcomes.var() / unlabelled + (y - weight * f).var() / n
    found = correct(labels, outcomes)
    assert found.mean == pytest.approx(expected, abs=1e-12)
    assert found.power == pytest.approx(weight * (1 + n / unlabelled))
    assert (found.n, found.of) == (100, 400)
    half = (t_squared(n - 1, 0.05) * variance) ** 0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)  # the pseudo-prompt makes it a little wider
    assert found.high - found.low > 2 * half * 0.99


def test_a_biased_scorer_is_corrected():
    """It gives 3 of 10 losses as wins: 72% where people say 60%; what is told is about people."""
    labels, outcomes = world(1.0, prompts=2000, labels=400)
    wrong = (outcomes == 0) & (np.random.default_rng(1).random(outcomes.shape) < 0.3)
    found = correct(labels, np.where(wrong, 1.0, outcomes))
    assert np.where(wrong, 1.0, outcomes).mean() > 0.7
    assert found.low < 0.6 < found.high < 0.68


def test_a_scorer_that_knows_nothing_or_the_opposite_gets_no_weight():
    assert correct(*world(0.1)).power == 0.0
    labels, outcomes = world(0.9)
    same = correct(labels, np.ones_like(outcomes))
    assert same.power == 0.0 and np.isnan(same.correlation) and not narrows(labels, np.ones_like(outcomes))
    assert same.mean == pytest.approx(np.nanmean(labels))


def test_labels_that_all_agree_with_the_scorer_leave_room_for_a_few_that_do_not():
    """25 agreeing labels of 4000 do not show that the scorer is never wrong: at 5% of errors 28% of draws look so."""
    labels, outcomes = world(1.0, prompts=4000, labels=25)
    found = correct(labels, outcomes)
    exact = outcomes.mean()
    assert found.mean == pytest.approx(exact)
    assert found.low < exact - 0.05 and found.high > exact + 0.05


def test_too_few_labels_correct_nothing():
    assert correct(*world(0.9, labels=FEWEST)) is not None
    assert correct(*world(0.9, labels=FEWEST - 1)) is None


def test_seeds_that_differ_widen_the_interval():
    """Three training runs that win 40, 60 and 80%: however many outcomes there are, three runs remain three."""
    rng = np.random.default_rng(0)
    rates = np.array([[0.4], [0.6], [0.8]])
    people = (rng.random((3, 400)) < rates).astype(float)
    labels = np.where(rng.permutation(400) < 100, people, np.nan)
    found = correct(labels, people)
    assert found.low < 0.45 and found.high > 0.75
    one = correct(labels[:1], people[:1])
    assert one.high - one.low < 0.2
    assert narrows(labels[:1], people[:1])


def test_what_narrows_is_decided_without_the_luck_of_few_seeds():
    """A scorer of little worth (the theory says 5% narrower) and two seeds: by the whole interval alone it would be
    told whenever training runs seem to differ less in what is corrected."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(100):
        people = coverage.scores(rng, coverage.effects(rng, 2, 0.2), 300, 0.4)
        outcomes = coverage.wins(0.5 * people + 0.85 * rng.normal(0, 1, people.shape))
        labels = np.where(rng.permutation(300) < 100, coverage.wins(people), np.nan)
        found.append((correct(labels, outcomes).width() <= 0.9, narrows(labels, outcomes)))
    by_width, told = np.mean(found, axis=0)
    assert told < 0.06 and by_width > 0.12


def test_only_the_responses_that_the_scorer_knows_are_taken():
    labels, outcomes = world(0.9)
    outcomes[0, :100] = np.nan
    found = correct(labels, outcomes)
    assert (found.of, found.n) == (300, int(np.isfinite(labels[0, 100:]).sum()))
    unlabelled = np.vstack([labels, np.full_like(labels, np.nan)])  # a seed of which nobody saw anything
    assert correct(unlabelled, np.vstack([outcomes, outcomes])) == found


def test_rows_against_each_other_are_corrected_by_rewards_or_by_what_a_judge_said():
    labels, outcomes = world(0.9)
    frame = pandas.DataFrame(outcomes)
    grids = {
        ("a", "win_rate.gold"): frame,
        ("a", "reward.gold"): 2 * frame,
        ("b", "reward.gold"): 0 * frame + 1,
        ("a", "win_rate.judge"): frame,
        ("a", "versus.judge:b"): 1 - frame,
        ("a", "versus.people:b"): pandas.DataFrame(labels),
    }
    gold, judge = prediction_powered(grids, ["sft", "a", "b"])
    assert (gold["a"], gold["b"], gold["scorer"], judge["scorer"]) == ("a", "b", "gold", "judge")
    assert gold["mean"] == correct(labels, outcomes).mean and gold["narrows"]
    assert judge["power"] == 0.0 and not judge["narrows"]
    # a run keeps a judge's comparison on the later of two rows, from whose side it is the reverse
    grids["b", "versus.judge:a"] = 1 - grids.pop(("a", "versus.judge:b"))
    assert prediction_powered(grids, ["sft", "a", "b"])[1] == judge
    del grids["b", "versus.judge:a"], grids["b", "reward.gold"]
    assert prediction_powered(grids, ["sft", "a", "b"]) == []


def test_what_narrows_is_told_and_nothing_else():
    rows = prediction_powered(grids_of(*world(0.95)), ["sft", "a"])
    assert rows[0]["narrows"]
    (said,) = sentences({"prediction_powered": rows})
    row = rows[0]
    assert said == (
        f"By people, a wins {row['mean']:.0%} against SFT (95% interval {100 * row['low']:.0f} to "
        f"{100 * row['high']:.0f}), from 100 responses that they compared and the judge on 400, corrected by "
        f"them; labels alone give {row['labels']['mean']:.0%} "
        f"({100 * row['labels']['low']:.0f} to {100 * row['labels']['high']:.0f})."
    )
    narrower = {**row, "scorer": "gold", "high": row["low"] + 0.01}
    (said,) = sentences({"prediction_powered": [narrower, {**row, "correlation": row["correlation"] + 0.01}]})
    assert "the judge" in said  # chosen by its correlation with the labels, not by its interval
    better = {**row, "correlation": row["correlation"] + 0.01, "narrows": False}
    assert sentences({"prediction_powered": [narrower, better]}) == []
    weak = prediction_powered(grids_of(*world(0.7)), ["sft", "a"])
    assert len(weak) == 1 and sentences({"prediction_powered": weak}) == [] == sentences({})


def test_published_claims_are_false_in_5_percent_at_most():
    """Of 60 rows some lie above by chance: none does by more than its 95% interval."""
    rows = PUBLISHED["rates"]
    assert len(rows) == 60 and all(row["runs"] >= 300 for row in rows)
    assert max(row["low"] for row in rows) <= 0.05
    assert sum(row["false"] for row in rows) / len(rows) <= 0.04
    assert max(row["told"] for row in rows) > 0.9  # they are told where a scorer is good


def test_published_usefulness_begins_near_80_percent_of_agreement():
    """Widths are those of theory, sqrt(1 - r^2 (1 - n/N)), r the correlation of two coins that agree so often, and of
    the one pseudo-prompt: its variance 1 / (n + 4)^2 beside p (1 - p) / n of the labels alone."""
    rows = PUBLISHED["usefulness"]
    for row in rows:
        p, a, n = claims_people.PREFERRED, row["agreement"], row["labels"]
        said = p * a + (1 - p) * (1 - a)
        r = (p * a - p * said) / (p * (1 - p) * said * (1 - said)) ** 0.5
        pseudo = n / (n + 4) ** 2 / (p * (1 - p))
        assert row["width"] == pytest.approx((1 - r**2 * (1 - n / row["prompts"]) + pseudo) ** 0.5, abs=0.03)
    told = {(row["labels"], row["agreement"]): row["told"] for row in rows}
    assert told[100, 0.7] < 0.05 < 0.3 < told[100, 0.8] and told[100, 0.85] > 0.8 and told[100, 0.9] > 0.95
    assert told[200, 0.8] < 0.05  # with labels for most prompts a scorer has little to add


def test_a_run_can_be_simulated_again():
    rows = claims_people.usefulness(2, 1)
    assert len(rows) == 24 and all(0 <= row["told"] <= 1 for row in rows)
