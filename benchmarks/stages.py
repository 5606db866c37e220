"""The stages before and after a method: SFT, reward models, reference log-probs, cells, generations, scores.

Each is cached in the store under the hash of all it depends on: its settings, the contents of its inputs, and the
code that makes it. What trains is made by all processes of a run together, and saved by the first; all else by the
first alone.
"""

import dataclasses
import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..evaluators.reward_model import RewardModel
from ..methods.base import Budget, Ledger, Pair, PairDataset, Prompt, PromptDataset, RatedReply, TrainingTask
from ..methods.loop import fit
from ..methods.losses import reward_model as reward_model_loss
from ..methods.pairwise import sides_of
from ..methods.policy import Policy
from ..methods.resume import EVERY
from ..methods.rollout import sample, to_generations
from ..results import processes
from ..results.checkpoint import Checkpoint, Tuning, merge_adapter, open_network
from ..results.layout import count_tokens
from ..results.model_files import remote_code_allowed
from ..results.records import Generation, InputError, Reward, Score
from ..results.store import COST, GENERATIONS, POLICY, SCORES, Stage, Store, digest, write_jsonl
from .spec import Supervised, SupervisedFineTuning

PACKAGE = Path(__file__).parent.parent
MODEL = "model"  # folder of a trained model within its stage
GATE = "gate.json"  # what a gate looks at, within the stage
REWARDS = "rewards.json"


@lru_cache
def code_digest(*parts: str) -> str:
    """SHA-256 of our own source below these folders or files; a stage made by other code is another stage."""
    files = sorted(
        p for part in parts for p in ([PACKAGE / part] if part.endswith(".py") else (PACKAGE / part).glob("*.py"))
    )
    return digest([hashlib.sha256(p.read_bytes()).hexdigest() for p in files])


TRAINING_CODE = (
    "methods",
    "benchmarks/stages.py",
    "results/chat.py",
    "results/checkpoint.py",
    "results/layout.py",
    "results/lora.py",
    "results/processes.py",
    "results/sharding.py",
)


@dataclass(frozen=True)
class Workshop:
    """What every stage works with."""

    store: Store
    tuning: Tuning
    packages: dict[str, str]
    """Versions of the libraries that numbers depend on."""
    checkpoint_every: float = EVERY
    """Seconds between the checkpoints from which a training that was stopped goes on."""

    def inputs(self, code: Iterable[str] = TRAINING_CODE, **more: Any) -> dict[str, Any]:
        return {
            "code": code_digest(*code),
            "tuning": dataclasses.asdict(self.tuning),
            "packages": self.packages,
            **({"trust_remote_code": True} if remote_code_allowed() else {}),
            **more,
        }


@dataclass(frozen=True)
class Example:
    """One row of SFT: a prompt and the reply to imitate."""

    id: str
    """Of the pair it comes from."""
    prompt: Prompt
    response: tuple[int, ...]


