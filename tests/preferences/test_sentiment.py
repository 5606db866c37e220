"""The world of openings: VADER's own numbers, and openings that say nothing to it."""

import pytest

pytest.importorskip("vaderSentiment")

from alignment_bench.preferences.sentiment import openings, true_reward


@pytest.mark.parametrize(
    ("response", "compound"),
    [  # of VADER's README, "Code Examples"
        ("VADER is smart, handsome, and funny!", 0.8439),
        ("VADER is not smart, handsome, nor funny.", -0.7424),
        ("Today SUX!", -0.5461),
    ],
)
def test_the_true_reward_is_vaders_compound_score(response, compound):
    assert true_reward("The party was horrible", response) == {"reward": compound}


def test_openings_differ_and_have_no_sentiment_of_their_own():
    prompts = [row["prompt"] for row in openings()]
    assert len(set(prompts)) == len(prompts) == 1024
    assert {true_reward("", prompt)["reward"] for prompt in prompts} == {0.0}
    assert len({prompt.replace("airport", "") for prompt in prompts[:8]}) == 8  # the first ones have all frames
