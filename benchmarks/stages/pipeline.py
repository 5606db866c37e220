"""The stages of one benchmark with their inputs filled in: each is made from those before it, or found on disk."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...models.chat import opens_thoughts
from ...models.checkpoint import Checkpoint
from ...models.elsewhere import Elsewhere
from ...models.sampling import Choice
from ...results.records import Reward
from ...results.store import MODEL, Looking, Stage
from ...training.task import PairDataset, PromptDataset
from ..context import Workshop
from ..data.corpus import Corpus
from ..definition.spec import BY_REWARD_MODEL, BenchmarkSpec
from . import trained
from .along import score_along
from .gates import check_reward_models_apart
from .open_policy import Limits
from .picked import pick_checkpoint
from .responses import Responses, generate, read_answers, read_responses, try_elsewhere
from .reward_audit import score_pairs
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
    """What the corpus calls the rows whose prompts are answered."""
    pairs: str
    """Its pairs test policies and the reward model that scores."""
    scorer: str
    """Its pairs teach the reward model that scores."""

    @property
    def roles(self) -> tuple[str, str]:
        """The reward models that there are: the one that trains and the one that scores."""
        return "training", self.scorer


EVALUATION, SELECTION = Use("questions", "heldout", "evaluation"), Use("tuning", "tuning", "selection")


def roles_of(spec: BenchmarkSpec, use: Use) -> tuple[str, ...]:
    """The reward models of a run: those of its use, and the one for selection where checkpoints are picked by it.

    None for training where the benchmark brings a reward.
    """
    picks = spec.evaluation.checkpoint.by == BY_REWARD_MODEL
    found = dict.fromkeys([*use.roles, *([SELECTION.scorer] if picks else [])])
    return tuple(role for role in found if role != "training" or spec.training_reward is None)


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
        starts: Mapping[str, Checkpoint] | None = None,
        seeds: Sequence[int] = (),
    ):
        """starts: models that reward models start from, by role, where that is not the SFT checkpoint. seeds: of the
        trainings, which tell the pairs that are drawn; none where methods may draw any."""
        self.spec, self.base, self.shop, self.corpus, self.scored_by = spec, base, shop, corpus, scored_by
        self.use, self.starts = use, starts or {}
        self.reward_models: dict[str, Stage] = {}  # by role
        self.brought = scored_by.training
        self.prompts = corpus.prompts(corpus.practice, spec.max_response_tokens)
        self.ensemble: dict[int, Stage] = {}  # training reward models from the second on, by number
        self.asked = corpus.prompts(  # the prompts that every policy answers
            getattr(corpus, use.prompts), spec.max_response_tokens, limit=spec.evaluation.prompts
        )
        pairs = len(corpus.training)
        self.drawn = trained.drawn_places(pairs, spec.budget, seeds) if seeds else None
        if spec.sft is None:
            self._start_from(base)

    def looking(self, store: type[Looking] = Looking) -> "Pipeline":
        """The same with a store that makes nothing: it raises NotMade for what is not on disk."""
        other = copy.copy(self)
        other.shop = replace(self.shop, store=store(self.shop.store.root))
        return other

    def train_sft(self) -> Stage:
        """The SFT checkpoint, from which all goes on."""
        assert self.spec.sft  # else there is no such step
        made = trained.train_sft(
            self.shop, self.base, self.spec.sft, self.corpus.sft, self.corpus.heldout, self.corpus.demonstrations
        )
        self._start_from(Checkpoint(made.path / MODEL, made.content))
        return made

    def _start_from(self, sft: Checkpoint) -> None:
        self.sft, self.pairs = sft, trained.pair_dataset(self.shop, sft, self.corpus.training, self.drawn)

    def read_training_reward(self) -> Stage:
        """What the reward that the benchmark brings says of the held-out pairs."""
        assert self.brought  # else there is no such step
        evaluator, tokenizer = self.brought.evaluator(self.shop.tuning.device), self.base.tokenizer()
        return score_pairs(self.shop, evaluator, self.brought.key, tokenizer, self.corpus.labelled)

    def train_reward_model(self, role: str) -> Stage:
        """A reward model; with the last of them the scorers are there. InputError where they have seed or pairs in
        common."""
        made = self._reward_model(role, SEEDS[role] + len(SEEDS) * self.spec.reward_model.seed)
        self.reward_models = {**self.reward_models, role: made}
        if len(self.reward_models) == len(roles_of(self.spec, self.use)):
            check_reward_models_apart(self.reward_models)
            models = {role: model for role, model in self.models.items() if role in self.use.roles}
            self.scorers = Scorers(self.spec, self.scored_by, self.shop, self.corpus, models, self.use.pairs)
        return made

    def _reward_model(self, role: str, seed: int) -> Stage:
        settings, pairs = self.spec.reward_model, getattr(self.corpus, role)
        if most := settings.pairs_of(role):
            pairs = pairs.some(most)
        return trained.train_reward_model(
            self.shop,
            self.sft,
            settings,
            pairs,
            self.corpus.tuning if role == SELECTION.scorer else self.corpus.heldout,
            seed,
            contrast=settings.contrast_of(role),
            longest=self.spec.max_response_tokens,
            start=self.starts.get(role),
        )

    @property
    def models(self) -> dict[str, Checkpoint]:
        """The reward models, by role."""
        return {role: Checkpoint(made.path / MODEL, made.content) for role, made in self.reward_models.items()}

    def train_another_reward_model(self, number: int) -> Stage:
        """A training reward model like the first but for its seed, for methods that want several; number: from 2 on."""
        seed = SEEDS["training"] + len(SEEDS) * (self.spec.reward_model.seed + ENSEMBLE * (number - 1))
        made = self._reward_model("training", seed)
        self.ensemble = {**self.ensemble, number: made}
        return made

    def reference(self) -> Stage:
        """Log-probs of the training pairs under the SFT checkpoint: of those that are drawn."""
        return trained.reference(self.shop, self.sft, self.corpus.training, self.drawn)

    def train(self, name: str, method: Any, seed: int) -> Stage:
        """A policy; a reward that the benchmark brings is there for methods that ask it alone."""
        needs_reward = getattr(method, "needs_reward", False)
        is_asked = not self.brought or needs_reward

        def reward() -> Reward | None:
            if needs_reward:
                return self.scorers.training_reward
            self.scorers.let_go_of_training_reward()  # an earlier cell's, which would take memory for nothing
            return (lambda generations: self.scorers.training_reward(generations)) if is_asked else None

        return trained.train_cell(
            self.shop,
            name,
            method,
            base=self.base,
            sft=self.sft,
            pairs=self.pairs,
            unpaired=self.corpus.unpaired,
            prompts=self.prompts,
            reward=reward,
            reward_model=self.scorers.reward_models.get("training"),
            more_reward_models=[
                Checkpoint(self.ensemble[number].path / MODEL, self.ensemble[number].content)
                for number in more_reward_models(method)
            ],
            budget=self.spec.budget,
            seed=seed,
            along=self.spec.evaluation.along,
            reward_key=self.brought.key if self.brought and is_asked else None,
        )

    def try_elsewhere(self, name: str, policy: Elsewhere) -> Stage:
        """Open a policy that was trained elsewhere and see that it can answer, before anything trains."""
        return try_elsewhere(self.shop, name, policy, self.asked)

    def generate(self, policy: Checkpoint | None, seed: int, method: Any = None) -> Stage:
        """Responses to the evaluation's prompts; policy None: of the SFT checkpoint."""
        return self._answers(policy, seed, self.asked, self._choice(method))

    def _answers(
        self, policy: Checkpoint | None, seed: int, prompts: PromptDataset, choice: Choice | None = None
    ) -> Stage:
        temperature = self.spec.evaluation.temperature
        return generate(self.shop, self.sft, policy, prompts, temperature=temperature, seed=seed, choice=choice)

    def _choice(self, method: Any) -> Choice | None:
        """The choice of a method that gives the best of several responses; None for one that gives the one it draws."""
        if (count := getattr(method, "responses_per_answer", 1)) == 1:
            return None
        key = self.brought.key if self.brought else self.scorers.reward_models["training"].key
        return Choice(count, lambda: self.scorers.training_reward, key, is_network=not self.brought)

    def score(self, evaluator: str, responses: Stage, baseline: Stage, policy: Checkpoint | None) -> Stage:
        """One evaluator's scores of a policy (None: SFT)."""
        made, needs = self.scorers.evaluators[evaluator]
        spec = self.spec
        limits = Limits(spec.max_prompt_tokens, spec.max_response_tokens, spec.evaluation.temperature)
        return score(
            self.shop,
            evaluator,
            made,
            needs,
            responses,
            baseline,
            sft=self.sft,
            policy=policy,
            limits=limits,
            has_gate=spec.sft is not None,
            read=self._seen,
        )

    def _seen(self, responses: Stage) -> Responses:
        """Responses as scorers see them."""
        if not self.spec.evaluation.without_thoughts:
            return read_responses(responses)
        return read_answers(responses, opens_thoughts(self.base.tokenizer()))

    def versus(self, responses: Stage, others: Mapping[str, Stage]) -> Stage:
        """The judge's direct comparisons of a row's responses with those of other rows, by their labels."""
        return score_versus(self.shop, self.scorers.judge, responses, others, self._seen)

    def join(self, scores: Mapping[str, Stage]) -> Stage:
        """The scores of a policy by all evaluators in one table."""
        return join_scores(self.shop, list(scores.values()))

    def pick(self, cell: Stage, seed: int) -> Stage:
        """The checkpoint of a training that is evaluated, by the benchmark's rule."""
        asked = self.corpus.prompts(self.corpus.tuning, self.spec.max_response_tokens, self.spec.evaluation.prompts)

        def answered(policy: Checkpoint | None) -> Responses:
            return self._seen(self._answers(policy, seed, asked))

        rule, model = self.spec.evaluation.checkpoint, self.reward_models.get(SELECTION.scorer)
        return pick_checkpoint(self.shop, rule, cell, answered, model if rule.by == BY_REWARD_MODEL else None)

    def along(self, cell: Stage, seed: int, baseline: Stage) -> Stage:
        """The scores of the checkpoints that a method saved along training."""
        return score_along(
            self.shop,
            self.scorers.along,
            cell,
            lambda policy: self._seen(self.generate(policy, seed)),
            self._seen(baseline),
        )
