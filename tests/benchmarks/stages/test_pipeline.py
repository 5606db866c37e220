"""What a cell is given: a reward model is in memory where its method asks it, and not where none does."""

from types import SimpleNamespace

from alignment_bench.benchmarks.stages import trained
from alignment_bench.benchmarks.stages.pipeline import Pipeline
from alignment_bench.benchmarks.stages.scorers import Scorers
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.ppo import PPO
from alignment_bench.models.reward_model import RewardModel


def test_a_cell_that_asks_no_reward_has_no_reward_model_in_memory(monkeypatch):
    """At 7B it would be 26 GiB; a method that asks without saying so has it at its first question."""
    given, events = {}, []

    class Model(RewardModel):
        def __init__(self):
            self.network = SimpleNamespace(close=lambda: events.append("closed"))

        def __call__(self, generations):
            return [1.0] * len(generations)

    monkeypatch.setattr(RewardModel, "open", lambda *_: events.append("opened") or Model())
    monkeypatch.setattr(trained, "train_cell", lambda *_, **more: given.update(more))
    scorers = object.__new__(Scorers)
    scorers.settings = SimpleNamespace(training=None)
    scorers.reward_models = {"training": SimpleNamespace(path="there")}
    scorers.shop = SimpleNamespace(tuning=None)
    pipeline = object.__new__(Pipeline)
    vars(pipeline).update(
        spec=SimpleNamespace(budget=1, evaluation=SimpleNamespace(along=0)), brought=None, shop=None, base=None,
        sft=None, pairs=None, prompts=None, corpus=SimpleNamespace(unpaired=()), ensemble={}, scorers=scorers,
    )  # fmt: skip

    pipeline.train("ppo", PPO(), 0)
    assert given["reward"]()(["text"]) == [1.0] and events == ["opened"]
    pipeline.train("dpo", DPO(), 0)
    reward = given["reward"]()
    assert events == ["opened", "closed"]
    assert reward(["text"]) == [1.0] and events == ["opened", "closed", "opened"]
