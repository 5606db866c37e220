"""`bench check METHOD`: how near a method comes to the known optimum, and whether it keeps the interface's promises."""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...methods.online import OnlineMethod
from ...models.checkpoint import Checkpoint
from ...models.policy import Policy
from ...models.sampling import Choice, respond
from ...results.records import Generation, Reward, rated_replies
from ...results.store import COST, folder_digest
from ...training.task import Budget, PairDataset, TrainingTask
from ..definition.plugins import build, load
from .goals import Fields, goal_of, unknown_with
from .optimum import BETA, COMPARISONS, PROMPTS, TUNING, Distance, OptimumWorld

ANSWERED = 6_000  # responses by which a method that only chooses is measured
RESPONSES = 60_000  # of online methods
COMPARED = 130_000  # pairs of offline methods: a pair tells less than a response
SHARES = (1 / 16, 1)
MORE_REWARDS = 7  # beside the first, for a method that wants several
SMALL = 2048  # examples of the conformance runs
TARGET = 0.02  # nats
NEARER = 1 / 10  # of the distance at which it began may be left, else a method that stays there would pass
# What methods need to come near the optimum of this world, by field; what else they have is at their own defaults.
SETTINGS: dict[str, Any] = {
    "lr": 1e-3,
    "critic_lr": 3e-3,
    "max_grad_norm": 1.0,
    "batch_size": 256,
    "rollout_size": 512,
    "minibatch_size": 256,
    "epochs": 2,
    "beta": BETA,
    "normalize_reward": False,
    "missing_eos_penalty": 0.0,
}
# Some need others, or at BETA their optimum is nearly one response, or is where they begin.
OWN: dict[str, dict[str, Any]] = {
    # The noise of REINFORCE++ does not end at its goal, for it scales what differs between prompts to deviation 1 there
    # too: with two passes over each round it ended at 0.025 nats, with its own one pass, or a third of the rate, at
    # 0.007 (seed 0).
    "reinforce_pp": {"epochs": 1},
    # Its own; it multiplies means over tokens, so that 0.5 asks for four times the log-prob of a reply of two.
    "simpo": {"beta": 2.0},
    "alphapo": {"beta": 2.0},
    # At its own 0.001 hardly more than one response has a chance.
    "exo": {"label_smoothing": 0.1},
    # Its least is nearly flat, the more so the larger the margin 1 / beta: 0.089 nats were left at 0.5, here 0.030.
    "hinge": {"beta": 1.0},
    # Pairs that the policy would hardly write weigh little, so it takes longer to be right about them.
    "wpo": {"lr": 3e-4},
    # Its own 50 holds the policy at the reference, as 0.5 does SPPO's.
    "dpop": {"penalty": 0.3},
    "sppo": {"beta": 0.2},
}
UNDECLARED = (
    "it declares no goal, so nothing was required of where it ends; it is measured from the optimum of the "
    "KL-regularized reward, which may not be its own"
)

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
    seconds: float = 0.0
    """CPU time of the longest training."""

    @property
    def passed(self) -> bool:
        near = self.target is None or self.curve[-1][1].kl_to_optimum <= self.target
        return near and all(finding.passed for finding in self.findings)

    def lines(self) -> list[str]:
        """The findings for a person."""
        last = self.curve[-1][1]
        wanted = f"at most {self.target:.2g} wanted" if self.target is not None else "reported, not required"
        said = "passed" if self.target is not None else "kept its promises; of where it ends nothing was required"
        return [
            f"{self.method}: KL to the optimum {last.kl_to_optimum:.4f} nats ({wanted}); it began at "
            f"{self.start.kl_to_optimum:.3f}",
            f"  measured from: {self.objective}",
            *(f"  {'ok  ' if f.passed else 'FAIL'} {f.name}: {f.text}" for f in self.findings),
            said if self.passed else "NOT passed",
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
    goal = goal_of(load("methods", name))
    settings = settings_of(name) | (overrides or {})
    method = build("methods", name, settings, "bench check")
    other = unknown_with(goal, method) if goal else ""
    required = goal is not None and goal.optimum is not None and not other
    candidates = getattr(method, "responses_per_answer", 1)
    temperature = getattr(method, "temperature", 1.0)
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        world = OptimumWorld(Path(folder), seed=0)
        fields_of = Fields(method)
        pairs = world.pair_dataset(seed, fields_of("flip_rate", 0.0) if goal and goal.flips else 0.0)
        reward = world.noisy_reward(seed) if goal and goal.noisy else world.reward
        reference = world.logps(world.reference, temperature)
        if required and goal and goal.optimum:
            optimum = goal.optimum(world, fields_of)
        else:
            optimum = (reference + world.rewards / BETA).log_softmax(1)
        before = folder_digest(world.reference.path)

        def distance(logps: Tensor) -> Distance:
            return world.distance(logps, optimum, reference)

        start = distance(reference)
        say(f"start: {_line(start)}")
        curve = []
        budget = RESPONSES if isinstance(method, OnlineMethod) else COMPARED
        budget *= 2 if goal and goal.noisy else 1  # its labels are single draws
        for share in shares if candidates == 1 else ():
            task = _task(world, pairs, int(budget * share), seed, Path(folder) / f"curve-{share}", reward)
            began = time.process_time()
            checkpoint = method.train(task)
            seconds = max(seconds, time.process_time() - began)
            reached = distance(world.logps(checkpoint, temperature))
            curve.append((_cost(task).get("examples", task.budget.examples), reached))
            say(f"{curve[-1][0]:>9,} examples: {_line(reached)}")
        if candidates > 1:
            curve.append((0, distance(_chosen_logps(world, method, seed, Path(folder) / "chosen"))))
        findings = _conformance(name, method, world, pairs, before, Path(folder)) if conformance else []
    said = goal.said if goal else UNDECLARED
    objective = f"{said}; not required where {other}" if other else said
    target = min(TARGET, NEARER * start.kl_to_optimum) if required else None
    return Report(name, settings, seed, start, curve, target, objective, findings, seconds)


def settings_of(name: str) -> dict[str, Any]:
    """The settings with which a method is checked. InputError if there is none of that name."""
    cls = load("methods", name)
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    goal = goal_of(cls)
    usual = {**SETTINGS, **((goal.settings if goal else None) or {}), **OWN.get(name, {})}
    return {field: value for field, value in usual.items() if field in fields}


def _chosen_logps(world: OptimumWorld, method: Any, seed: int, out: Path) -> Tensor:
    """Log-probs [prompts, responses] of a method that only chooses, from how often the evaluation's own code chose."""
    policy = Policy.open(
        method.train(_task(world, world.pair_dataset(seed), SMALL, seed, out)), TUNING, trainable=False
    )
    asked = [replace(p, id=f"{p.id} {i}") for p in world.prompts for i in range(ANSWERED // len(world.prompts))]
    ids = {p.id: p.id.rpartition(" ")[0] for p in asked}

    def reward(generations: Sequence[Generation]) -> list[float]:
        return world.reward([replace(g, prompt_id=ids[g.prompt_id]) for g in generations])

    choice = Choice(method.responses_per_answer, lambda: reward, "")
    said = respond(policy, None, asked, max_new_tokens=2, temperature=1.0, seed=seed, choice=choice).generations
    counts = torch.zeros(world.rewards.shape, dtype=torch.float64)
    row, column = ({key: i for i, key in enumerate(keys)} for keys in (PROMPTS, world.texts))
    for g in said:
        counts[row[ids[g.prompt_id]], column[g.response]] += 1
    return (counts / counts.sum(1, keepdim=True)).clamp(min=1e-300).log()


def _line(distance: Distance) -> str:
    return (
        f"KL to the optimum {distance.kl_to_optimum:.4f}, "
        f"KL to the reference {distance.kl_to_reference:.3f}, reward {distance.reward:.3f}"
    )


def _task(
    world: OptimumWorld,
    pairs: PairDataset,
    examples: int,
    seed: int,
    out: Path,
    reward: Reward | None = None,
    counted: Callable[[Reward], Reward] = lambda reward: reward,
) -> TrainingTask:
    """counted: wraps every reward that the task gives."""
    out.mkdir(parents=True)
    reward = counted(reward or world.reward)
    more = [counted(partial(world.reward_of, table=table)) for table in world.other_rewards(MORE_REWARDS)]
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
        more_rewards=more,
        unpaired=rated,
    )


def _conformance(
    name: str, method: Any, world: OptimumWorld, pairs: PairDataset, before: str, folder: Path
) -> list[Finding]:
    """Short trainings that test the interface's promises. before: hash of the SFT checkpoint as it was built."""
    queries = 0
    asked = getattr(method, "reward_models", 1)  # each of them about each response

    def counting(reward: Reward) -> Reward:
        def scored(generations: Sequence[Generation]) -> Sequence[float]:
            nonlocal queries
            queries += len(generations)
            return reward(generations)

        return scored

    found: list[Finding] = []

    def say(what: str, passed: bool, text: str) -> None:
        found.append(Finding(what, bool(passed), text))

    runs = {}
    for label, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.manual_seed(seed)  # as the harness does before each cell
        queries = 0
        task = _task(world, pairs, SMALL, seed, folder / label, counted=counting)
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
    start, end = (float((world.logps(at).exp() * world.rewards).sum(1).mean()) for at in (world.reference, checkpoint))
    say("learns", end > start, f"expected reward {start:.3f} before, {end:.3f} after")
    cost = _cost(task)
    spent = cost.get("examples", -1)
    say(
        "stops at its budget",
        0 < spent <= SMALL and queries <= asked * SMALL,
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
    say("logs", log.exists() and log.read_text(encoding="utf-8").strip() != "", "metrics.jsonl has lines")
    trains = getattr(method, "responses_per_answer", 1) == 1
    return [finding for finding in found if trains or finding.name not in OF_TRAINING]


def _cost(task: TrainingTask) -> dict[str, Any]:
    """A method's costs as it reports them; empty if it reports none."""
    path = task.out / COST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _loads(checkpoint: Checkpoint) -> bool:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        AutoModelForCausalLM.from_pretrained(checkpoint.path)
        AutoTokenizer.from_pretrained(checkpoint.path)
    except (OSError, ValueError):
        return False
    return True
