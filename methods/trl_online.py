"""TRL's RLOO and GRPO trainers behind our interface, to check ours against them in one table."""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ..errors import TrainingError
from ..models.policy import Policy
from ..models.sampler import Sample
from ..training.ledger import Ledger
from ..training.task import TrainingTask, shuffled
from .grpo import GRPO
from .online import OnlineTrainer
from .rloo import RLOO
from .trl_base import Training, TRLMethod, configure


class TRLOnline(TRLMethod):
    """Mixed into RLOO or GRPO: prompts in our order, our reward with its normalization and EOS penalty."""

    def classes(self, trl: Any) -> tuple[type, type]:
        """TRL's configuration and trainer."""
        raise TypeError(f"{type(self).__name__} must define classes(trl)")

    def own_options(self) -> dict[str, Any]:
        """Settings that only this trainer has."""
        raise TypeError(f"{type(self).__name__} must define own_options()")

    def trainer(self, trl: Any, task: TrainingTask, ledger: Ledger) -> Any:
        from datasets import Dataset

        method = cast(RLOO | GRPO, self)  # whose settings it has, for it is mixed into one of them
        k = method.samples_per_prompt
        policy = Policy.open(task.sft, task.tuning, trainable=False)
        ours = OnlineTrainer(method, task, policy, k)  # it says how many rounds there are, and normalizes rewards
        ours.ledger = ledger
        batch = max(k, method.minibatch_size // k * k)
        if ours.size % batch:
            raise TrainingError(
                f"TRL wants rounds of whole minibatches, but {ours.size} responses are not a multiple of {batch}; "
                f"change rollout_size or minibatch_size"
            )
        steps = ours.rounds * method.epochs * (ours.size // batch)
        training = Training(task, ledger, steps, None, method.warmup)
        order = shuffled(len(task.prompts), task.seed)
        prompts = [task.prompts.prompts[i] for i in itertools.islice(order, ours.rounds * ours.prompts_per_round)]
        by_id = {p.id: p for p in prompts}
        stops = policy.stops

        def reward(prompts, completions, completion_ids, **others):
            samples = [
                Sample(by_id[name], tuple(ids), ids[-1] in stops)
                for name, ids in zip(prompts, completion_ids, strict=True)
            ]
            tokens = sum(len(s.prompt.ids) + len(s.ids) for s in samples)
            ledger.scored_tokens += 2 * tokens  # by the policy as it was, and by the reference
            ledger.trained_tokens += method.epochs * tokens
            return ours.rewards(samples)[0].tolist()

        config_class, trainer_class = self.classes(trl)
        base: Any = training.adapt(trainer_class)

        class GivenIds(base):
            """TRL's trainer; the text of a prompt is its id, which stands for our token ids."""

            def _tokenize_prompts(self, prompts):
                return [list(by_id[name].ids) for name in prompts], None, {}

        config = config_class(
            **training.options(
                per_device_train_batch_size=batch,
                steps_per_generation=ours.size // batch,
                num_iterations=method.epochs,
                num_generations=k,
                max_completion_length=task.prompts.max_new_tokens,
                temperature=method.temperature,
                top_p=1.0,
                top_k=0,
                shuffle_dataset=False,
                learning_rate=method.lr,
                weight_decay=0.0,
                max_grad_norm=method.max_grad_norm,
                adam_epsilon=method.adam_epsilon,
                beta=method.beta,
                epsilon=method.clip,
                **self.own_options(),
            )
        )
        return GivenIds(
            **training.models(reference=False),
            reward_funcs=reward,
            args=configure(config, task),
            train_dataset=Dataset.from_list([{"prompt": p.id} for p in prompts]),
            processing_class=task.sft.tokenizer(),
        )


@dataclass(frozen=True, kw_only=True)
class TRLRLOO(TRLOnline, RLOO):
    """TRL's RLOOTrainer (needs `pip install trl`) with the settings of `rloo`."""

    settings_of: ClassVar = "rloo"

    def classes(self, trl: Any) -> tuple[type, type]:
        return trl.RLOOConfig, trl.RLOOTrainer

    def own_options(self) -> dict[str, Any]:
        return {"normalize_advantages": False}


@dataclass(frozen=True, kw_only=True)
class TRLGRPO(TRLOnline, GRPO):
    """TRL's GRPOTrainer (needs `pip install trl`) with the settings of `grpo` and the paper's loss.

    TRL's own default also multiplies the KL by the probability ratio, which leaves its value and changes its gradient.
    """

    settings_of: ClassVar = "grpo"

    def classes(self, trl: Any) -> tuple[type, type]:
        return trl.GRPOConfig, trl.GRPOTrainer

    def own_options(self) -> dict[str, Any]:
        return {"loss_type": "grpo", "scale_rewards": "group", "use_bias_correction_kl": False}
