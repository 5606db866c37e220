"""The stages up to a trained policy: SFT, reward models, reference log-probs, cells.

Each is cached in the store under the hash of all it depends on: its settings, the contents of its inputs, and the
code that makes it. What trains is made by all processes of a run together, and saved by the first; all else by the
first alone.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...errors import InputError
from ...models.checkpoint import Checkpoint
from ...models.policy import Policy
from ...models.reward_model import RewardModel
from ...results.integrity import digest, digest_each
from ...results.lazy import LazySequence
from ...results.records import Pair, RatedReply, Reward
from ...results.store import COST, POLICY, Stage
from ...runtime import processes
from ...training.contrast import with_contrast
from ...training.ledger import Ledger
from ...training.loop import Recipe
from ...training.reward_model import fit_reward_model
from ...training.sft import demonstrated, examples, fine_tune
from ...training.task import Budget, PairDataset, PromptDataset, TrainingTask, reference_logps, shuffled
from ..context import Workshop, functions_code, library_version, method_code, settings_of
from ..data.corpus import rows_digest
from ..definition.spec import Supervised, SupervisedFineTuning

REFERENCE = "reference.safetensors"


def train_sft(
    shop: Workshop,
    base: Checkpoint,
    settings: SupervisedFineTuning,
    train: Sequence[Pair],
    heldout: Sequence[Pair],
    demonstrations: Sequence[RatedReply] = (),
) -> Stage:
    """The stage in which the base is fine-tuned on the replies of some pairs; see training/sft.py.

    demonstrations: imitated in place of the pairs' replies, if there are some.
    """
    seen, unseen = (examples(pairs, both=settings.replies == "both") for pairs in (train, heldout))
    if demonstrations:
        seen = demonstrated(demonstrations)
    recipe = _recipe(settings, shop, seed=settings.seed, label="SFT")
    inputs = shop.inputs(
        base=base.key,
        settings=settings.model_dump(),
        train=rows_digest(demonstrations or train),
        heldout=rows_digest(heldout),
    )
    return shop.store.stage(
        "sft", inputs, lambda out: fine_tune(base, shop.tuning, recipe, seen, unseen, out), together=True
    )


def train_reward_model(
    shop: Workshop,
    sft: Checkpoint,
    settings: Supervised,
    train: Sequence[Pair],
    heldout: Sequence[Pair],
    seed: int,
    contrast: float = 0.0,
    longest: int = 0,
    start: Checkpoint | None = None,
) -> Stage:
    """The stage in which a reward model learns, from the SFT checkpoint on or from `start`; see
    training/reward_model.py.

    contrast: share of contrast pairs, which come on top of the settings' examples; longest: tokens of their replies.
    """
    recipe = _recipe(settings, shop, seed=seed, label=f"reward model {seed}")
    inputs = shop.inputs(
        sft=sft.key,
        settings={"examples": settings.examples, "lr": settings.lr, "batch_size": settings.batch_size},
        train=rows_digest(train),
        heldout=rows_digest(heldout),
        seed=seed,
    )
    if contrast:
        inputs |= {"contrast": contrast, "longest": longest}
        train = with_contrast(train, contrast, seed, longest)
        recipe = replace(recipe, examples=round(settings.examples / (1 - contrast)))
    if start:
        inputs |= {"start": start.key}
    return shop.store.stage(
        "reward_model",
        inputs,
        lambda out: fit_reward_model(start or sft, sft.tokenizer(), shop.tuning, recipe, train, heldout, out),
        together=True,
    )


def drawn_places(count: int, budget: int, seeds: Iterable[int]) -> list[int] | None:
    """The places, rising, of the pairs that trainings of these seeds draw within the budget, of so many pairs.

    None stands for all, where half of them or more are drawn: then one stage serves other seeds and budgets as well.
    """
    if 2 * budget >= count:
        return None
    places = {place for seed in seeds for place in islice(shuffled(count, seed), budget)}
    return sorted(places) if 2 * len(places) < count else None


def reference(shop: Workshop, sft: Checkpoint, pairs: Sequence[Pair], places: list[int] | None = None) -> Stage:
    """The stage of the pairs' log-probs under the SFT checkpoint, with cost.json; places: of those that are asked for,
    None for all. All processes share the work, those of a training, or the first one and others that wait for work."""
    are_here = not processes.are_waiting()
    asked = pairs if places is None else LazySequence(len(places), lambda i: pairs[places[i]])

    def build(out: Path) -> None:
        policy = Policy.open(sft, shop.tuning, trainable=False)
        ledger = Ledger.of(policy.network, out)
        chosen, rejected, ledger.scored_tokens = reference_logps(policy, asked, together=are_here)
        ledger.close()
        save_file({"chosen": chosen, "rejected": rejected}, out / REFERENCE)

    inputs = shop.inputs(sft=sft.key, pairs=rows_digest(pairs))
    if places is not None:
        inputs |= {"places": digest(places), "drawn": len(places)}
    return shop.store.stage("reference", inputs, build, together=are_here)


def pair_dataset(
    shop: Workshop, sft: Checkpoint, pairs: Sequence[Pair], places: list[int] | None = None
) -> PairDataset:
    """The training pairs, with reference log-probs that are computed (or found) when a method first asks for them.

    places: see `reference`; the log-probs of all other pairs are NaN.
    """

    @lru_cache
    def logps() -> tuple[Tensor, Tensor]:
        sides = load_file(reference(shop, sft, pairs, places).path / REFERENCE)
        if places is None:
            return sides["chosen"], sides["rejected"]
        chosen, rejected = (torch.full((len(pairs),), math.nan) for _ in range(2))
        chosen[places], rejected[places] = sides["chosen"], sides["rejected"]
        return chosen, rejected

    return PairDataset(pairs, logps)


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
    reward: Callable[[], Reward | None],
    reward_model: Checkpoint | None,
    more_reward_models: Sequence[Checkpoint] = (),
    budget: int,
    seed: int,
    along: int = 0,
    reward_key: str | None = None,
) -> Stage:
    """Train one method with one seed; the stage holds policy/, metrics.jsonl and cost.json, and along/ if asked for.

    reward_model: the one behind the reward, where it was trained here; else reward_key has the reward's key, None for
    a method that does not ask it.
    """

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
            more_rewards=[RewardModel.open(model.path, shop.tuning) for model in more_reward_models],
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
        cost = json.loads((out / COST).read_text(encoding="utf-8")) if (out / COST).exists() else {}
        # a ledger's own seconds go over an interruption and leave out what is spent on looking
        (out / COST).write_text(json.dumps({"seconds": seconds, **cost}, indent=2))

    inputs = shop.inputs(
        method=name,
        source=method_code(type(method)),
        settings=settings_of(method),
        libraries={name: library_version(name) for name in getattr(method, "libraries", ())},
        base=base.key,
        sft=sft.key,
        pairs=rows_digest(pairs.pairs),
        unpaired=rows_digest(unpaired),
        prompts=digest_each(p.id for p in prompts.prompts),
        max_new_tokens=prompts.max_new_tokens,
        reward=reward_model.key if reward_model else reward_key,
        budget=budget,
        seed=seed,
        along=along,
        **({"more_rewards": [model.key for model in more_reward_models]} if more_reward_models else {}),
        **({"functions": functions_code(method.functions)} if getattr(method, "functions", ()) else {}),
    )
    return shop.store.stage("train", inputs, build, together=True)


def _recipe(settings: Supervised, shop: Workshop, *, seed: int, label: str) -> Recipe:
    return Recipe(
        examples=settings.examples,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=seed,
        label=label,
        checkpoint_every=shop.checkpoint_every,
    )