def train_sft(
    shop: Workshop, base: Checkpoint, settings: SupervisedFineTuning, train: list[Pair], heldout: list[Pair]
) -> Stage:
    """Fine-tune the base on the replies of some pairs; the stage holds a plain model (LoRA merged) and gate.json.

    gate.json: mean negative log-likelihood a token of such replies to held-out prompts, base and SFT, one value a
    prompt.
    """
    examples, unseen = (_examples(pairs, settings) for pairs in (train, heldout))

    def build(out: Path) -> None:
        torch.manual_seed(0)
        policy = Policy(open_network(base.path, "lm", shop.tuning, trainable=True), base.tokenizer())
        gate = {"base": _heldout_loss(policy, unseen)}  # before the first step it is the base
        ledger = Ledger.of(policy.network, out)
        # every token weighs the same: a mean over each reply's own tokens would teach it to be brief
        tokens = sum(len(e.response) for e in examples) / len(examples)

        def loss(batch: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
            sequences = [(e.prompt.ids, e.response) for e in batch]
            ledger.trained_tokens += count_tokens(sequences)
            return -policy.logps(sequences).sum() / tokens, {}

        fit(
            examples,
            policy.network,
            loss,
            lambda e: [(e.prompt.ids, e.response)],
            ledger=ledger,
            **_recipe(settings, shop, seed=0, label="SFT"),
        )
        ledger.close()
        if processes.rank():
            return
        model = merge_adapter(policy.network)
        model.save_pretrained(out / MODEL)
        policy.tokenizer.save_pretrained(out / MODEL)
        saved = Policy.open(Checkpoint(out / MODEL, ""), shop.tuning, trainable=False)  # what lies on disk is judged
        gate["sft"] = _heldout_loss(saved, unseen)
        (out / GATE).write_text(json.dumps(gate))

    inputs = shop.inputs(
        base=base.key, settings=settings.model_dump(), train=_pairs_digest(train), heldout=_pairs_digest(heldout)
    )
    return shop.store.stage("sft", inputs, build, together=True)


def train_reward_model(
    shop: Workshop, sft: Checkpoint, settings: Supervised, train: list[Pair], heldout: list[Pair], seed: int
) -> Stage:
    """Fit a Bradley-Terry reward model from the SFT checkpoint; the stage holds the model and gate.json.

    gate.json: held-out pair accuracy, one value a prompt (ties count half), and the scores of both sides of each pair.
    """

    def build(out: Path) -> None:
        torch.manual_seed(seed)
        width = _width(sft)
        network = open_network(sft.path, "score", shop.tuning, trainable=True, head_std=(width + 1) ** -0.5)
        model = RewardModel(network, sft.tokenizer())
        ledger = Ledger.of(network, out)

        def loss(batch: list[Pair]) -> tuple[Tensor, dict[str, Tensor]]:
            rows = [side for pair in batch for side in sides_of(pair)]
            ledger.trained_tokens += count_tokens(rows)
            chosen, rejected = model.scores(rows).view(-1, 2).unbind(1)
            return reward_model_loss(chosen, rejected), {"accuracy": (chosen > rejected).float()}

        fit(
            train,
            network,
            loss,
            sides_of,
            ledger=ledger,
            **_recipe(settings, shop, seed=seed, label=f"reward model {seed}"),
        )
        ledger.close()
        if processes.rank():
            return
        rows = [side for pair in heldout for side in sides_of(pair)]
        scores = model.score_all(rows, progress="held-out pairs")
        chosen, rejected = torch.tensor(scores).view(-1, 2).unbind(1)
        right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
        gate = {"accuracy": _by_prompt(heldout, right.tolist()), "scores": scores}
        (out / GATE).write_text(json.dumps(gate))
        network.save(out / MODEL, model.tokenizer)
        network.close()

    inputs = shop.inputs(
        sft=sft.key,
        settings=settings.model_dump(),
        train=_pairs_digest(train),
        heldout=_pairs_digest(heldout),
        seed=seed,
        scorer=code_digest("evaluators/reward_model.py"),
    )
    return shop.store.stage("reward_model", inputs, build, together=True)


def heldout_scores(reward_model: Checkpoint) -> list[float]:
    """What a reward model that was trained here gave the held-out pairs, chosen and rejected in turn."""
    return json.loads((reward_model.path.parent / GATE).read_text())["scores"]


def pair_dataset(shop: Workshop, sft: Checkpoint, pairs: list[Pair]) -> PairDataset:
    """The training pairs, with reference log-probs that are computed (or found) when a method first asks for them."""

    def build(out: Path) -> None:
        reference = Policy.open(sft, shop.tuning, trainable=False)
        chosen, rejected = reference.total_logps([s for p in pairs for s in sides_of(p)]).view(-1, 2).T.contiguous()
        save_file({"chosen": chosen.clone(), "rejected": rejected.clone()}, out / "reference.safetensors")

    @lru_cache
    def reference() -> tuple[Tensor, Tensor]:
        inputs = shop.inputs(sft=sft.key, pairs=_pairs_digest(pairs))
        sides = load_file(shop.store.stage("reference", inputs, build).path / "reference.safetensors")
        return sides["chosen"], sides["rejected"]

    return PairDataset(pairs, reference)


def train_cell(
    shop: Workshop,
    name: str,
    method: Any,
    *,
    base: Checkpoint,
    sft: Checkpoint,
    pairs: PairDataset,
    unpaired: Sequence[RatedReply],
    prompts: PromptDataset,
    reward: Callable[[], Reward],
    reward_model: Checkpoint,
    budget: int,
    seed: int,
    along: int = 0,
) -> Stage:
    """Train one method with one seed; the stage holds policy/, metrics.jsonl and cost.json, and along/ if asked for."""

    def build(out: Path) -> None:
        torch.manual_seed(seed)
        task = TrainingTask(
            sft,
            pairs,
            prompts,
            reward(),
            Budget(budget),
            seed,
            out,
            shop.tuning,
            base=base,
            reward_model=reward_model,
            unpaired=unpaired,
            along=along,
            checkpoint_every=shop.checkpoint_every,
        )
        started = time.monotonic()
        checkpoint = method.train(task)
        seconds = time.monotonic() - started
        if processes.rank():
            return
        policy = out / POLICY
        if not policy.is_dir() or Path(checkpoint.path).resolve() != policy.resolve():
            raise InputError(
                f"method {name!r} must save its policy to task.out / {POLICY!r} and return that checkpoint"
            )
        cost = json.loads((out / COST).read_text()) if (out / COST).exists() else {}
        (out / COST).write_text(json.dumps({**cost, "seconds": seconds}, indent=2))

    inputs = shop.inputs(
        method=name,
        source=_source_digest(type(method)),
        settings=settings_of(method),
        libraries={name: _version(name) for name in getattr(method, "libraries", ())},
        base=base.key,
        sft=sft.key,
        pairs=_pairs_digest(pairs.pairs),
        unpaired=digest([[r.id, r.prompt.ids, r.ids, r.good] for r in unpaired]),
        prompts=digest([p.id for p in prompts.prompts]),
        max_new_tokens=prompts.max_new_tokens,
        reward=reward_model.key,
        budget=budget,
        seed=seed,
        along=along,
    )
    return shop.store.stage("train", inputs, build, together=True)


@dataclass(frozen=True)
class Choice:
    """How best-of-n answers: the best of several responses by a reward."""

    responses: int
    reward: Callable[[], Reward]
    key: str
    """Of the reward model."""


def generate(
    shop: Workshop,
    sft: Checkpoint,
    policy: Checkpoint | None,
    prompts: PromptDataset,
    *,
    temperature: float,
    seed: int,
    choice: Choice | None = None,
) -> Stage:
    """Answer the evaluation prompts with a policy (None: the SFT checkpoint itself), with entropy and KL to SFT.

    With a choice the policy's chosen response is the answer; its KL to SFT is then the bound log n - (n - 1) / n
    (Beirami et al. 2024, arXiv:2401.01879), for the policy itself must be SFT.
    """

    n = choice.responses if choice else 1

    def build(out: Path) -> None:
        reference = Policy.open(sft, shop.tuning, trainable=False)
        # a policy that is a whole model is opened as a copy of its own, so that the shared SFT model stays in memory
        model = Policy.open(policy, shop.tuning, trainable=True) if policy else reference
        try:
            samples = sample(
                model,
                [p for p in prompts.prompts for _ in range(n)],
                max_new_tokens=prompts.max_new_tokens,
                temperature=temperature,
                seed=seed,
                progress="responses",
            )
            if choice:
                rewards = torch.tensor(choice.reward()(to_generations(model, samples))).view(-1, n)
                samples = [samples[i * n + j] for i, j in enumerate(rewards.argmax(1).tolist())]
            sequences = [(s.prompt.ids, s.ids) for s in samples]
            entropies, kls = model.entropy_and_kl(sequences, reference if policy else None)
            if choice:
                kls = [math.log(n) - (n - 1) / n] * len(samples)
        finally:
            model.network.close()
        generations = zip(to_generations(model, samples, kls), entropies, strict=True)
        write_jsonl(out / GENERATIONS, [dataclasses.replace(g, entropy=entropy) for g, entropy in generations])

    inputs = shop.inputs(
        sft=sft.key,
        policy=policy.key if policy else None,
        prompts=digest([[p.id, p.ids] for p in prompts.prompts]),
        max_new_tokens=prompts.max_new_tokens,
        temperature=temperature,
        seed=seed,
        choice=[n, choice.key] if choice else None,
    )
    return shop.store.stage("generations", inputs, build)


def score(
    shop: Workshop,
    name: str,
    evaluator: Any,
    needs: dict[str, str],
    responses: tuple[str, Callable[[], list[Generation]]],
    baseline: tuple[str, Callable[[], list[Generation]]],
) -> Stage:
    """Let one evaluator score responses against a baseline; the stage holds scores.parquet.

    needs: keys of the models that the evaluator uses. Responses and baseline: content key, and how to read them. Where
    the evaluator has rewards, those of the baseline are computed once, for all methods.
    """
    inputs = {
        "code": code_digest("evaluators"),
        "evaluator": name,
        "source": _source_digest(type(evaluator)),
        "settings": {k: v for k, v in settings_of(evaluator).items() if k not in needs},
        "needs": needs,
    }

    def rewards(of: tuple[str, Callable[[], list[Generation]]]) -> list[float]:
        def build(out: Path) -> None:
            (out / REWARDS).write_text(json.dumps(evaluator.rewards(of[1]())))

        stage = shop.store.stage("rewards", {**inputs, "of": of[0]}, build)
        return json.loads((stage.path / REWARDS).read_text())

    def build(out: Path) -> None:
        if getattr(evaluator, "has_rewards", False):
            scores = evaluator.compare(responses[1](), rewards(responses), rewards(baseline))
        else:
            scores = evaluator.score(responses[1](), baseline[1]())
        write_scores(out / SCORES, list(scores))

    return shop.store.stage("scores", {**inputs, "responses": responses[0], "baseline": baseline[0]}, build)


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    import pandas

    frame = pandas.DataFrame([dataclasses.astuple(s) for s in scores], columns=["metric", "prompt_id", "value"])
    frame.astype({"value": "float64"}).to_parquet(path, index=False)


def join_scores(shop: Workshop, stages: Sequence[Stage]) -> Stage:
    """The scores of several evaluators in one table."""

    def build(out: Path) -> None:
        import pandas

        pandas.concat([pandas.read_parquet(s.path / SCORES) for s in stages]).to_parquet(out / SCORES, index=False)

    return shop.store.stage("all_scores", {"parts": [s.content for s in stages]}, build)


def settings_of(plugin: Any) -> dict[str, Any]:
    """A plugin's settings as JSON-able values; for a class that is no dataclass, its attributes."""
    values = dataclasses.asdict(plugin) if dataclasses.is_dataclass(plugin) else dict(vars(plugin))
    return json.loads(json.dumps(values, default=str))


def _recipe(settings: Supervised, shop: Workshop, *, seed: int, label: str) -> dict[str, Any]:
    return {
        "total_examples": settings.examples,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "warmup": 0.05,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": seed,
        "label": label,
        "checkpoint_every": shop.checkpoint_every,
    }


def _examples(pairs: list[Pair], settings: SupervisedFineTuning) -> list[Example]:
    """What SFT imitates of some pairs."""
    examples = [Example(p.id, p.prompt, p.chosen) for p in pairs]
    if settings.replies == "both":
        examples += [Example(p.id, p.prompt, p.rejected) for p in pairs]
    return examples


def _heldout_loss(policy: Policy, heldout: list[Example]) -> list[float]:
    totals = policy.total_logps([(e.prompt.ids, e.response) for e in heldout])
    return _by_prompt(heldout, [-float(t) / len(e.response) for t, e in zip(totals, heldout, strict=True)])


def _by_prompt(rows: Sequence[Pair | Example], values: list[float]) -> list[float]:
    """Mean value of each prompt's rows: rows of one prompt are not independent."""
    groups: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        groups.setdefault(row.prompt.id, []).append(value)
    return [sum(v) / len(v) for v in groups.values()]


def _pairs_digest(pairs: Sequence[Pair]) -> str:
    return digest([[p.id, p.prompt.ids, p.chosen, p.rejected] for p in pairs])


def _source_digest(cls: type) -> str:
    """Hash of the file that defines a plugin, so that an edited plugin is trained anew."""
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""


def _version(library: str) -> str | None:
    """Version of an optional library; None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _width(checkpoint: Checkpoint) -> int:
    from transformers import AutoConfig

    return (
        AutoConfig.from_pretrained(str(checkpoint.path), trust_remote_code=remote_code_allowed())
        .get_text_config()
        .hidden_size
    )
