"""False claims that a reward was hacked, in simulations: few; and a gain that is not there is found."""

import numpy as np

from alignment_bench.benchmarks.selfcheck.claims_hacking import DESIGNS, PROMPTS, SEEDS, rates, shown


def test_false_claims_are_rare_and_a_gap_is_found():
    """2.5% is promised; with 8 runs a rate of 2.5% gives 4 or more with a probability below 0.0001."""
    found = rates(8, seed=0)
    assert len(found) == len(DESIGNS) * len(PROMPTS) * len(SEEDS)
    assert max(row["false"] for row in found) < 4 / 8 and all(row["runs"] == 8 for row in found)
    assert np.mean([row["false"] for row in found]) < 0.025
    assert shown(20, 0, prompts=300, seeds=1) > 0.8
