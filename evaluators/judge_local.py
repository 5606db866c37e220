"""A judge that is a causal language model in memory: it compares the log-probabilities of the two verdicts."""

import logging
import re

import torch
from torch import nn
from tqdm import tqdm

from ..results.chat import encode_prompt
from ..results.checkpoint import Tuning, micro_batches, pad
from ..results.records import InputError
from .judge import Verdict

TOKENS = 8192  # tokens (padding included) in one forward pass; bounds memory, leaves verdicts alone


class LocalAsker:
    """Answers "A" where log p(A) >= log p(B) for the next token, else "B"; None where the prompt exceeds the context.

    Weights are fp32 on the CPU and bf16 on CUDA; the comparison is made in fp32. InputError for a model that cannot
    be loaded or a tokenizer that has no token of its own for each verdict.
    """

    def __init__(self, name: str, device: str = "cpu"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = Tuning(device=device).resolve().device
        dtype = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise InputError(
                f"judge: {name} holds no language model that can be loaded ({first}); "
                f"give a hub id, a folder in Hugging Face layout, or openai:NAME"
            ) from None
        self.model: nn.Module = model.to(self.device).eval()
        self.context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.verdicts = self._verdict_tokens(name)
        special = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")

    def ask(self, prompts: list[str]) -> list[Verdict | None]:
        margins = self.margins(prompts)
        if missing := margins.count(None):
            logging.getLogger(__name__).warning(
                "judge: %d of %d questions are longer than the judge's %d tokens and stay unanswered",
                missing, len(prompts), self.context,
            )  # fmt: skip
        return [None if margin is None else "A" if margin >= 0 else "B" for margin in margins]

    @torch.no_grad()
    def margins(self, prompts: list[str]) -> list[float | None]:
        """log p(A | prompt) - log p(B | prompt) in nats; None where the prompt exceeds the context."""
        ids = [self.encode(prompt) for prompt in prompts]
        fits = [i for i, row in enumerate(ids) if self.context is None or len(row) <= self.context]
        margins: list[float | None] = [None] * len(prompts)
        backbone = getattr(self.model, self.model.base_model_prefix)
        # The softmax has one denominator for both tokens, so log p(A) - log p(B) is the difference of their logits:
        # two rows of the head suffice, in fp32, where bf16 logits would often tie.
        head = self.model.get_output_embeddings()
        a, b = self.verdicts
        direction = head.weight[a].float() - head.weight[b].float()
        bias = getattr(head, "bias", None)
        offset = 0.0 if bias is None else (bias[a].float() - bias[b].float()).item()
        with tqdm(total=len(fits), desc="judge", unit="question", disable=None) as progress:
            for group in micro_batches([len(ids[i]) for i in fits], TOKENS):
                rows = [ids[fits[i]] for i in group]
                batch, mask = pad(rows, self.device)
                states = backbone(input_ids=batch, attention_mask=mask.long(), use_cache=False).last_hidden_state
                last = states[torch.arange(len(rows)), [len(row) - 1 for row in rows]].float()
                for i, margin in zip(group, (last @ direction + offset).tolist(), strict=True):
                    margins[fits[i]] = margin
                progress.update(len(group))
        return margins

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a question: in the chat template as the user's message, or as plain text without a template.

        Special tokens spelt out in the text are broken up, so that an answer cannot end the user's turn.
        """
        prompt = self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", prompt)
        if self.tokenizer.chat_template is None:
            return self.tokenizer(prompt)["input_ids"]
        return encode_prompt(self.tokenizer, [{"role": "user", "content": prompt}])

    def _verdict_tokens(self, name: str) -> tuple[int, int]:
        """The first token of each verdict alone; InputError if they are the same or unknown."""
        a, b = (self.tokenizer(verdict, add_special_tokens=False)["input_ids"] for verdict in "AB")
        if not a or not b or a[0] == b[0] or self.tokenizer.unk_token_id in (a[0], b[0]):
            raise InputError(f"judge: the tokenizer of {name} cannot tell A from B by one token; use another judge")
        return a[0], b[0]
