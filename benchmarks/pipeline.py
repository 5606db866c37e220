"""The stages of one benchmark with their inputs filled in: each is made from those before it, or found on disk."""

import copy
from dataclasses import replace
from typing import Any

from ..results.checkpoint import Checkpoint
from ..results.store import Looking, Stage
from . import panel, scoring, stages
from .along import score_along
from .answers import Choice, generate, join_scores
from .corpus import Corpus
from .spec import BenchmarkSpec
from .stages import MODEL
from .workshop import Workshop

ROLES = ("training", "evaluation")  # of the reward models, and the splits that they learn from


class Pipeline:
    """What a benchmark makes of its base model: SFT, reward models, then policies, their responses and scores.

    SFT's stage is to be handed to `start_from`, the reward models' to `share`, before what is made from them.
    """

    sft: Checkpoint
    panel: panel.Panel

    def __init__(
        self, spec: BenchmarkSpec, base: Checkpoint, shop: Workshop, corpus: Corpus, scored_by: panel.Settings
    ):
        self.spec, self.base, self.shop, self.corpus, self.scored_by = spec, base, shop, corpus, scored_by
        self.prompts = corpus.prompts(corpus.training, spec.max_response_tokens)
        self.asked = corpus.prompts(  # the prompts that every policy answers
            corpus.heldout, spec.max_response_tokens, limit=spec.evaluation.prompts
        )

    def looking(self) -> "Pipeline":
        """The same with a store that makes nothing: it raises NotMade for what is not on disk."""
        other = copy.copy(self)
        other.shop = replace(self.shop, store=Looking(self.shop.store.root))
        return other

    def train_sft(self) -> Stage:
        return stages.train_sft(self.shop, self.base, self.spec.sft, self.corpus.sft, self.corpus.heldout)

    def start_from(self, sft: Stage) -> None:
        """The SFT checkpoint from which all goes on."""
        self.sft = Checkpoint(sft.path / MODEL, sft.content)
        self.pairs = stages.pair_dataset(self.shop, self.sft, self.corpus.training)

    def train_reward_model(self, role: str) -> Stage:
        pairs, seed = getattr(self.corpus, role), 1 + ROLES.index(role)
        return stages.train_reward_model(self.shop, self.sft, self.spec.reward_model, pairs, self.corpus.heldout, seed)

    def share(self, reward_models: dict[str, Stage]) -> None:
        """The reward models by role, which every cell is given."""
        models = {role: Checkpoint(made.path / MODEL, made.content) for role, made in reward_models.items()}
        self.panel = panel.Panel(self.spec, self.scored_by, self.shop, self.corpus, models)

    def train(self, name: str, method: Any, seed: int) -> Stage:
        return stages.train_cell(
            self.shop,
            name,
            method,
            base=self.base,
            sft=self.sft,
            pairs=self.pairs,
            unpaired=self.corpus.unpaired,
            prompts=self.prompts,
            reward=lambda: self.panel.training_reward,
            reward_model=self.panel.reward_models["training"],
            budget=self.spec.budget,
            seed=seed,
            along=self.spec.evaluation.along,
        )

    def generate(self, policy: Checkpoint | None, seed: int, method: Any = None) -> Stage:
        """Answers to the evaluation's prompts; policy None: by the SFT checkpoint."""
        return generate(
            self.shop,
            self.sft,
            policy,
            self.asked,
            temperature=self.spec.evaluation.temperature,
            seed=seed,
            choice=self._choice(method),
        )

    def _choice(self, method: Any) -> Choice | None:
        """How a method that answers with the best of several responses chooses."""
        count = getattr(method, "responses_per_answer", 1)
        key = self.panel.reward_models["training"].key
        return Choice(count, lambda: self.panel.training_reward, key) if count > 1 else None

    def score(self, evaluator: str, answers: Stage, baseline: Stage, policy: Checkpoint | None) -> Stage:
        """One evaluator's scores of a policy (None: SFT)."""
        made, needs = self.panel.evaluators[evaluator]
        spec = self.spec
        limits = scoring.Limits(spec.max_prompt_tokens, spec.max_response_tokens, spec.evaluation.temperature)
        return scoring.score(
            self.shop, evaluator, made, needs, answers, baseline, sft=self.sft, policy=policy, limits=limits
        )

    def scores(self, answers: Stage, baseline: Stage, policy: Checkpoint | None) -> Stage:
        """Every evaluator's scores of a policy (None: SFT) in one table."""
        parts = [self.score(name, answers, baseline, policy) for name in self.panel.evaluators]
        return join_scores(self.shop, parts)

    def along(self, trained: Stage, seed: int, answers: Stage, baseline: Stage) -> Stage:
        """The scores of the checkpoints that a method saved along training."""
        return score_along(
            self.shop,
            self.panel.along,
            trained,
            lambda policy: scoring.responses(self.generate(policy, seed)),
            scoring.responses(answers),
            scoring.responses(baseline),
        )
