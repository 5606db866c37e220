"""A reward model's training: Bradley-Terry on preference pairs, from the SFT checkpoint or another model."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.checkpoint import Checkpoint, open_network
from ..models.kept_values import write_kept
from ..models.layout import Batch, Sequences
from ..models.model_files import remote_code_allowed
from ..models.reward_model import RewardModel
from ..models.tuning import Tuning
from ..results.lazy import LazySequence, chunks
from ..results.records import Pair
from ..results.store import GATE, MODEL
from ..runtime import processes
from .ledger import Ledger
from .loop import Objective, Recipe, fit
from .task import sides_of


def reward_model(chosen_scores: Tensor, rejected_scores: Tensor) -> Tensor:
    """Bradley-Terry negative log-likelihood of a preference. All tensors [batch]. Ouyang et al. (2022), eq. 1."""
    return -F.logsigmoid(chosen_scores - rejected_scores)


class Preferences(Objective[Pair]):
    """Chosen replies are to score above rejected ones."""

    def __init__(self, model: RewardModel, pairs: Sequence[Pair]):
        self.model, self.examples = model, pairs

    def sequences(self, example: Pair) -> Sequences:
        return sides_of(example)

    def losses(self, batch: Batch[Pair]) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, rejected = self.model.scores(batch.layout).view(-1, 2).unbind(1)
        return reward_model(chosen, rejected), {"accuracy": (chosen > rejected).float()}


def fit_reward_model(
    start: Checkpoint,
    tokenizer: Any,
    tuning: Tuning,
    recipe: Recipe,
    train: Sequence[Pair],
    heldout: Sequence[Pair],
    out: Path,
) -> None:
    """Train a reward model; writes out/model and out/gate.json.

    tokenizer: that of the pairs, which is saved with the model, whatever template `start` has.
    gate.json: of each held-out pair [prompt id, score of chosen, of rejected, tokens of chosen, of rejected].
    known.json: its scores of both sides of each held-out pair.
    """
    torch.manual_seed(recipe.seed)
    width = _width(start)
    head_std = (width + 1) ** -0.5
    with contextlib.closing(open_network(start.path, "score", tuning, trainable=True, head_std=head_std)) as network:
        model = RewardModel(network, tokenizer)
        ledger = Ledger.of(network, out)
        fit(Preferences(model, train), network, ledger=ledger, recipe=recipe)
        ledger.close()
        sides = LazySequence(2 * len(heldout), lambda place: sides_of(heldout[place // 2])[place % 2])
        scores = [s for chunk in chunks(sides, "held-out pairs") for s in model.score_all(chunk, together=True)]
        if processes.rank():
            return
        rows = [
            [pair.prompt.id, chosen, rejected, len(pair.chosen), len(pair.rejected)]
            for pair, chosen, rejected in zip(heldout, scores[::2], scores[1::2], strict=True)
        ]
        (out / GATE).write_text(json.dumps({"pairs": rows}))
        network.save(out / MODEL, model.tokenizer)
        write_kept(out / MODEL, sides, scores)


def _width(checkpoint: Checkpoint) -> int:
    from transformers import AutoConfig

    return (
        AutoConfig.from_pretrained(str(checkpoint.path), trust_remote_code=remote_code_allowed())
        .get_text_config()
        .hidden_size
    )
