"""A judge that is a causal language model in memory: it compares the log-probabilities of the two verdicts."""

import copy
import logging
import re
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..errors import InputError
from ..models.chat import OPENED, encode_rendered, render
from ..models.layout import pad
from ..models.limits import context_window
from ..models.logit_rule import LogitRule
from ..models.lora import backbone_of
from ..models.micro_batches import micro_batches, start_tokens
from ..models.model_files import remote_code_allowed
from ..models.shared_work import Source, by_all, deal_sizes, shared
from ..models.tuning import Tuning
from ..results.integrity import code_digest
from ..results.lazy import chunks
from ..runtime import processes
from ..runtime.device import MICRO_TOKENS
from .judge_cache import Answer, Keep
from .judge_verdict import Verdict

CODE = ("evaluators", "models", "runtime")  # folders that its verdicts depend on
SHORTEST_PREFIX = 16  # shared tokens from which on their cache is worth its copies


class LocalAsker:
    """Answers "A" where log p(A) >= log p(B) for what comes next, else "B"; None where the prompt exceeds the context.

    Weights are fp32 on the CPU and bf16 on CUDA; the comparison is made in fp32. InputError for a model that cannot
    be loaded or a tokenizer that has no token of its own for each verdict.
    """

    def __init__(self, name: str, device: str = "cpu"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device, dtype = _placed(device)
        self.source = Source(LocalAsker, (name, device))
        trust = remote_code_allowed()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, trust_remote_code=trust)
        except (OSError, ValueError, ImportError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise InputError(
                f"judge: {name} holds no language model that can be loaded ({first}); "
                f"give a hub id, a folder in Hugging Face layout, or openai:NAME"
            ) from None
        self.model: Any = model.to(self.device).eval()
        self.context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.alike = context_window(model.config)  # tokens up to which rows of a pass leave each other alone
        special = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        self.verdicts = self._verdict_tokens(name)

    def ask(self, prompts: list[str], keep: Keep | None = None) -> list[Verdict | None]:
        margins = self.margins(prompts, keep)
        if missing := margins.count(None):
            logging.getLogger(__name__).warning(
                "judge: %d of %d questions are longer than the judge's %d tokens and stay unanswered",
                missing, len(prompts), self.context,
            )  # fmt: skip
        return [None if margin is None else _verdict(margin) for margin in margins]

    def margins(self, prompts: list[str], keep: Keep | None = None) -> list[float | None]:
        """log p(A | prompt) - log p(B | prompt) in nats; None where the prompt exceeds the context."""
        if not processes.are_waiting():
            return self._margins_here(prompts, keep)
        margins: list[float | None] = []
        for chunk in chunks(prompts, "judge"):  # what is answered is kept now and then
            found = self.shared_margins(chunk)
            for i, margin in enumerate(found, len(margins)):
                if keep and margin is not None:
                    keep(i, Answer(_verdict(margin)))
            margins += found
        return margins

    @shared
    def shared_margins(self, prompts: list[str], *, together: bool = False) -> list[float | None]:
        """The same by all processes, see models/shared_work.py."""
        hands = deal_sizes([len(prompt) for prompt in prompts], processes.size())
        return by_all(prompts, hands, self._margins_here)

    @torch.no_grad()
    def _margins_here(self, prompts: list[str], keep: Keep | None = None) -> list[float | None]:
        ids = [self.encode(prompt) for prompt in prompts]
        fits = [i for i, row in enumerate(ids) if self.context is None or len(row) <= self.context]
        margins: list[float | None] = [None] * len(prompts)
        backbone = backbone_of(self.model)
        overhead = start_tokens(sum(p.numel() for p in self.model.parameters()), self.device)
        alike = [i for i in fits if self.alike is None or len(ids[i]) <= self.alike]
        longer = [i for i in fits if self.alike is not None and len(ids[i]) > self.alike]
        common, cache = self._shared_prefix(backbone, [ids[i] for i in alike])
        groups = [
            ([alike[i] for i in g], common) for g in micro_batches([len(ids[i]) for i in alike], MICRO_TOKENS, overhead)
        ]
        groups += [([i], 0) for i in longer]
        with tqdm(total=len(fits), desc="judge", unit="question", disable=None) as progress:
            for group, shared in groups:
                rows = [ids[i][shared:] for i in group]
                batch, mask = pad(rows, self.device)
                more: dict[str, Any] = {"use_cache": False}
                if shared:
                    mask = torch.cat([mask.new_ones(len(rows), shared), mask], dim=1)
                    more = {"past_key_values": copy.deepcopy(cache), "use_cache": True}
                    more["past_key_values"].batch_repeat_interleave(len(rows))
                states = backbone(input_ids=batch, attention_mask=mask.long(), **more).last_hidden_state
                last = states[torch.arange(len(rows)), [len(row) - 1 for row in rows]].float()
                for i, margin in zip(group, self._margins(last).tolist(), strict=True):
                    margins[i] = margin
                    if keep:
                        keep(i, Answer(_verdict(margin)))
                progress.update(len(group))
        return margins

    def _shared_prefix(self, backbone: nn.Module, rows: list[list[int]]) -> tuple[int, Any]:
        """The number of tokens that all rows begin with (each keeps one of its own), and their cache, computed once.

        0 and None where that is not worth while, or the architecture keeps something else than keys and values.
        """
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        length = 0
        if len(rows) > 1:
            first, last = min(rows), max(rows)  # in the order of lists, so all others lie between them
            same = (i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y)
            length = min(next(same, len(first)), min(map(len, rows)) - 1)
        if length < SHORTEST_PREFIX:
            return 0, None
        prefix = torch.tensor([rows[0][:length]], device=self.device)
        cache = getattr(backbone(input_ids=prefix, use_cache=True), "past_key_values", None)
        kinds = {type(layer) for layer in getattr(cache, "layers", [None])}
        return (length, cache) if kinds <= {DynamicLayer, DynamicSlidingWindowLayer} else (0, None)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a question: in the chat template as the user's message, or as plain text without a template.

        Special tokens spelt out in the text are broken up, so that an answer cannot end the user's turn.
        """
        prompt = self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", prompt)
        if self.tokenizer.chat_template is None:
            return self.tokenizer(prompt)["input_ids"]
        return encode_rendered(self.tokenizer, [self._rendered(prompt)])[0]

    def _rendered(self, prompt: str) -> str:
        """A question in the chat template; a block of thinking that it opens is closed, for the verdict comes next."""
        text = render(self.tokenizer, [{"role": "user", "content": prompt}])
        opened = OPENED.search(text)
        return f"{text.rstrip()}\n\n</{opened[1]}>\n\n" if opened else text

    def _verdict_tokens(self, name: str) -> tuple[list[int], list[int]]:
        """The tokens by which a reply to a question begins that says A, and B; InputError if there are none.

        They are read off in their place: behind a line break SentencePiece writes another token for "A" than for "A"
        alone. Where a question ends without a space, the reply may begin with one.
        """
        templated = self.tokenizer.chat_template is not None
        asked = self._rendered("?") if templated else "?"
        encode = partial(self.tokenizer, add_special_tokens=not templated)
        start = len(encode(asked)["input_ids"])
        found: dict[str, list[int]] = {"A": [], "B": []}
        for space in ("",) if asked[-1:].isspace() else ("", " "):
            a, b = (encode(asked + space + verdict)["input_ids"][start : start + 1] for verdict in found)
            if a and b and a != b and self.tokenizer.unk_token_id not in (*a, *b):
                found["A"] += a
                found["B"] += b
        if not found["A"]:
            raise InputError(f"judge: the tokenizer of {name} cannot tell A from B by one token; use another judge")
        return found["A"], found["B"]

    def _margins(self, states: torch.Tensor) -> torch.Tensor:
        """log p(A) - log p(B) [rows] of the last hidden states [rows, width] in fp32.

        The softmax has one denominator for all tokens, so the logits of these suffice: a few rows of the head, in fp32,
        where bf16 logits would often tie.
        """
        head, rule = self.model.get_output_embeddings(), LogitRule.of(self.model.config)
        bias = getattr(head, "bias", None)

        def said(tokens: list[int]) -> torch.Tensor:
            logits = states @ head.weight[tokens].float().T
            return rule(logits if bias is None else logits + bias[tokens].float()).logsumexp(1)

        a, b = map(said, self.verdicts)
        return a - b


def identity(device: str) -> dict[str, Any]:
    """The facts that determine a verdict beside question and model: precision, device, our code, libraries."""
    device, dtype = _placed(device)
    return {
        "device": device.partition(":")[0],
        "precision": str(dtype),
        "code": code_digest(*CODE),
        "packages": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }


def _placed(device: str) -> tuple[str, torch.dtype]:
    device = Tuning(device=device).resolve().device
    return device, torch.bfloat16 if device.startswith("cuda") else torch.float32


def _verdict(margin: float) -> Verdict:
    return "A" if margin >= 0 else "B"
