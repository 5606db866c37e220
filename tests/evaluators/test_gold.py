"""The true reward: values, wins against the baseline, facets that apply, and functions that cannot be used."""

import pytest

from alignment_bench.errors import InputError
from alignment_bench.evaluators.gold import Gold
from alignment_bench.results.records import Generation, Score

WORLD = '''
"""A known world: the reward is the number of exclamation marks; politeness exists only for questions."""


def reward(prompt, response):
    polite = float("please" in response) if prompt[-1]["content"].endswith("?") else None
    return {"reward": response.count("!"), "polite": polite}


def bare(prompt, response):
    return 1.0


def headless(prompt, response):
    return {"polite": 1.0}


def infinite(prompt, response):
    return {"reward": float("nan")}


CONSTANT = 3
'''


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    (tmp_path / "known_world.py").write_text(WORLD)
    monkeypatch.syspath_prepend(tmp_path)


def answer(prompt_id: str, question: str, response: str) -> Generation:
    return Generation(prompt_id, ({"role": "user", "content": question},), response, length=3, finished=True)


def test_values_wins_ties_losses_and_facets():
    responses = [answer("p1", "Why?", "please!!"), answer("p2", "Go.", "ok!"), answer("p3", "Go.", "ok")]
    baseline = [answer("p1", "Why?", "no!"), answer("p2", "Go.", "fine!"), answer("p3", "Go.", "fine!")]
    assert list(Gold("known_world:reward").score(responses, baseline)) == [
        Score("reward.gold", "p1", 2.0),
        Score("win_rate.gold", "p1", 1.0),
        Score("reward.gold.polite", "p1", 1.0),
        Score("reward.gold", "p2", 1.0),
        Score("win_rate.gold", "p2", 0.5),
        Score("reward.gold", "p3", 0.0),
        Score("win_rate.gold", "p3", 0.0),
    ]


@pytest.mark.parametrize(
    "name", ["no_such_module:reward", "known_world:no_such_function", "known_world:CONSTANT", "", "not a name"]
)
def test_a_function_that_is_not_there_is_told_at_once(name):
    with pytest.raises(InputError, match="package.module:function"):
        Gold(name)


@pytest.mark.parametrize("name", ["bare", "headless", "infinite"])
def test_a_function_that_returns_no_usable_reward_names_the_prompt(name):
    pair = [answer("p7", "Go.", "ok")]
    with pytest.raises(InputError, match=f"known_world:{name} .* prompt p7"):
        list(Gold(f"known_world:{name}").score(pair, pair))


def test_responses_and_baseline_must_belong_together():
    with pytest.raises(ValueError):
        list(Gold("known_world:reward").score([answer("p1", "Go.", "ok")], []))
