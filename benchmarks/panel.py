"""Who scores: a benchmark's evaluators, the reward models behind them and its judges."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluators.judge import OPENAI, read_template
from ..evaluators.reward_model import RewardModel, RewardModelWinRate
from ..results.checkpoint import Checkpoint, Tuning
from ..results.integrity import digest_each
from ..results.records import InputError, LabelledPair, nearest
from ..results.store import Store, digest, folder_digest
from . import reward_audit
from .along import TRAINING
from .corpus import Corpus
from .judge_bill import most
from .models import find_model
from .plugins import Where, available, build
from .spec import BenchmarkSpec
from .workshop import Workshop

ALLOWED = "allow_training_model"  # the setting that lets the training reward model evaluate


@dataclass(frozen=True)
class Settings:
    """The evaluators as the benchmark's settings have them, before it fills in its part."""

    evaluators: dict[str, Any]
    own_reward_model: Checkpoint | None
    """The user's, which then evaluates."""
    judges: dict[str, Checkpoint]
    """The local judges' models; an endpoint has none."""


def check_settings(spec: BenchmarkSpec, tuning: Tuning) -> Settings:
    """Construct every evaluator once with what it will be given, so that a wrong setting is told at the start."""
    evaluators: dict[str, Any] = {}
    own, judges = None, {}
    for name, settings in spec.evaluators.items():
        if name not in (known := available("evaluators")):
            place = spec.place("evaluators", name)
            raise InputError(f"{place}: there is no evaluator {name!r}; {nearest(name, known)}")
        given = {"model": "(trained by the benchmark)", "tuning": tuning} if name == "reward_model" else {}
        made = build("evaluators", name, {**given, **settings}, _where(spec, name))
        evaluators[name] = made
        if name == "reward_model" and "model" in settings:
            own = find_model(settings["model"], "--reward-model")
        if name == "judge":
            judges = {m: find_model(m, "--judge") for m in made.models if not m.startswith(OPENAI)}
    return Settings(evaluators, own, judges)


def cost_of_judging(spec: BenchmarkSpec, settings: Settings, tokenizer: Any, cells: int) -> str | None:
    """The most that the judge's endpoint can cost, in words; None without a judge or with local ones alone."""
    judge = settings.evaluators.get("judge")
    if judge is None:
        return None
    question = len(tokenizer(read_template(judge.prompt))["input_ids"])
    question += spec.max_prompt_tokens + 2 * spec.max_response_tokens
    return most(judge, cells, spec.evaluation.prompts, question)


def judge_settings(settings: dict[str, Any], judges: dict[str, Checkpoint], device: str, root: Path) -> dict[str, Any]:
    """A judge's settings with the folders of its local models, the device and the place of its verdicts filled in."""
    models = [settings["model"]] if isinstance(settings["model"], str) else settings["model"]
    folders = [str(judges[m].path) if m in judges else m for m in models]
    return {"device": device, **settings, "model": tuple(folders), "cache": Store(root).verdicts}


def _where(spec: BenchmarkSpec, name: str) -> Where:
    return lambda location: f"{spec.place('evaluators', name, *location)}, evaluators.{name}"


class Panel:
    """The evaluators of a run whose reward models are there.

    InputError where the reward model that evaluates is the one that trains, or has seen its prompts, unless that is
    forced: then every page says so (`stamps`).
    """

    def __init__(
        self,
        spec: BenchmarkSpec,
        settings: Settings,
        shop: Workshop,
        corpus: Corpus,
        reward_models: dict[str, Checkpoint],
    ):
        self.spec, self.settings, self.shop, self.corpus = spec, settings, shop, corpus
        self.reward_models = reward_models  # by role: training, evaluation
        self.stamps: list[str] = []
        self._check_reward_models()

    @cached_property
    def training_reward(self) -> RewardModel:
        """The reward that methods are trained on, in memory."""
        return RewardModel.open(self.reward_models["training"].path, self.shop.tuning)

    @cached_property
    def evaluators(self) -> dict[str, tuple[Any, dict[str, str]]]:
        """Each evaluator with the keys of what the benchmark fills in."""
        found = {}
        for name, settings in self.spec.evaluators.items():
            settings, needs = dict(settings), {}
            if name == "reward_model" and "model" not in settings:
                given, needs = self._reward_model("evaluation")
                settings |= given
            elif name == "reward_model":
                settings["model"] = str(self.settings.own_reward_model.path)
                settings.setdefault("device", self.shop.tuning.device)
                needs = {"model": self.settings.own_reward_model.key}
            if name == "implicit_reward":
                settings["pairs"] = self.corpus.labelled
                needs = {"pairs": digest_each(dataclasses.asdict(pair) for pair in self.corpus.labelled)}
            if name == "judge":
                settings = judge_settings(settings, self.settings.judges, self.shop.tuning.device, self.shop.store.root)
            found[name] = (build("evaluators", name, settings, _where(self.spec, name)), needs)
            if name == "reward_model":
                found[TRAINING] = self._training_reward_model()
        return found

    @property
    def along(self) -> dict[str, tuple[Any, dict[str, str]]]:
        """The evaluators that score checkpoints along training."""
        scorers = {name: self.evaluators[name] for name in ("reward_model", "gold") if name in self.evaluators}
        scorers["divergence"] = build("evaluators", "divergence", {}, "along training"), {}
        scorers[TRAINING] = self._training_reward_model()
        return scorers

    def audit_reward_models(
        self, tokenizer: Any, external: tuple[str, list[LabelledPair], int] | None
    ) -> dict[str, Any]:
        """For summary.json: both reward models on held-out pairs and on those from elsewhere."""
        models = {
            role: (RewardModelWinRate(str(made.path), self.shop.tuning), made.key)
            for role, made in self.reward_models.items()
        }
        if own := self.settings.own_reward_model:
            models["evaluation"] = self.evaluators["reward_model"][0], own.key
        return reward_audit.audit(self.shop, models, tokenizer, self.corpus.labelled, external)

    def _reward_model(self, role: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Settings of the evaluator for one of the benchmark's reward models, and the keys of what it is given."""
        checkpoint = self.reward_models[role]
        settings = {"model": str(checkpoint.path), "tuning": self.shop.tuning}
        return settings, {"model": checkpoint.key, "tuning": digest(dataclasses.asdict(self.shop.tuning))}

    def _training_reward_model(self) -> tuple[RewardModelWinRate, dict[str, str]]:
        """The reward model that methods are trained on as an evaluator, with the keys of what it is given."""
        settings, needs = self._reward_model("training")
        return RewardModelWinRate(**settings, label="reward_model.training"), needs

    def _check_reward_models(self) -> None:
        shared = np.intersect1d(self.corpus.prompt_ids("training"), self.corpus.prompt_ids("evaluation"))
        if len(shared):
            raise InputError(f"training and evaluation reward models share {len(shared)} prompts; mend the splits")
        training, own = self.reward_models["training"], self.settings.own_reward_model
        if own is None or folder_digest(own.path) != folder_digest(training.path):
            return
        said = f"{own.path} is the reward model that the methods are trained on, so it cannot judge them"
        if not self.spec.evaluators["reward_model"].get(ALLOWED):
            raise InputError(
                f"{said}; name another with --reward-model, or force it with {ALLOWED}: true under "
                f"evaluators.reward_model"
            )
        self.stamps.append(
            "Evaluated with the training reward model: its win rates and rewards are what the methods were trained to "
            "raise, not evidence that they are better"
        )
