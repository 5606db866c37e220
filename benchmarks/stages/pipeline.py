"""The stages of one benchmark with their inputs filled in: each is made from those before it, or found on disk."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...models.checkpoint import Checkpoint
from ...models.sampling import Choice
from ...results.store import MODEL, Looking, Stage
from ...training.task import PairDataset
from ..context import Workshop
from ..data.corpus import Corpus
from ..definition.spec import BenchmarkSpec
from . import trained
from .along import score_along
from .gates import check_reward_models_apart
from .open_policy import Limits
from .responses import generate, read_responses
from .scorers import Scorers, ScorerSettings
from .scores import join_scores, score, score_versus

SEEDS = {"training": 1, "evaluation": 2, "selection": 3}  # of the reward models, by the splits that they learn from


ENSEMBLE = 1_000_000  # between the seeds of the reward models of one ensemble, in `reward_model.seed`


def more_reward_models(method: Any) -> range:
    """Numbers of the training reward models that a method wants beside the first."""
    return range(2, getattr(method, "reward_models", 1) + 1)


@dataclass(frozen=True)
class Use:
    """The splits that policies are looked at with."""

    prompts: str
    """Its prompts are answered."""
    scorer: str
    """Its pairs teach the reward model that scores."""

    @property
    def roles(self) -> tuple[str, str]:
        """The reward models that there are: the one that trains and the one that scores."""
        return "training", self.scorer


EVALUATION, SELECTION = Use("heldout", "evaluation"), Use("tuning", "selection")


class Pipeline:
    """The stages that a benchmark makes of its base model: SFT, reward models, policies, their responses and scores.

    They are to be made in their order, that of `steps.py`; a stage is known here once it is made or found.
    """

    sft: Checkpoint
    pairs: PairDataset
    scorers: Scorers

    def __init__(
        self,
        spec: BenchmarkSpec,
        base: Checkpoint,
        shop: Workshop,
        corpus: Corpus,
        scored_by: ScorerSettings,
        use: Use = EVALUATION,
    ):
        self.spec, self.base, self.shop, self.corpus, self.scored_by = spec, base, shop, corpus, scored_by
        self.use = use
        self.reward_models: dict[str, Stage] = {}  # by role
        self.ensemble: dict[int, Stage] = {}  # training reward models from the second on, by number
        self.prompts = corpus.prompts(corpus.training, spec.max_response_tokens)
        self.asked = corpus.prompts(  # the prompts that every policy answers
            getattr(corpus, use.prompts), spec.max_response_tokens, limit=spec.evaluation.prompts
        )

    def looking(self) -> "Pipeline":
        """The same with a store that makes nothing: it raises NotMade for what is not on disk."""
        other = copy.copy(self)
        other.shop = replace(self.shop, store=Looking(self.shop.store.root))
        return other

    def train_sft(self) -> Stage:
        """The SFT checkpoint, from which all goes on."""
        made = trained.train_sft(self.shop, self.base, self.spec.sft, self.corpus.sft, self.corpus.heldout)
        self.sft = Checkpoint(made.path / MODEL, made.content)
        self.pairs = trained.pair_dataset(self.shop, self.sft, self.corpus.training)
        return made

    def train_reward_model(self, role: str) -> Stage:
        """A reward model; with the last of them the scorers are there. InputError where they have seed or pairs in
        common."""
        settings = self.spec.reward_model
        pairs, seed = getattr(self.corpus, role), SEEDS[role] + len(SEEDS) * settings.seed
        heldout = self.corpus.tuning if role == SELECTION.scorer else self.corpus.heldout
        if role == "training" and settings.pairs:
            pairs = pairs.some(settings.pairs)
        contrast, longest = settings.contrast_of(role), self.spec.max_response_tokens
        made = trained.train_reward_model(
            self.shop, self.sft, settings, pairs, heldout, seed, contrast=contrast, longest=longest
        )
        self.reward_models = {**self.reward_models, role: made}
        if len(self.reward_models) == len(self.use.roles):
            check_reward_models_apart(self.reward_models)
            models = {r: Checkpoint(stage.path / MODEL, stage.content) for r, stage in self.reward_models.items()}
            self.scorers = Scorers(self.spec, self.scored_by, self.shop, self.corpus, models, self.use.prompts)
        return made

    def train_another_reward_model(self, number: int) -> Stage:
        """A training reward model like the first but for its seed, for methods that want several; number: from 2 on."""
        settings, role = self.spec.reward_model, "training"
        pairs = self.corpus.training.some(settings.pairs) if settings.pairs else self.corpus.training
        seed = SEEDS[role] + len(SEEDS) * (settings.seed + ENSEMBLE * (number - 1))
        contrast, longest = settings.contrast_of(role), self.spec.max_response_tokens
        made = trained.train_reward_model(
            self.shop, self.sft, settings, pairs, self.corpus.heldout, seed, contrast=contrast, longest=longest
        )
        self.ensemble = {**self.ensemble, number: made}
        return made

    def reference(self) -> Stage:
        """Log-probs of the training pairs under the SFT checkpoint."""
        return trained.reference(self.shop, self.sft, self.corpus.training)

    def train(self, name: str, method: Any, seed: int) -> Stage:
        return trained.train_cell(
            self.shop,
            name,
            method,
            base=self.base,
            sft=self.sft,
            pairs=self.pairs,
            unpaired=self.corpus.unpaired,
            prompts=self.prompts,
            reward=lambda: self.scorers.training_reward,
            reward_model=self.scorers.reward_models["training"],
            more_reward_models=[
                Checkpoint(self.ensemble[number].path / MODEL, self.ensemble[number].content)
                for number in more_reward_models(method)
            ],
            budget=self.spec.budget,
            seed=seed,
            along=self.spec.evaluation.along,
        )

    def generate(self, policy: Checkpoint | None, seed: int, method: Any = None) -> Stage:
        """Responses to the evaluation's prompts; policy None: of the SFT checkpoint."""
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
        """The choice of a method that gives the best of several responses; None for one that gives the one it draws."""
        count = getattr(method, "responses_per_answer", 1)
        key = self.scorers.reward_models["training"].key
        return Choice(count, lambda: self.scorers.training_reward, key) if count > 1 else None

    def score(self, evaluator: str, responses: Stage, baseline: Stage, policy: Checkpoint | None) -> Stage:
        """One evaluator's scores of a policy (None: SFT)."""
        made, needs = self.scorers.evaluators[evaluator]
        spec = self.spec
        limits = Limits(spec.max_prompt_tokens, spec.max_response_tokens, spec.evaluation.temperature)
        return score(self.shop, evaluator, made, needs, responses, baseline, sft=self.sft, policy=policy, limits=limits)

    def versus(self, responses: Stage, others: Mapping[str, Stage]) -> Stage:
        """The judge's direct comparisons of a row's responses with those of other rows, by their labels."""
        return score_versus(self.shop, self.scorers.judge, responses, others)

    def join(self, scores: Mapping[str, Stage]) -> Stage:
        """The scores of a policy by all evaluators in one table."""
        return join_scores(self.shop, list(scores.values()))

    def along(self, cell: Stage, seed: int, responses: Stage, baseline: Stage) -> Stage:
        """The scores of the checkpoints that a method saved along training."""
        return score_along(
            self.shop,
            self.scorers.along,
            cell,
            lambda policy: read_responses(self.generate(policy, seed)),
            read_responses(responses),
            read_responses(baseline),
        )
