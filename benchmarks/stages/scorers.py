"""The scorers: a benchmark's evaluators, each given what its class says it needs, and their reward models."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, nearest
from ...evaluators.base import Traits, traits_of
from ...evaluators.divergence import Divergence
from ...evaluators.judge import OPENAI
from ...evaluators.judge_question import read_template
from ...evaluators.reward_function import RewardFunction
from ...evaluators.reward_model import RewardModelWinRate
from ...models.checkpoint import Checkpoint
from ...models.find import find_model
from ...models.reward_model import RewardModel, check_classifier
from ...models.tuning import Tuning
from ...results.integrity import digest, digest_each
from ...results.records import LabelledPair, Reward
from ...results.store import Store, folder_digest
from ...runtime.device import kind_of
from ..context import Workshop, function_code
from ..data.corpus import Corpus
from ..definition.options import option_of
from ..definition.plugins import Where, available, build, load, with_given
from ..definition.spec import BenchmarkSpec
from ..judging.bill import most
from . import reward_audit
from .along import DISTANCE, TRAINING, TRAINING_LABEL
from .training_reward import TrainingReward, find_training_reward

ALLOWED = "allow_training_model"  # the setting that lets the training reward model evaluate
Given = dict[str, Any]  # what the benchmark fills in, by the name of the constructor's argument
Keys = dict[str, str]  # of the same


@dataclass(frozen=True)
class ScorerSettings:
    """The evaluators as the benchmark's settings have them, before it fills in its part."""

    evaluators: dict[str, Any]
    reward_models: dict[str, Checkpoint]
    """The user's own, by the evaluator whose settings name it."""
    models: dict[str, Checkpoint]
    """The local models that evaluators ask, as the settings name them; an endpoint has none."""
    training: TrainingReward | None = None
    """The reward that methods are trained on, where the benchmark brings one."""

    @property
    def traits(self) -> dict[str, Traits]:
        return {name: traits_of(evaluator) for name, evaluator in self.evaluators.items()}

    @property
    def judge(self) -> Any | None:
        """The run's judge, if it has one."""
        return next((self.evaluators[name] for name, traits in self.traits.items() if traits.is_judge), None)

    @property
    def names(self) -> dict[str, bool]:
        """Evaluators that score each cell, and whether each is called on every run; such evaluators come last."""
        found = {name: traits.keeps_answers for name, traits in self.traits.items()}
        found |= {TRAINING: False} if self.beside_training else {}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    @property
    def beside_training(self) -> str | None:
        """The first evaluator beside which the training reward model scores as well."""
        return next((name for name, traits in self.traits.items() if traits.compares_with_training), None)

    @property
    def evaluated_by(self) -> str | None:
        """The hash of the user's reward models that evaluate; None where the benchmark's own does."""
        keys = sorted({own.key for own in self.reward_models.values()})
        return digest(keys) if len(keys) > 1 else next(iter(keys), None)


def check_settings(spec: BenchmarkSpec, tuning: Tuning) -> ScorerSettings:
    """Construct every evaluator once with what it will be given, so that a wrong setting is told at the start."""
    evaluators: dict[str, Any] = {}
    own: dict[str, Checkpoint] = {}
    models: dict[str, Checkpoint] = {}
    for name, settings in spec.evaluators.items():
        if name not in (known := available("evaluators")):
            place = spec.place("evaluators", name)
            raise InputError(f"{place}: there is no evaluator {name!r}; {nearest(name, known)}")
        traits = traits_of(load("evaluators", name))
        given: Given = {}
        if traits.needs_pairs:
            given["pairs"] = ()
        if traits.needs_reward_model and "model" in settings:
            own[name] = find_model(settings["model"], option_of(name))
            check_classifier(str(own[name].path))
        elif traits.needs_reward_model:
            given |= {"model": "(trained by the benchmark)", "tuning": tuning}
        made = build("evaluators", name, {**given, **settings}, _where(spec, name))
        if traits.asks_models:
            models |= {m: find_model(m, option_of(name)) for m in made.models if not m.startswith(OPENAI)}
        evaluators[name] = made
    judges = [name for name, made in evaluators.items() if traits_of(made).is_judge]
    if len(judges) > 1:
        raise InputError(
            f"{spec.place('evaluators', judges[1])}: {' and '.join(judges)} would both be the judge; name one of them, "
            f"with several models for a panel"
        )
    training = find_training_reward(spec, evaluators)
    if training and training.model:
        training_stamps(spec, own, training.model)  # told now, before anything trains
    return ScorerSettings(evaluators, own, models, training)


