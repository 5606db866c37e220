"""The published shares of false claims, and that the simulation would see a false one."""

import json

import numpy as np
import pytest
from scipy.stats import beta

from alignment_bench.analysis.comparisons import MARGIN
from alignment_bench.benchmarks.selfcheck import claims, claims_detectable, claims_verdict
from alignment_bench.benchmarks.selfcheck.claims_verdict import REST_SD, World, draw, latent, truth

PUBLISHED = json.loads(claims.PUBLISHED.read_text())
ROWS = [(subject, row) for subject, part in PUBLISHED.items() for row in part["rows"]]


def test_every_subject_is_published_and_the_page_is_made_from_it():
    assert sorted(PUBLISHED) == claims.subjects()
    assert claims.PUBLISHED.with_suffix(".md").read_text() == claims.page(PUBLISHED)


def test_no_sentence_is_false_in_more_than_five_percent():
    """Among hundreds of designs at 5% some lie above it by chance: none by more than 1 in 10,000 would."""
    above = []
    for subject, row in ROWS:
        false = round(row["false"] * row["runs"])
        if false and beta.ppf(1e-4, false, row["runs"] - false + 1) > claims.MOST:
            above.append((subject, row["sentence"], row["design"], row["false"]))
    assert above == []
    for subject, part in PUBLISHED.items():
        for sentence in {row["sentence"] for row in part["rows"]}:
            mean = np.mean([row["false"] for row in part["rows"] if row["sentence"] == sentence])
            assert mean <= claims.MOST, (subject, sentence)


def test_the_share_has_the_exact_interval():
    # Clopper & Pearson of 2 in 20: 1.2% to 31.7% (their table)
    row = claims.rate_row("s", "d", 2, 20)
    assert (row["runs"], row["false"]) == (20, 0.1)
    assert (row["low"], row["high"]) == pytest.approx((0.0123, 0.3170), abs=1e-4)
    assert claims.rate_row("s", "d", 0, 20)["low"] == 0.0 and claims.rate_row("s", "d", 20, 20)["high"] == 1.0


@pytest.mark.parametrize("seeds", [1, 400])
def test_the_truth_is_that_of_many_prompts(seeds):
    """Of one run's policies with one seed, else of the methods, with training runs that vary."""
    world = World("w", {"a": 0.6, "b": 0.2}, 0.3)
    drawn = draw(world, 4000, seeds, np.random.default_rng(seeds))
    wins = (drawn.grids["a", "reward.gold"].to_numpy() > drawn.grids["b", "reward.gold"].to_numpy()).mean()
    assert wins - 0.5 == pytest.approx(truth(world, drawn, "a", "b", seeds), abs=0.03)
    assert drawn.grids["a", "win_rate.gold"].to_numpy().mean() - 0.5 == pytest.approx(
        truth(world, drawn, "a", "sft", seeds), abs=0.03
    )
    assert truth(World("even", {"a": 0.2, "b": 0.2}, 0.3), drawn, "a", "b", 3) == 0.0


def test_the_margin_in_latent_units():
    """Two responses whose qualities differ by `latent(points)` win one half + points: by simulation."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(latent(MARGIN), REST_SD, 200_000), rng.normal(0, REST_SD, 200_000)
    assert (ours > theirs).mean() == pytest.approx(0.5 + MARGIN, abs=0.004)


def test_a_rule_that_claims_too_much_is_seen(monkeypatch):
    """The control: decided at p < 0.4 in place of 0.05, equal methods are told apart in many runs."""
    world = World("equal", {"a": 0.3, "b": 0.3}, 0.05)
    rng = np.random.default_rng(1)
    honest = [claims_verdict.false_claims(world, 48, 3, rng) for _ in range(60)]
    monkeypatch.setattr("alignment_bench.analysis.comparisons.LEVEL", 0.4)
    loose = [claims_verdict.false_claims(world, 48, 3, rng) for _ in range(60)]
    assert sum(one["a is better than b"] for one in honest) <= 8
    assert sum(one["a is better than b"] for one in loose) >= 10
    assert sum(one["equal within the margin"] for one in honest) == 0


def test_a_size_that_a_run_does_not_show_is_seen():
    """48 prompts and one seed: 2.48 * 0.073 + 0.87 * 0.073 * sqrt(1 - 4 d^2) = 0.24 is shown in 80% of runs."""
    design = claims_detectable.Design(0.0, "b", 48, 1)
    said = "; the smallest difference that a run of this size shows with 80% power is {}"
    assert design.least() == pytest.approx(23.5, abs=1.5)
    assert not claims_detectable.is_false(said.format("23 points"), design)
    for wrong in ("15 points", "32 points", "more than 40 points"):
        assert claims_detectable.is_false(said.format(wrong), design)
    assert not claims_detectable.is_false(said.format("15 points (9 to 30 points as far as the seeds tell)"), design)
    for wrong in ("9 to 20 points", "26 to more than 40 points", "more than 40 points"):
        assert claims_detectable.is_false(said.format(f"23 points ({wrong} as far as the seeds tell)"), design)
