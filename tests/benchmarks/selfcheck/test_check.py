"""`bench check`: what it requires of a method, and what it finds where promises are broken."""

import json
import shutil
from dataclasses import dataclass
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from alignment_bench.benchmarks.cli.main import app
from alignment_bench.benchmarks.definition.plugins import available
from alignment_bench.benchmarks.selfcheck import check as checking
from alignment_bench.benchmarks.selfcheck.optimum import PROMPTS
from alignment_bench.errors import InputError
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.results.records import Generation
from alignment_bench.results.store import COST


def test_a_method_is_checked_with_the_usual_settings_but_for_its_own():
    usual, own = checking.settings_of("rloo"), checking.settings_of("reinforce_pp")
    assert usual["epochs"] == 2 and own == {**usual, "epochs": 1} and {*checking.OWN} <= {*available("methods")}
    for name, settings in checking.OWN.items():
        assert checking.settings_of(name).items() >= settings.items(), name  # of fields that it has


@dataclass(frozen=True, kw_only=True)
class Stays:
    """A method that learns nothing."""

    tau: float = 0.5

    def train(self, task):
        shutil.copytree(task.sft.path, task.made.path)
        (task.out / "metrics.jsonl").write_text("{}\n")
        return task.made


class Aims(Stays):
    """The same with a goal."""

    goal: ClassVar[str] = "kl_regularized_reward"
    goal_fields: ClassVar[dict[str, str]] = {"beta": "tau"}


def checked(monkeypatch, cls, **settings):
    monkeypatch.setattr(checking, "load", lambda group, name: cls)
    monkeypatch.setattr(checking, "build", lambda group, name, given, where: cls(**settings))
    return checking.check("theirs", shares=(1 / 64,), conformance=False)


def test_a_declared_goal_is_required_and_silence_is_told(monkeypatch):
    silent, aims = checked(monkeypatch, Stays), checked(monkeypatch, Aims)
    assert silent.target is None and silent.passed
    assert "declares no goal, so nothing was required of where it ends" in "\n".join(silent.lines())
    assert silent.lines()[-1] == "kept its promises; of where it ends nothing was required"
    assert aims.target == checking.TARGET and not aims.passed and aims.lines()[-1] == "NOT passed"
    assert aims.curve[-1][1].kl_to_optimum == aims.start.kl_to_optimum > 1
    nearer = checked(monkeypatch, Aims, tau=2.0)  # its own beta says where it has to go
    assert nearer.start.kl_to_optimum < aims.start.kl_to_optimum / 2


def test_staying_where_it_begins_is_never_enough(monkeypatch):
    """With a strong pull the optimum is nearer than the bar, and a tenth of the way may be left."""
    stays = checked(monkeypatch, Aims, tau=20.0)
    assert 0 < stays.start.kl_to_optimum < checking.TARGET
    assert stays.target == pytest.approx(stays.start.kl_to_optimum / 10) and not stays.passed


def test_a_goal_that_is_not_known_is_told(monkeypatch):
    monkeypatch.setattr(Aims, "goal", "kl_regularised_reward")
    with pytest.raises(InputError, match="no goal 'kl_regularised_reward'; did you mean 'kl_regularized_reward'"):
        checked(monkeypatch, Aims)
    monkeypatch.setattr(Aims, "goal", "kl_regularized_reward")
    monkeypatch.setattr(Aims, "goal_fields", {})
    with pytest.raises(InputError, match="Aims has the goal 'kl_regularized_reward' and no 'beta'; name its field in"):
        checked(monkeypatch, Aims)


@pytest.mark.parametrize(("name", "left"), [("dpo", 0.7), ("rloo", 0.3), ("ppo", 0.2)])
def test_check_nears_the_optimum_with_a_small_part_of_the_budget(name, left):
    """A 16th of the budget leaves only a share of the way; the full budget takes half a minute and more."""
    report = checking.check(name, shares=(1 / 16,))
    assert report.curve[-1][1].kl_to_optimum < left * report.start.kl_to_optimum
    assert [f.name for f in report.findings if not f.passed] == []


class Careless:
    """A method that breaks its promises: it writes into the SFT checkpoint, and saves it as its policy, unlearnt."""

    def train(self, task):
        for file in task.sft.path.iterdir():
            target = task.out / "policy" / file.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
        (task.sft.path / "trace.txt").write_text("here")
        return Checkpoint(task.out / "policy", "")


def test_check_tells_what_a_careless_method_breaks(monkeypatch):
    monkeypatch.setattr(checking, "load", lambda group, name: Careless)
    monkeypatch.setattr(checking, "build", lambda *a: Careless())
    report = checking.check("careless", shares=(1 / 64,))
    broken = {f.name for f in report.findings if not f.passed}
    assert {
        "another seed, other weights",
        "leaves the SFT checkpoint alone",
        "learns",
        "stops at its budget",
        "counts its costs",
        "logs",
    } <= broken
    assert not report.passed


@dataclass(frozen=True, kw_only=True)
class AsksSeveral(Stays):
    """It asks two reward models about as many responses as it may, and says so."""

    reward_models: int = 2
    said: int = 2 * checking.SMALL

    def train(self, task):
        turn = ({"role": "user", "content": PROMPTS[0]},)
        responses = [Generation(PROMPTS[0], turn, "a", 2, True)] * checking.SMALL
        for scorer in (task.reward, *task.more_rewards[: self.reward_models - 1]):
            scorer(responses)
        costs = {"optimizer_steps": 1, "trained_tokens": 1, "seconds": 1.0, "flops": 1.0}
        (task.out / COST).write_text(
            json.dumps({"examples": checking.SMALL, "reward_queries": self.said, **costs}), encoding="utf-8"
        )
        return super().train(task)


def test_rewards_of_several_models_are_counted_each(monkeypatch):
    def broken(**settings):
        method = AsksSeveral(**settings)
        monkeypatch.setattr(checking, "load", lambda group, name: AsksSeveral)
        monkeypatch.setattr(checking, "build", lambda *a: method)
        report = checking.check("several", shares=(1 / 64,))
        return {f.name for f in report.findings if not f.passed} & {"counts its costs", "stops at its budget"}

    assert broken() == set()
    assert broken(said=checking.SMALL) == {"counts its costs"}


def test_check_refuses_an_unknown_setting():
    with pytest.raises(InputError, match="dpo has no parameter 'bta'; did you mean 'beta'"):
        checking.check("dpo", {"bta": 1.0})


def test_check_of_best_of_n_on_the_command_line():
    done = CliRunner().invoke(app, ["check", "best_of_n", "--set", "n=3", "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["passed"] and found["settings"] == {"n": 3}
    assert found["kl_to_optimum"] == found["curve"][0]["kl_to_optimum"] < found["target"]
    assert found["reward"] > found["start"]["reward"]
    assert "leaves the SFT checkpoint alone" in [f["name"] for f in found["findings"]]
    wrong = CliRunner().invoke(app, ["check", "best_of_n", "--set", "n"])
    assert isinstance(wrong.exception, InputError) and "FIELD=VALUE" in str(wrong.exception)
