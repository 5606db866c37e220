"""An evaluator's inputs: responses from disk, and a policy in memory where it asks for one."""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

from ...evaluators.base import Conversation, OtherTokens
from ...models.chat import encode_prompt, encode_response
from ...models.checkpoint import Checkpoint
from ...models.elsewhere import Elsewhere, open_copy, reads_alike, recounted
from ...models.kept_values import filled, read_kept
from ...models.policy import Policy
from ...models.sampler import to_generations
from ...models.sampling import sample
from ...results.integrity import digest_each, write_json
from ...results.lazy import chunks
from ...results.records import Generation, Message, Prompt
from ...results.store import read_json
from ...runtime import processes
from ..context import MODEL_CODE, Workshop
from ..data.arrow_columns import prompt_id

LOGPS = "logps.json"


@dataclass(frozen=True)
class Limits:
    """Limits of sampling for scoring."""

    max_prompt_tokens: int
    max_new_tokens: int
    temperature: float


@dataclass(frozen=True)
class PolicyInMemory:
    """An `OpenPolicy` over one of ours; see evaluators/base.py."""

    policy: Policy
    limits: Limits
    counts: Any = None
    """The run's tokenizer, where the policy's tokens or template are others."""

    def sample(self, prompts: Sequence[Sequence[Message]], seed: int) -> list[Generation]:
        asked = [Prompt(prompt_id(m), tuple(m), tuple(encode_prompt(self.policy.tokenizer, m))) for m in prompts]
        found = sample(
            self.policy,
            asked,
            max_new_tokens=self.limits.max_new_tokens,
            temperature=self.limits.temperature,
            seed=seed,
            progress="responses",
        )
        generations = to_generations(self.policy, found)
        return generations if self.counts is None else recounted(generations, self.counts)

    def logps(self, conversations: Sequence[Conversation]) -> list[float]:
        found = (self.policy.total_logps(self._encode(chunk)).tolist() for chunk in chunks(conversations))
        return [value for values in found for value in values]

    def entropies(self, conversations: Sequence[Conversation]) -> list[float]:
        return self.policy.entropy_kl_logps(self._encode(conversations), None)[0]

    def network(self) -> tuple[Any, Any]:
        policy = self.policy
        if policy.network.is_of_all and policy.source:  # its callers make passes of this process alone
            with processes.apart():
                policy = policy.source.open(*policy.source.arguments)
        network = policy.network
        model = network.activate()
        # its callers get the numbers of our own passes; a proxy, for a model that held itself would stay in memory
        model.forward = network.autocast()(MethodType(type(model).forward, weakref.proxy(model)))
        return model, self.policy.tokenizer

    def _encode(self, conversations: Sequence[Conversation]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        if self.counts is not None:
            raise OtherTokens
        tokenizer = self.policy.tokenizer
        return [
            (tuple(encode_prompt(tokenizer, prompt)), tuple(encode_response(tokenizer, response, any(cut))))
            for prompt, response, *cut in conversations
        ]


@dataclass(frozen=True, kw_only=True)
class ReferenceInMemory(PolicyInMemory):
    """The SFT checkpoint; its log-probs of the same conversations are computed once, for all methods and seeds.

    Those of the replies in its gate are known from there.
    """

    shop: Workshop
    sft: Checkpoint
    has_gate: bool = True
    """It was trained here."""

    def logps(self, conversations: Sequence[Conversation]) -> list[float]:
        def build(out: Path) -> None:
            known, found = read_kept(self.sft.path) if self.has_gate else {}, []
            for chunk in chunks(conversations):
                found += filled(self._encode(chunk), known, lambda rows: self.policy.total_logps(rows).tolist())
            write_json(out / LOGPS, found)

        inputs = self.shop.inputs(MODEL_CODE, sft=self.sft.key, conversations=digest_each(conversations))
        return read_json(self.shop.store.stage("reference_logps", inputs, build).path / LOGPS)


@contextmanager
def opened(
    shop: Workshop,
    sft: Checkpoint,
    policy: Checkpoint | None,
    limits: Limits,
    prompts: Sequence[Sequence[Message]] = (),
    has_gate: bool = True,
) -> Iterator[tuple[PolicyInMemory, PolicyInMemory]]:
    """A policy (None: the SFT checkpoint itself) and the SFT checkpoint in memory.

    prompts: those it answered. has_gate: SFT was trained here.
    """
    opened_sft = Policy.open(sft, shop.tuning, trainable=False)
    reference = ReferenceInMemory(opened_sft, limits, shop=shop, sft=sft, has_gate=has_gate)
    if policy is None:
        yield reference, reference
        return
    model = open_copy(policy, shop.tuning)
    alike = not isinstance(policy, Elsewhere) or reads_alike(model, reference.policy, prompts)
    try:
        yield PolicyInMemory(model, limits, None if alike else reference.policy.tokenizer), reference
    finally:
        model.network.close()
