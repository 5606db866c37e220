"""Reward models: a scalar score for a response, and the win rate that follows from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from ..results.chat import encode_prompt, encode_response, load_tokenizer
from ..results.checkpoint import Network, Tuning, open_network
from ..results.known import filled, read_known
from ..results.layout import Ids, Sequences
from ..results.lazy import blocks
from ..results.model_files import remote_code_allowed
from ..results.records import Generation, InputError, Score, win

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RewardModel:
    """A sequence classifier with one output, read at the last real token of prompt and response.

    Callable as a `Reward`: generations in, scores out. It takes text, so policy and reward model may differ in their
    tokenizers. A response is always shown with its EOS; that it did not end by itself is counted elsewhere.
    """

    def __init__(self, network: Network, tokenizer):
        self.network, self.tokenizer = network, tokenizer

    @classmethod
    def open(cls, folder: str | Path, tuning: Tuning) -> "RewardModel":
        return cls(open_network(folder, "score", tuning, trainable=False), load_tokenizer(folder))

    def scores(self, sequences: Sequences) -> Tensor:
        """Scores [sequences] of responses (with EOS) to prompts; gradients flow if enabled."""
        layout = self.network.lay_out(sequences)
        return self.network.head(self.network.hidden(layout)[layout.last].float())[:, 0]

    def score_all(self, sequences: Sequences, progress: str | None = None) -> list[float]:
        """Scores of any number of responses without gradients; each distinct one is computed once.

        Nothing is kept for the next call: which texts go through together moves the last digits of their scores, so
        these must not depend on what was scored before, or a training that goes on would not end where it would have.
        """
        new, known = list(dict.fromkeys(sequences)), {}
        quiet = None if progress else True

        @torch.no_grad()
        def measure(group: list[int]) -> None:
            part = [new[i] for i in group]
            known.update(zip(part, self.scores(part).tolist(), strict=True))
            bar.update(len(part))

        with tqdm(total=len(new), desc=progress, unit="response", leave=False, disable=quiet) as bar:
            self.network.in_groups(new, measure)
        return [known[row] for row in sequences]

    def __call__(self, generations: Sequence[Generation]) -> list[float]:
        return self.score_all([encode(self.tokenizer, g) for g in generations])


def encode(tokenizer: "PreTrainedTokenizerBase", generation: Generation) -> tuple[Ids, Ids]:
    """Ids of the prompt and of the response, with EOS."""
    return tuple(encode_prompt(tokenizer, generation.prompt)), tuple(encode_response(tokenizer, generation.response))


class TextRewardModel:
    """A sequence classifier from elsewhere, read through text with its own tokenizer and template.

    With a chat template the conversation and the response go in as it renders them; without one the prompt's text and
    the response are the tokenizer's pair of texts (as encoders such as DeBERTa are trained). Scores are the model's own
    forward pass over rows of equal length, so no padding can move what it reads. InputError for a model that cannot be
    loaded or has more than one output.
    """

    def __init__(self, name: str, device: str = "auto"):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.name, self.tuning = name, Tuning(device=device).resolve()
        if (Path(name) / "adapter_config.json").exists():  # its base's config decides what is read, often wrongly
            raise InputError(f"reward model {name} is an adapter; merge it into its base and give the whole model")
        trust = remote_code_allowed()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True, trust_remote_code=trust
            )
        except (OSError, ValueError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise InputError(
                f"reward model {name} cannot be loaded as a sequence classifier with its tokenizer ({first}); "
                f"give a hub id or a folder in Hugging Face layout"
            ) from None
        if model.config.num_labels != 1:
            raise InputError(
                f"reward model {name} has {model.config.num_labels} outputs, but a reward is one number; "
                f"give a classifier with num_labels 1"
            )
        if loaded["missing_keys"]:
            raise InputError(
                f"reward model {name} holds no weights for {sorted(loaded['missing_keys'])[0]}, so its scores would be "
                f"random; give a model that was trained as a sequence classifier"
            )
        self.model = model.to(self.tuning.device).eval()

    def encode(self, generation: Generation) -> dict[str, list[int]]:
        messages = [*generation.prompt, {"role": "assistant", "content": generation.response}]
        if self.tokenizer.chat_template is not None:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False)
            return dict(self.tokenizer(text, add_special_tokens=False))
        prompt = "\n\n".join(message["content"] for message in generation.prompt)
        return dict(self.tokenizer(prompt, generation.response))

    @torch.no_grad()
    def __call__(self, generations: Sequence[Generation]) -> list[float]:
        """Scores; InputError where a text is longer than the model reads."""
        rows = [self.encode(g) for g in generations]
        window = getattr(self.model.config, "max_position_embeddings", None)
        longest = max((len(row["input_ids"]) for row in rows), default=0)
        if window and longest > window:
            raise InputError(
                f"reward model {self.name} reads at most {window} tokens, but a prompt and response have {longest}; "
                f"lower the benchmark's max_prompt_tokens or max_response_tokens, or give another model"
            )
        batch = 16 if self.model.config.pad_token_id is not None else 1  # transformers wants one row without a pad id
        places: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(len(row["input_ids"]), []).append(place)
        groups = [part[i : i + batch] for part in places.values() for i in range(0, len(part), batch)]
        scores = [0.0] * len(rows)
        for group in tqdm(groups, desc="reward model", unit="batch", leave=False, disable=None):
            columns = {name: [rows[i][name] for i in group] for name in rows[group[0]]}
            inputs = {name: torch.tensor(values, device=self.tuning.device) for name, values in columns.items()}
            logits = self.model(**inputs).logits[:, 0].float()
            for i, value in zip(group, logits.tolist(), strict=True):
                scores[i] = value
        return scores


@dataclass(frozen=True)
class RewardModelWinRate:
    """How often the evaluation reward model scores the policy's response above the SFT checkpoint's."""

    model: str
    """Reward model that evaluates: a sequence classifier of your own (hub id or folder); the benchmark fills in the one
    it trained where none is named."""
    tuning: Tuning | None = None
    """Device and precision of the benchmark's own reward model; filled in by the benchmark, none for one of yours."""
    device: str = "auto"
    """Where a reward model of your own runs: cpu, cuda, cuda:1, mps or auto."""
    label: str = "reward_model"
    """What the metrics are called: reward.LABEL and win_rate.LABEL."""
    allow_training_model: bool = False
    """Evaluate even with the model that the methods were trained on; every page then says so."""

    needs_reward_model = True
    compares_with_training = True
    has_rewards = True
    rewards_text = True

    @property
    def scores_along(self) -> tuple[str, ...]:
        return (f"reward.{self.label}",)

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterable[Score]:
        both = self.rewards([*baseline, *responses])  # at once: the same response has the same reward to the last digit
        return self.compare(responses, both[len(baseline) :], both[: len(baseline)])

    def compare(
        self, responses: Sequence[Generation], rewards: Sequence[float], baseline: Sequence[float]
    ) -> Iterable[Score]:
        """The scores of responses from the rewards of their own and of the baseline's."""
        for generation, our, their in zip(responses, rewards, baseline, strict=True):
            yield Score(f"reward.{self.label}", generation.prompt_id, our)
            yield Score(f"win_rate.{self.label}", generation.prompt_id, win(our, their))

    def rewards(self, generations: Sequence[Generation]) -> list[float]:
        """The model's scores; it is in memory only meanwhile, if it did not give all of them in its gate already."""
        if self.tuning is None:
            model = TextRewardModel(self.model, self.device)
            return [score for block in blocks(generations) for score in model(block)]
        known, tokenizer = read_known(Path(self.model)), load_tokenizer(self.model)
        model: RewardModel | None = None

        def compute(sequences: Sequences) -> list[float]:
            nonlocal model
            model = model or RewardModel.open(self.model, self.tuning.resolve())
            return model.score_all(sequences)

        try:
            return [
                score
                for block in blocks(generations, "reward model")
                for score in filled([encode(tokenizer, g) for g in block], known, compute)
            ]
        finally:
            if model:
                model.network.close()