def cost_of_judging(spec: BenchmarkSpec, settings: ScorerSettings, tokenizer: Any, rows: int, seeds: int) -> str | None:
    """The most that the judge's endpoint can cost, in words; None without a judge or with local ones alone."""
    if (judge := settings.judge) is None:
        return None
    question = max(len(tokenizer(read_template(name))["input_ids"]) for name in (judge.prompt, *judge.facets))
    question += spec.max_prompt_tokens + 2 * spec.max_response_tokens
    return most(judge, rows, seeds, spec.evaluation.prompts, question)


def identities(spec: BenchmarkSpec, settings: ScorerSettings) -> dict[str, Any]:
    """By name what determines the scores of each evaluator, beside what the contract says."""
    return {name: _identity(given, settings.traits[name], settings.models) for name, given in spec.evaluators.items()}


def _identity(settings: Mapping[str, Any], traits: Traits, found: Mapping[str, Checkpoint]) -> dict[str, Any]:
    known = settings if traits.determined_by is None else traits.determined_by
    kept = {name: settings[name] for name in known if name in settings}
    if traits.calls:
        kept["code"] = digest([function_code(name) for name in traits.calls])
    if traits.asks_models:
        models = _named(settings["model"])
        kept |= {"model": models, "weights": {m: found[m].key for m in models if m in found}}
    return kept


def _named(model: Any) -> list[str]:
    """The models that a setting names: one, or a list."""
    return [model] if isinstance(model, str) else list(model)


def given_models(settings: Mapping[str, Any], found: Mapping[str, Checkpoint], device: str, root: Path) -> Given:
    """An evaluator's models: the folders of local ones, the device, the place of its answers."""
    folders = tuple(str(found[m].path) if m in found else m for m in _named(settings["model"]))
    return {"model": folders, "device": settings.get("device", device), "cache": Store(root).verdicts}


def judge_of(spec: BenchmarkSpec, settings: ScorerSettings, device: str, root: Path) -> Any | None:
    """The run's judge with the folders of its models, before any reward model is there; None without one."""
    if not (name := next((name for name, traits in settings.traits.items() if traits.is_judge), None)):
        return None
    given = given_models(spec.evaluators[name], settings.models, device, root)
    return with_given(settings.evaluators[name], spec.evaluators[name], given)


def _where(spec: BenchmarkSpec, name: str) -> Where:
    return lambda location: f"{spec.place('evaluators', name, *location)}, evaluators.{name}"


