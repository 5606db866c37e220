"""TRL's trainers behind our interface: the same losses, gradients and ends as ours, and a sentence where TRL is not.

What TRL's trainers said lies in recorded/trl_runs.json, so that ours is held to it where TRL is not; with RECORD_TRL=1
these tests write it anew.
"""

import json
import os
import sys
import types
from importlib.metadata import version
from pathlib import Path

import pytest
from safetensors.torch import load_file

from alignment_bench.errors import TrainingError
from alignment_bench.methods import online
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.grpo import GRPO
from alignment_bench.methods.kto import KTO
from alignment_bench.methods.orpo import ORPO
from alignment_bench.methods.rloo import RLOO
from alignment_bench.methods.trl_offline import TRLDPO, TRLKTO, TRLORPO
from alignment_bench.methods.trl_online import TRLGRPO, TRLRLOO
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler import Sample
from alignment_bench.results.records import Pair, Prompt
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask

PROMPT = ({"role": "user", "content": "?"},)
PROMPTS = [Prompt(f"p{i}", PROMPT, (0, 10 + i, 11)) for i in range(12)]
PAIRS = [
    Pair(f"r{i}", prompt, chosen=(20 + i, 21, 1), rejected=(40, 41 + i, 42, 43, 1)) for i, prompt in enumerate(PROMPTS)
]


def make_task(sft, tuning, out, examples=32):
    out.mkdir()

    def reference():
        frozen = Policy.open(sft, tuning, trainable=False)
        return tuple(
            frozen.total_logps([(p.prompt.ids, getattr(p, side)) for p in PAIRS]) for side in ("chosen", "rejected")
        )

    def reward(generations):
        return [float(sum(c.islower() for c in g.response)) for g in generations]

    pairs = PairDataset(PAIRS, reference)
    return TrainingTask(sft, pairs, PromptDataset(PROMPTS, 6), reward, Budget(examples), 0, out, tuning)


def read_steps(task):
    rows = [json.loads(line) for line in (task.out / "metrics.jsonl").read_text().splitlines()]
    return [(row["loss"], row["grad_norm"]) for row in rows if "loss" in row]


def distances(sft, ours, theirs):
    """The distance of ours from SFT, and of theirs from ours at the end."""
    before, mine, trls = (load_file(folder / "model.safetensors") for folder in (sft.path, ours.path, theirs.path))
    moved = sum(float(((mine[name] - before[name]) ** 2).sum()) for name in mine) ** 0.5
    return moved, sum(float(((mine[name] - trls[name]) ** 2).sum()) for name in mine) ** 0.5


RECORDED = Path(__file__).parent / "recorded" / "trl_runs.json"
STEPS = {"lr": 1e-3, "batch_size": 4, "warmup": 0.25, "weight_decay": 1.0}
ROUNDS = {"lr": 1e-3, "rollout_size": 16, "minibatch_size": 16, "epochs": 2, "beta": 0.2, "warmup": 0.0}
OFFLINE = {
    "dpo": (DPO, TRLDPO, {**STEPS, "beta": 0.3}),
    # rows of one length: TRL's mean is ours
    "orpo": (ORPO, TRLORPO, {**STEPS, "weight": 0.5, "nll_scope": "prompt+response"}),
    "kto": (KTO, TRLKTO, {**STEPS, "beta": 0.5, "undesirable_weight": 1.3}),
}
ONLINE = {"rloo": (RLOO, TRLRLOO, ROUNDS), "grpo": (GRPO, TRLGRPO, ROUNDS)}


def logps_of(checkpoint, tuning):
    """Of all replies, by which an end is known."""
    replies = [(p.prompt.ids, reply) for p in PAIRS for reply in (p.chosen, p.rejected)]
    return Policy.open(checkpoint, tuning, trainable=False).total_logps(replies).tolist()


def keep(name, task, tuning, end):
    """What a trainer of TRL's said is what was recorded of this version; or, where that is asked for, is recorded."""
    said = {
        "trl": version("trl"),
        "torch": version("torch"),
        "start": logps_of(task.sft, tuning),
        "steps": read_steps(task),
        "end": logps_of(end, tuning),
    }
    found = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    if os.environ.get("RECORD_TRL"):
        RECORDED.write_text(json.dumps({**found, name: said}, indent=1) + "\n")
    elif found[name]["trl"] == said["trl"]:
        assert found[name]["end"] == pytest.approx(said["end"], abs=0.02)


def same_steps(ours, theirs):
    """Losses and gradient norms of steps, or the means of a round's: the first to 1e-4, for later ones carry Adam's
    amplified rounding."""
    each = len(theirs) // len(ours)
    assert len(theirs) == each * len(ours)
    for number, mine in enumerate(ours):
        part = theirs[each * number : each * (number + 1)]
        mean = [sum(values) / each for values in zip(*part, strict=True)]
        assert mine == pytest.approx(mean, rel=1e-4 if number == 0 else 2e-2, abs=1e-4 if each > 1 else None)


@pytest.mark.parametrize("name", OFFLINE)
def test_losses_gradients_and_ends_are_those_of_trl(name, tiny, full, tmp_path):
    """Eight steps of full fine-tuning with warm-up, decay and clipping; rows, order and schedule are the same.

    The ends by less than 2% of the way.
    """
    pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    ours, theirs, settings = OFFLINE[name]
    tasks = [make_task(tiny, full, tmp_path / folder) for folder in ("ours", "theirs")]
    ends = [ours(**settings).train(tasks[0]), theirs(**settings).train(tasks[1])]
    steps = [read_steps(task) for task in tasks]
    assert len(steps[0]) == len(steps[1]) == 8
    same_steps(*steps)
    moved, apart = distances(tiny, *ends)
    assert apart < 0.02 * moved
    costs = [json.loads((task.out / "cost.json").read_text()) for task in tasks]
    assert costs[0]["examples"] == costs[1]["examples"] == 32
    assert costs[0]["trained_tokens"] == costs[1]["trained_tokens"]
    keep(name, tasks[1], full, ends[1])


