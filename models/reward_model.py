"""Reward models in memory: a scalar score for a response."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..results.records import Generation, Ids
from ..runtime import processes
from ..runtime.device import kind_of
from .chat import encode_prompt, encode_response, load_tokenizer, render
from .checkpoint import open_network
from .layout import Layout, Sequences
from .lora import round_products
from .model_files import remote_code_allowed
from .network import Network
from .shared_work import Source, by_all, deal_sizes, shared
from .tuning import Tuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RewardModel:
    """A sequence classifier with one output, read at the last real token of prompt and response.

    Callable as a `Reward`: generations in, scores out. It takes text, so policy and reward model may differ in their
    tokenizers. A response that did not end by itself is shown without EOS.
    """

    def __init__(self, network: Network, tokenizer):
        self.network, self.tokenizer = network, tokenizer
        self.source: Source | None = None  # of one that is asked and not trained

    @classmethod
    def open(cls, folder: str | Path, tuning: Tuning) -> "RewardModel":
        model = cls(open_network(folder, "score", tuning, trainable=False), load_tokenizer(folder))
        model.source = Source(RewardModel.open, (folder, tuning))
        return model

    def scores(self, of: Layout | Sequences) -> Tensor:
        """Scores [sequences] of responses (with EOS) to prompts, sequences in one pass; gradients flow if enabled."""
        layout = self.network.laid_out(of)
        return self.network.head(self.network.hidden(layout, layout.last).float())[:, 0]

    @shared
    def score_all(self, sequences: Sequences, *, together: bool = False) -> list[float]:
        """Scores of any number of responses without gradients; each distinct one is computed once.

        Nothing is kept for the next call: which texts go through together moves the last digits of their scores, so
        these must not depend on what was scored before, or a training that goes on would not end where it would have.
        together: see `shared_work.py`.
        """
        return self.network.over_distinct(sequences, lambda layout: self.scores(layout).tolist(), together=together)

    def __call__(self, generations: Sequence[Generation]) -> list[float]:
        return self.score_all([encode(self.tokenizer, g) for g in generations])


def encode(tokenizer: "PreTrainedTokenizerBase", generation: Generation) -> tuple[Ids, Ids]:
    """Ids of the prompt and of the response, with EOS if it ended by itself."""
    response = encode_response(tokenizer, generation.response, not generation.finished)
    return tuple(encode_prompt(tokenizer, generation.prompt)), tuple(response)


class TextRewardModel:
    """A sequence classifier from elsewhere, read through text with its own tokenizer and template.

    With a chat template the conversation and the response go in as it renders them; without one the prompt's text and
    the response are the tokenizer's pair of texts (as encoders such as DeBERTa are trained). Scores are the model's own
    forward pass over rows of equal length, so no padding can move what it reads. On a GPU its products are in bf16, as
    those of all models here are; on a CPU they are in fp32. InputError for a model that cannot be loaded or has more
    than one output.
    """

    def __init__(self, name: str, device: str = "auto"):
        self.name, self.tuning = name, Tuning(device=device).resolve()
        self.source = Source(TextRewardModel, (name, device))
        self.tokenizer, model = _open_classifier(name)
        self.in_bf16 = self.tuning.precision == "bf16" and kind_of(self.tuning.device) == "cuda"
        if self.in_bf16:
            round_products(model)
        self.model = model.to(self.tuning.device).eval()
        self.window = _window(model)

    def encode(self, generation: Generation) -> dict[str, list[int]]:
        messages = [*generation.prompt, {"role": "assistant", "content": generation.response}]
        if self.tokenizer.chat_template is not None:
            text = render(self.tokenizer, messages, is_prompt=False)
            return dict(self.tokenizer(text, add_special_tokens=False))
        prompt = "\n\n".join(message["content"] for message in generation.prompt)
        return dict(self.tokenizer(prompt, generation.response))

    @shared
    def __call__(self, generations: Sequence[Generation], *, together: bool = False) -> list[float]:
        """Scores; InputError where a text is longer than the model reads. together: see `shared_work.py`."""
        rows = [self.encode(g) for g in generations]
        longest = max((len(row["input_ids"]) for row in rows), default=0)
        if self.window and longest > self.window:
            raise InputError(
                f"reward model {self.name} reads at most {self.window} tokens, but a prompt and response have "
                f"{longest}; lower the benchmark's max_prompt_tokens or max_response_tokens, or give another model"
            )
        if not together:
            return self._scores(rows)
        hands = deal_sizes([len(row["input_ids"]) for row in rows], processes.size())
        return by_all(rows, hands, self._scores)

    @torch.no_grad()
    def _scores(self, rows: Sequence[dict[str, list[int]]]) -> list[float]:
        batch = 16 if self.model.config.pad_token_id is not None else 1  # transformers wants one row without a pad id
        places: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(len(row["input_ids"]), []).append(place)
        groups = [part[i : i + batch] for part in places.values() for i in range(0, len(part), batch)]
        scores = [0.0] * len(rows)
        for group in tqdm(groups, desc="reward model", unit="batch", leave=False, disable=None):
            columns = {name: [rows[i][name] for i in group] for name in rows[group[0]]}
            inputs = {name: torch.tensor(values, device=self.tuning.device) for name, values in columns.items()}
            with torch.autocast(kind_of(self.tuning.device), torch.bfloat16, enabled=self.in_bf16):
                logits = self.model(**inputs).logits[:, 0].float()
            for i, value in zip(group, logits.tolist(), strict=True):
                scores[i] = value
        return scores


def check_classifier(name: str) -> None:
    """InputError for what `TextRewardModel` cannot read, found without its weights in memory."""
    _open_classifier(name, device_map="meta")


def _open_classifier(name: str, **how: Any) -> tuple[Any, Any]:
    """The tokenizer and the model of a sequence classifier that has one output, trained; InputError for any other."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if (Path(name) / "adapter_config.json").exists():  # its base's config decides what is read, often wrongly
        raise InputError(f"reward model {name} is an adapter; merge it into its base and give the whole model")
    trust = remote_code_allowed()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, trust_remote_code=trust, **how
        )
    except (OSError, ValueError, ImportError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"reward model {name} cannot be loaded as a sequence classifier with its tokenizer ({first}); "
            f"give a hub id or a folder in Hugging Face layout"
        ) from None
    if loaded["missing_keys"]:
        raise InputError(
            f"reward model {name} holds no weights for {sorted(loaded['missing_keys'])[0]}, so its scores would be "
            f"random; give a model that was trained as a sequence classifier"
        )
    if model.config.num_labels != 1:
        raise InputError(
            f"reward model {name} has {model.config.num_labels} outputs, but a reward is one number; "
            f"give a classifier with num_labels 1"
        )
    return tokenizer, model


def _window(model: "PreTrainedModel") -> int | None:
    """Most tokens of a text; fewer than the configuration says where positions are counted on from the padding's id.

    So do RoBERTa and its kin: of 514 learnt positions the first two are never a token's.
    """
    windows = [getattr(model.config, "max_position_embeddings", None)]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            windows.append(module.num_embeddings - module.padding_idx - 1)
    return min(filter(None, windows), default=None)