class Scorers:
    """The evaluators of a run whose reward models are there.

    InputError where the reward model that evaluates is the one that trains, or has seen its prompts, unless that is
    forced: then every page says so (`stamps`).
    """

    def __init__(
        self,
        spec: BenchmarkSpec,
        settings: ScorerSettings,
        shop: Workshop,
        corpus: Corpus,
        reward_models: dict[str, Checkpoint],
        pairs: str,
    ):
        """reward_models: those that were trained here, by role, the one that scores last. pairs: the split of those
        that evaluators are given."""
        self.spec, self.settings, self.shop, self.corpus, self.pairs = spec, settings, shop, corpus, pairs
        self.reward_models = reward_models
        self.scorer = [*reward_models][-1]
        self._check_splits()
        training = settings.training.model if settings.training else _by_content(reward_models["training"])
        self.stamps = training_stamps(spec, settings.reward_models, training) if training else []

    @cached_property
    def training_reward(self) -> Reward:
        """The reward that methods are trained on, in memory."""
        if self.settings.training:
            return self.settings.training.open(self.shop.tuning.device)
        return RewardModel.open(self.reward_models["training"].path, self.shop.tuning)

    def let_go_of_training_reward(self) -> None:
        """Take it out of memory until it is asked for again."""
        if isinstance(known := self.__dict__.pop("training_reward", None), RewardModel):
            known.network.close()

    @cached_property
    def evaluators(self) -> dict[str, tuple[Any, Keys]]:
        """Each evaluator with the keys of what the benchmark fills in."""
        found = {}
        for name, checked in self.settings.evaluators.items():
            given, keys = self._given(name)
            found[name] = with_given(checked, self.spec.evaluators[name], given), keys
            if name == self.settings.beside_training:
                found[TRAINING] = self._training_reward_model()
        return found

    @property
    def judge(self) -> Any | None:
        """The run's judge, if it has one."""
        return next((made for made, _ in self.evaluators.values() if traits_of(made).is_judge), None)

    @property
    def along(self) -> dict[str, tuple[Any, Keys]]:
        """The evaluators that score checkpoints along training: those that say so, KL, and what was optimized."""
        scorers = {name: self.evaluators[name] for name, traits in self.settings.traits.items() if traits.scores_along}
        return scorers | {DISTANCE: (Divergence(), {}), TRAINING: self._training_reward_model()}

    def audit_reward_models(
        self, tokenizer: Any, external: tuple[str, list[LabelledPair], int] | None
    ) -> dict[str, Any]:
        """For summary.json: both reward models on held-out pairs and on those from elsewhere."""
        models: dict[str, tuple[RewardModelWinRate | RewardFunction, str]] = {}
        if brought := self.settings.training:
            models["training"] = brought.evaluator(self.shop.tuning.device), brought.key
        for role, made in self.reward_models.items():
            models[role] = RewardModelWinRate(str(made.path), self.shop.tuning), made.key
        for name, own in list(self.settings.reward_models.items())[:1]:
            device = self._given(name)[0]["device"]
            models["evaluation"] = RewardModelWinRate(str(own.path), device=device), own.key
        return reward_audit.audit(self.shop, models, tokenizer, self.corpus.labelled, external)

    def _given(self, name: str) -> tuple[Given, Keys]:
        """The inputs that an evaluator says it needs, and their keys."""
        traits, settings = self.settings.traits[name], self.spec.evaluators[name]
        device = self.shop.tuning.device
        given: Given = {}
        keys: Keys = {}
        if traits.needs_pairs:
            given["pairs"] = self.corpus.labelled_of(self.pairs)
            keys["pairs"] = digest_each(dataclasses.asdict(pair) for pair in given["pairs"])
        if own := self.settings.reward_models.get(name):
            given |= {"model": str(own.path), "device": settings.get("device", device)}
            keys |= {"model": own.key, "device": kind_of(given["device"])}
        elif traits.needs_reward_model:
            more, of = self._reward_model(self.scorer)
            given, keys = given | more, keys | of
        if traits.asks_models:
            given |= given_models(settings, self.settings.models, device, self.shop.store.root)
            asked = [self.settings.models[m].key if m in self.settings.models else m for m in _named(settings["model"])]
            keys |= {"model": digest(asked), "cache": ""}  # no score depends on the folder
        return given, keys

    def _reward_model(self, role: str) -> tuple[Given, Keys]:
        """One of the benchmark's reward models, as an evaluator is given it, and the keys of that."""
        checkpoint = self.reward_models[role]
        given = {"model": str(checkpoint.path), "tuning": self.shop.tuning}
        return given, {"model": checkpoint.key, "tuning": digest(self.shop.tuning.identity())}

    def _training_reward_model(self) -> tuple[RewardModelWinRate | RewardFunction, Keys]:
        """The reward that methods are trained on as an evaluator, with the keys of what it is given."""
        device = self.shop.tuning.device
        if brought := self.settings.training:
            keys = {"model": brought.key, "device": kind_of(device)} if brought.model else {}
            return brought.evaluator(device), keys
        given, keys = self._reward_model("training")
        return RewardModelWinRate(**given, label=TRAINING_LABEL), keys

    def _check_splits(self) -> None:
        shared = np.intersect1d(self.corpus.prompt_ids("training"), self.corpus.prompt_ids(self.scorer))
        if len(shared):
            raise InputError(f"training and {self.scorer} reward models share {len(shared)} prompts; repair the splits")


def _by_content(model: Checkpoint) -> Checkpoint:
    """A model keyed as `find_model` keys those that people name."""
    return Checkpoint(model.path, folder_digest(model.path))


def training_stamps(spec: BenchmarkSpec, own: Mapping[str, Checkpoint], training: Checkpoint) -> list[str]:
    """What every page says where a reward model of the user's evaluates that is the one that trains.

    InputError where that is not forced. own: the user's, by the evaluator whose settings name it.
    """
    stamps = []
    for name, model in own.items():
        if model.key != training.key:
            continue
        if not spec.evaluators[name].get(ALLOWED):
            raise InputError(
                f"{model.path} is the reward model that the methods are trained on, so it cannot judge them; name "
                f"another with {option_of(name)}, or force it with {ALLOWED}: true under evaluators.{name}"
            )
        stamps = [
            "Evaluated with the training reward model: its win rates and rewards are what the methods were trained "
            "to raise, not evidence that they are better"
        ]
    return stamps