def responses(count):
    """Letters that differ within a group and between prompts; every third is cut before its EOS."""
    return [(97 + i % 7, *([98 + i % 3] * (i % 4)), *([1] if i % 3 else [55])) for i in range(count)]


@pytest.fixture
def given(monkeypatch):
    """The same responses in place of what both would sample."""

    def sampled(policy, prompts, **others):
        return [Sample(p, ids, ids[-1] == 1) for p, ids in zip(prompts, responses(len(prompts)), strict=True)]

    monkeypatch.setattr(online, "sample", sampled)


@pytest.mark.parametrize("name", ONLINE)
def test_online_losses_and_gradients_are_those_of_trl(name, given, tiny, full, tmp_path, monkeypatch):
    """Two epochs a round, so that ratios leave 1."""
    trl = pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")

    def generate(self, prompt_ids, *others):
        rows = [list(row) for row in responses(len(prompt_ids))]
        return rows if isinstance(self, trl.RLOOTrainer) else (rows, None)  # the shape that this trainer returns

    for trainer in (trl.RLOOTrainer, trl.GRPOTrainer):
        monkeypatch.setattr(trainer, "_generate_single_turn", generate)
    ours, theirs, settings = ONLINE[name]
    tasks = [make_task(tiny, full, tmp_path / folder, examples=48) for folder in ("ours", "theirs")]
    ends = [ours(**settings).train(tasks[0]), theirs(**settings).train(tasks[1])]
    logs = [read_steps(task) for task in tasks]
    assert len(logs[0]) == 3 and len(logs[1]) == 6  # ours logs a round, TRL a step
    same_steps(*logs)
    moved, apart = distances(tiny, *ends)
    assert apart < 0.02 * moved
    costs = [json.loads((task.out / "cost.json").read_text()) for task in tasks]
    for key in ("examples", "reward_queries", "trained_tokens"):
        assert costs[0][key] == costs[1][key]
    keep(name, tasks[1], full, ends[1])


@pytest.mark.parametrize("name", [*OFFLINE, *ONLINE])
def test_losses_gradients_and_ends_are_those_that_trl_had(name, given, tiny, full, tmp_path):
    """Without TRL. The end, by the log-probs of all replies, is off by less than 2% of the way."""
    said = json.loads(RECORDED.read_text())[name]
    start = logps_of(tiny, full)
    if start != pytest.approx(said["start"], rel=1e-4):
        pytest.skip(f"this torch draws another tiny model than {said['torch']}, with which TRL was recorded")
    ours, _, settings = {**OFFLINE, **ONLINE}[name]
    task = make_task(tiny, full, tmp_path / name, examples=32 if name in OFFLINE else 48)
    end = logps_of(ours(**settings).train(task), full)
    same_steps(read_steps(task), said["steps"])
    way = sum((a - b) ** 2 for a, b in zip(said["end"], start, strict=True)) ** 0.5
    assert sum((a - b) ** 2 for a, b in zip(said["end"], end, strict=True)) ** 0.5 < 0.02 * way


def test_trl_under_lora_keeps_to_the_budget_and_saves_an_adapter(tiny, tmp_path):
    pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    from alignment_bench.models.tuning import Tuning

    tuning = Tuning(lora_rank=4, lora_alpha=8.0, precision="fp32", device="cpu")
    for cls in (TRLDPO, TRLORPO, TRLKTO):
        task = make_task(tiny, tuning, tmp_path / cls.__name__, examples=8)
        found = cls(lr=1e-3, batch_size=4).train(task)
        assert (found.path / "adapter_model.safetensors").exists()
        assert Policy.open(Checkpoint(found.path, ""), tuning, trainable=False).total_logps([((0, 10), (20, 1))]) < 0
        assert json.loads((task.out / "cost.json").read_text())["examples"] == 8


def test_a_trainer_that_trl_removed_is_one_sentence(tiny, full, tmp_path, monkeypatch):
    """One that is imported from a module of its own, one that is looked up, and a mistake of ours, which stays one."""
    pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    monkeypatch.setitem(sys.modules, "trl.experimental.orpo", types.ModuleType("trl.experimental.orpo"))
    with pytest.raises(TrainingError, match="^TRL .* does not have this trainer .*; install a version that has it"):
        TRLORPO().train(make_task(tiny, full, tmp_path / "orpo"))
    monkeypatch.setattr(TRLKTO, "trainer", lambda self, trl, *given: trl.NoSuchTrainer)
    with pytest.raises(TrainingError, match="^TRL .* does not have this trainer .*NoSuchTrainer"):
        TRLKTO().train(make_task(tiny, full, tmp_path / "kto"))
    monkeypatch.setattr(TRLKTO, "trainer", lambda self, trl, task, ledger: task.no_such_field)
    with pytest.raises(AttributeError, match="no_such_field"):
        TRLKTO().train(make_task(tiny, full, tmp_path / "ours"))


def test_without_trl_one_sentence_says_so(tiny, full, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(TrainingError, match="TRL is not installed; pip install trl"):
        TRLDPO().train(make_task(tiny, full, tmp_path / "t"))
