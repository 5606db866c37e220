"""The stages up to a trained policy: SFT, reward models, reference log-probs, cells.

Each is cached in the store under the hash of all it depends on: its settings, the contents of its inputs, and the
code that makes it. What trains is made by all processes of a run together, and saved by the first; all else by the
first alone.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..evaluators.reward_model import RewardModel
from ..methods.base import (
    Budget,
    Ledger,
    Pair,
    PairDataset,
    Prompt,
    PromptDataset,
    RatedReply,
    TrainingTask,
)
from ..methods.loop import fit
from ..methods.losses import reward_model as reward_model_loss
from ..methods.pairwise import sides_of
from ..methods.policy import Policy
from ..results import processes
from ..results.checkpoint import Checkpoint, merge_adapter, open_network
from ..results.integrity import digest_each
from ..results.known import write_known
from ..results.layout import count_tokens
from ..results.lazy import LazySequence, blocks
from ..results.model_files import remote_code_allowed
from ..results.records import InputError, Reward
from ..results.store import COST, POLICY, Stage
from .corpus import rows_digest
from .spec import Supervised, SupervisedFineTuning
from .workshop import SCORER, Workshop, code_digest, library_version, settings_of, source_digest

MODEL = "model"  # folder of a trained model within its stage
GATE = "gate.json"  # what a gate looks at, within the stage


@dataclass(frozen=True)
class Example:
    """One row of SFT: a prompt and the reply to imitate."""

    id: str
    """Of the pair it comes from."""
    prompt: Prompt
    response: tuple[int, ...]


def train_sft(
    shop: Workshop, base: Checkpoint, settings: SupervisedFineTuning, train: Sequence[Pair], heldout: Sequence[Pair]
) -> Stage:
    """Fine-tune the base on the replies of some pairs; the stage holds a plain model (LoRA merged) and gate.json.

    gate.json: mean negative log-likelihood a token of such replies to held-out prompts, base and SFT, one value a
    prompt. known.json: what SFT said of each.
    """
    examples, unseen = (_examples(pairs, settings) for pairs in (train, heldout))

    def build(out: Path) -> None:
        torch.manual_seed(0)
        policy = Policy(open_network(base.path, "lm", shop.tuning, trainable=True), base.tokenizer())
        gate = {"base": _losses(unseen, _logps(policy, unseen))}  # before the first step it is the base
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
        merge_adapter(policy.network).save_pretrained(out / MODEL)
        policy.tokenizer.save_pretrained(out / MODEL)
        saved = Policy.open(Checkpoint(out / MODEL, ""), shop.tuning, trainable=False)  # what lies on disk is judged
        logps = _logps(saved, unseen)
        gate["sft"] = _losses(unseen, logps)
        (out / GATE).write_text(json.dumps(gate))
        write_known(out / MODEL, [(e.prompt.ids, e.response) for e in unseen], logps)

    inputs = shop.inputs(
        base=base.key, settings=settings.model_dump(), train=rows_digest(train), heldout=rows_digest(heldout)
    )
    return shop.store.stage("sft", inputs, build, together=True)


def train_reward_model(
    shop: Workshop, sft: Checkpoint, settings: Supervised, train: Sequence[Pair], heldout: Sequence[Pair], seed: int
) -> Stage:
    """Fit a Bradley-Terry reward model from the SFT checkpoint; the stage holds the model and gate.json.

    gate.json: held-out pair accuracy, one value a prompt (ties count half). known.json: its scores of both sides of
    each pair.
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
        sides = LazySequence(2 * len(heldout), lambda place: sides_of(heldout[place // 2])[place % 2])
        scores = [score for block in blocks(sides, "held-out pairs") for score in model.score_all(block)]
        chosen, rejected = torch.tensor(scores).view(-1, 2).unbind(1)
        right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
        (out / GATE).write_text(json.dumps({"accuracy": _by_prompt(heldout, right.tolist())}))
        network.save(out / MODEL, model.tokenizer)
        write_known(out / MODEL, sides, scores)
        network.close()

    inputs = shop.inputs(
        sft=sft.key,
        settings=settings.model_dump(),
        train=rows_digest(train),
        heldout=rows_digest(heldout),
        seed=seed,
        scorer=code_digest(SCORER),
    )
    return shop.store.stage("reward_model", inputs, build, together=True)


def pair_dataset(shop: Workshop, sft: Checkpoint, pairs: Sequence[Pair]) -> PairDataset:
    """The training pairs, with reference log-probs that are computed (or found) when a method first asks for them."""

    def build(out: Path) -> None:
        reference = Policy.open(sft, shop.tuning, trainable=False)
        logps = [reference.total_logps([s for p in block for s in sides_of(p)]) for block in blocks(pairs, "reference")]
        chosen, rejected = torch.cat(logps).view(-1, 2).T.contiguous()
        save_file({"chosen": chosen.clone(), "rejected": rejected.clone()}, out / "reference.safetensors")

    @lru_cache
    def reference() -> tuple[Tensor, Tensor]:
        inputs = shop.inputs(sft=sft.key, pairs=rows_digest(pairs))
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
        source=source_digest(type(method)),
        settings=settings_of(method),
        libraries={name: library_version(name) for name in getattr(method, "libraries", ())},
        base=base.key,
        sft=sft.key,
        pairs=rows_digest(pairs.pairs),
        unpaired=rows_digest(unpaired),
        prompts=digest_each(p.id for p in prompts.prompts),
        max_new_tokens=prompts.max_new_tokens,
        reward=reward_model.key,
        scorer=code_digest(SCORER),
        budget=budget,
        seed=seed,
        along=along,
    )
    return shop.store.stage("train", inputs, build, together=True)


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


def _examples(pairs: Sequence[Pair], settings: SupervisedFineTuning) -> Sequence[Example]:
    """What SFT imitates of some pairs: the chosen replies, then the rejected ones if both are asked for."""

    def example(place: int) -> Example:
        pair = pairs[place % len(pairs)]
        return Example(pair.id, pair.prompt, pair.chosen if place < len(pairs) else pair.rejected)

    return LazySequence(len(pairs) * (2 if settings.replies == "both" else 1), example)


def _logps(policy: Policy, examples: Sequence[Example]) -> list[float]:
    found = (policy.total_logps([(e.prompt.ids, e.response) for e in block]).tolist() for block in blocks(examples))
    return [value for values in found for value in values]


def _losses(examples: Sequence[Example], logps: list[float]) -> list[float]:
    """Mean negative log-likelihood a token, one value a prompt."""
    return _by_prompt(examples, [-total / len(e.response) for e, total in zip(examples, logps, strict=True)])


def _by_prompt(rows: Sequence[Pair | Example], values: list[float]) -> list[float]:
    """Mean value of each prompt's rows: rows of one prompt are not independent."""
    groups: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        groups.setdefault(row.prompt.id, []).append(value)
    return [sum(v) / len(v) for v in groups.values()]


def _width(checkpoint: Checkpoint) -> int:
    from transformers import AutoConfig

    return (
        AutoConfig.from_pretrained(str(checkpoint.path), trust_remote_code=remote_code_allowed())
        .get_text_config()
        .hidden_size
    )
