"""Reward models: a scalar score for a response, and the win rate that follows from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..results.chat import encode_prompt, encode_response, load_tokenizer
from ..results.checkpoint import Network, Tuning, micro_batches, open_network, pad
from ..results.records import Generation, Score, win


class RewardModel:
    """A sequence classifier with one output, read at the last real token of prompt and response.

    Callable as a `Reward`: generations in, scores out. It takes text, so policy and reward model may differ in their
    tokenizers. A response is always shown with its EOS; that it did not end by itself is counted elsewhere.
    """

    def __init__(self, network: Network, tokenizer):
        self.network, self.tokenizer = network, tokenizer
        self._known: dict[tuple[int, ...], float] = {}

    @classmethod
    def open(cls, folder: str | Path, tuning: Tuning) -> "RewardModel":
        return cls(open_network(folder, "score", tuning, trainable=False), load_tokenizer(folder))

    def scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Scores [rows] of token ids (prompt, response, EOS); gradients flow if enabled."""
        ids, mask = pad(rows, self.network.tuning.device)
        hidden = self.network.hidden(ids, mask)
        last = hidden[torch.arange(len(rows), device=hidden.device), mask.sum(1) - 1]
        return self.network.head(last.float())[:, 0]

    def score_all(self, rows: Sequence[Sequence[int]], progress: str | None = None) -> list[float]:
        """Scores of any number of rows without gradients; each distinct row is computed once."""
        new = [row for row in dict.fromkeys(map(tuple, rows)) if row not in self._known]
        groups = micro_batches([len(row) for row in new], self.network.tuning.micro_tokens)
        with torch.no_grad():
            for group in tqdm(groups, desc=progress, unit="batch", leave=False, disable=None if progress else True):
                part = [new[i] for i in group]
                self._known |= dict(zip(part, self.scores(part).tolist(), strict=True))
        return [self._known[tuple(row)] for row in rows]

    def encode(self, generation: Generation) -> list[int]:
        prompt = encode_prompt(self.tokenizer, generation.prompt)
        return prompt + encode_response(self.tokenizer, generation.response)

    def __call__(self, generations: Sequence[Generation]) -> list[float]:
        return self.score_all([self.encode(g) for g in generations])


@dataclass(frozen=True)
class RewardModelWinRate:
    """How often the evaluation reward model scores the policy's response above the SFT checkpoint's."""

    model: str
    """Folder of the reward model; the benchmark fills in the evaluation reward model it trained."""
    tuning: Tuning = field(default_factory=Tuning)
    """Device and precision; filled in by the benchmark."""

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterable[Score]:
        model = RewardModel.open(self.model, self.tuning.resolve())
        try:
            both = [model.encode(g) for g in [*responses, *baseline]]
            scores = model.score_all(both, progress="reward model")
        finally:
            model.network.close()
        ours, theirs = scores[: len(responses)], scores[len(responses) :]
        for generation, our, their in zip(responses, ours, theirs, strict=True):
            yield Score("reward.reward_model", generation.prompt_id, our)
            yield Score("win_rate.reward_model", generation.prompt_id, win(our, their))
