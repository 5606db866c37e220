"""`bench check METHOD`: how near a method comes to the known optimum, and whether it keeps the interface's promises."""

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...models.checkpoint import Checkpoint
from ...results.records import rated_replies
from ...results.store import COST, folder_digest
from ...training.task import Budget, PairDataset, TrainingTask
from ..definition.plugins import build, load
from .optimum import BETA, COMPARISONS, TUNING, Distance, OptimumWorld

RESPONSES = 160_000  # of online methods
COMPARED = 1_280_000  # pairs of offline methods that must reach the optimum: a pair tells less than a response
REPORTED = 320_000  # pairs of the other offline methods
SHARES = (1 / 64, 1 / 16, 1 / 4, 1)
SMALL = 2048  # examples of the conformance runs

# What methods need to come near the optimum of this world; others run with the first and their own defaults.
COMMON: dict[str, Any] = {"lr": 1e-3, "max_grad_norm": 1.0, "batch_size": 256}
ONLINE: dict[str, Any] = {"normalize_reward": False, "missing_eos_penalty": 0.0, "rollout_size": 512}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"beta": BETA, "lr": 5e-4, "critic_lr": 3e-3, "minibatch_size": 256, "epochs": 2, "lam": 1.0, **ONLINE},
    "rloo": {"beta": BETA, "minibatch_size": 512, **ONLINE},
    "grpo": {"beta": BETA, "minibatch_size": 512, **ONLINE},
    "online_dpo": {"beta": BETA, "minibatch_size": 512, **ONLINE},
    "rejection": {"minibatch_size": 512, **ONLINE},
    "dpo": {"beta": BETA, "lr": 7e-4},
    "cdpo": {"beta": BETA},
    "robust_dpo": {"beta": BETA},
    "kto": {"beta": BETA},
    "ipo": {"beta": BETA, "length": "sum"},  # with means its optimum has no closed form
}
TARGET = 0.02  # nats
REACHES = ("ppo", "rloo", "dpo")  # methods whose objective is this world's, and that must come within TARGET
# Settings with which the objective is this world's; with others a method goes elsewhere, and rightly so.
OBJECTIVE = {
    "beta": BETA,
    "label_smoothing": 0.0,
    "temperature": 1.0,
    "gamma": 1.0,
    "normalize_reward": False,
    "missing_eos_penalty": 0.0,
    "kl_estimator": "k1",
    "target_kl": None,
}
OTHER_OBJECTIVES = {
    "ipo": "with summed log-probs its own optimum (a regression on win probabilities, Azar et al. 2023) is another "
    "one; measured against it",
    "cdpo": "smoothed labels ask for smaller margins than Bradley-Terry's",
    "robust_dpo": "it corrects for flipped labels, and none are flipped here",
    "online_dpo": "it takes the better of two as certain, not with Bradley-Terry's probability, so it overshoots",
    "grpo": "advantages are divided by the group's deviation, which changes the trade against the KL by prompt",
    "rejection": "it has no KL term: it moves on for as long as it trains",
    "orpo": "it has no reference, so pi* is not its goal, and its own optimum has no closed form",
    "simpo": "it has no reference, so pi* is not its goal, and its own optimum has no closed form",
    "cpo": "it has no reference, so pi* is not its goal, and its own optimum has no closed form",
    "kto": "its utility saturates, so its goal is the best responses and not pi*",
    "best_of_n": "it has no KL term and no training; its exact distribution is measured",
    "sft_chosen": "it imitates the chosen responses, whose distribution is not pi*",
}

# Promises that mean nothing for a method that only chooses among the responses of the SFT checkpoint.
OF_TRAINING = ("another seed, other weights", "learns", "stops at its budget", "counts its costs", "logs")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One promise of the interface: whether it is kept, and what was seen."""

    name: str
    passed: bool
    text: str


@dataclasses.dataclass(frozen=True)
class Report:
    """All that `bench check` found out about a method."""

    method: str
    settings: dict[str, Any]
    seed: int
    start: Distance
    curve: list[tuple[int, Distance]]
    """Examples spent and where that led; each point is a training of its own with that budget."""
    target: float | None
    """KL to the optimum that the method must reach; None where its objective is another one."""
    objective: str
    """Name of the optimum that the distance is to."""
    findings: list[Finding]

    @property
    def passed(self) -> bool:
        near = self.target is None or self.curve[-1][1].kl_to_optimum <= self.target
        return near and all(finding.passed for finding in self.findings)

    def lines(self) -> list[str]:
        """The findings for a person."""
        last = self.curve[-1][1]
        wanted = f"wanted {self.target}" if self.target is not None else "reported, not required"
        return [
            f"{self.method}: KL to the optimum {last.kl_to_optimum:.4f} nats ({wanted}); it began at "
            f"{self.start.kl_to_optimum:.3f}",
            f"  measured from: {self.objective}",
            *(f"  {'ok  ' if f.passed else 'FAIL'} {f.name}: {f.text}" for f in self.findings),
            "passed" if self.passed else "NOT passed",
        ]

    def as_json(self) -> dict[str, Any]:
        last = self.curve[-1][1]
        return {
            **dataclasses.asdict(self),
            "curve": [{"examples": n, **dataclasses.asdict(d)} for n, d in self.curve],
            **dataclasses.asdict(last),
            "passed": self.passed,
        }


def check(
    name: str,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
    shares: tuple[float, ...] = SHARES,
    conformance: bool = True,
) -> Report:
    """Train a method on the known-optimum world and test the interface's promises, if `conformance`.

    InputError for a method or setting that does not exist.
    """
    cls = load("methods", name)
    ours = getattr(cls, "settings_of", name)  # TRL's trainers have the settings and the goals of ours
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    settings = {k: v for k, v in (COMMON | SETTINGS.get(ours, {})).items() if k in fields} | (overrides or {})
    method = build("methods", name, settings, "bench check")
    given = {k: getattr(method, k) for k in OBJECTIVE if hasattr(method, k)}
    own = name in REACHES and all(value == OBJECTIVE[k] for k, value in given.items())
    candidates = getattr(method, "responses_per_answer", 1)
    with tempfile.TemporaryDirectory() as folder:
        world = OptimumWorld(Path(folder), seed=0)
        pairs = world.pair_dataset(seed)
        optimum = world.ipo_optimum(method.beta) if name == "ipo" and method.length == "sum" else None
        before = folder_digest(world.reference.path)
        start = world.distance(world.reference, optimum)
        say(f"start: {_line(start)}")
        curve = []
        budget = RESPONSES if hasattr(method, "rollout_size") else COMPARED if own else REPORTED
        for share in shares if candidates == 1 else ():
            task = _task(world, pairs, int(budget * share), seed, Path(folder) / f"curve-{share}")
            checkpoint = method.train(task)
            curve.append((_cost(task).get("examples", task.budget.examples), world.distance(checkpoint, optimum)))
            say(f"{curve[-1][0]:>9,} examples: {_line(curve[-1][1])}")
        if candidates > 1:
            curve.append((0, world.distance_of(world.best_of_logps(candidates))))
        findings = _conformance(name, method, world, pairs, before, start, Path(folder)) if conformance else []
    objective = "pi*" if own else OTHER_OBJECTIVES.get(ours, "pi*, which may not be this method's own goal")
    return Report(name, settings, seed, start, curve, TARGET if own else None, objective, findings)


def _line(distance: Distance) -> str:
    return (
        f"KL to the optimum {distance.kl_to_optimum:.4f}, regret {distance.regret:.4f}, "
        f"KL to the reference {distance.kl_to_reference:.3f}, reward {distance.reward:.3f}"
    )


def _task(world: OptimumWorld, pairs, examples: int, seed: int, out: Path, reward=None) -> TrainingTask:
    out.mkdir(parents=True)
    reward = reward or world.reward
    rated = [r for p in pairs.pairs[::COMPARISONS] for r in rated_replies(p)]
    return TrainingTask(
        world.reference,
        pairs,
        world.prompt_dataset(),
        reward,
        Budget(examples),
        seed,
        out,
        TUNING,
        base=world.reference,
        unpaired=rated,
    )


def _conformance(
    name: str, method: Any, world: OptimumWorld, pairs: PairDataset, before: str, start: Distance, folder: Path
) -> list[Finding]:
    """Short trainings that test the interface's promises. before: hash of the SFT checkpoint as it was built; start:
    where it stands."""
    queries = 0

    def counting(generations):
        nonlocal queries
        queries += len(generations)
        return world.reward(generations)

    found: list[Finding] = []

    def say(what: str, passed: bool, text: str) -> None:
        found.append(Finding(what, bool(passed), text))

    runs = {}
    for label, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.manual_seed(seed)  # as the harness does before each cell
        queries = 0
        task = _task(world, pairs, SMALL, seed, folder / label, counting)
        runs[label] = (task, method.train(task), queries)
    task, checkpoint, queries = runs["first"]
    digests = {label: folder_digest(run[1].path) for label, run in runs.items()}

    again = (
        build("methods", name, json.loads(json.dumps(dataclasses.asdict(method))), "bench check")
        if dataclasses.is_dataclass(type(method))
        else None
    )
    say("settings round-trip", again == method, "the settings as JSON give the same method again")
    say("same seed, same weights", digests["first"] == digests["again"], "two trainings with seed 0")
    say("another seed, other weights", digests["first"] != digests["other"], "trainings with seed 0 and 1")
    where = Path(checkpoint.path).resolve()
    say("saves where it should", where == (task.out / "policy").resolve(), f"saved to {where.name}/")
    say("loads", _loads(checkpoint), "AutoModelForCausalLM.from_pretrained reads the saved policy")
    say("leaves the SFT checkpoint alone", folder_digest(world.reference.path) == before, "every file has its hash")
    end = world.distance(checkpoint)
    say("learns", end.reward > start.reward, f"expected reward {start.reward:.3f} before, {end.reward:.3f} after")
    cost = _cost(task)
    spent = cost.get("examples", -1)
    say(
        "stops at its budget",
        0 < spent <= SMALL and queries <= SMALL,
        f"{spent} of {SMALL} examples, {queries} rewards",
    )
    missing = [k for k in ("examples", "optimizer_steps", "trained_tokens", "seconds", "flops") if not cost.get(k)]
    honest = cost.get("reward_queries", 0) == queries
    say(
        "counts its costs",
        not missing and honest,
        f"missing: {', '.join(missing) or 'nothing'}; rewards asked {queries}",
    )
    log = task.out / "metrics.jsonl"
    say("logs", log.exists() and log.read_text().strip() != "", "metrics.jsonl has lines")
    trains = getattr(method, "responses_per_answer", 1) == 1
    return [finding for finding in found if trains or finding.name not in OF_TRAINING]


def _cost(task: TrainingTask) -> dict[str, Any]:
    """A method's costs as it reports them; empty if it reports none."""
    path = task.out / COST
    return json.loads(path.read_text()) if path.exists() else {}


def _loads(checkpoint: Checkpoint) -> bool:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        AutoModelForCausalLM.from_pretrained(checkpoint.path)
        AutoTokenizer.from_pretrained(checkpoint.path)
    except (OSError, ValueError):
        return False
    return True
