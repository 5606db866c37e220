"""Policies that were trained elsewhere: whole models, and adapters merged into their bases, read as they are.

One whose token ids, template and vocabulary are the SFT checkpoint's is measured as ours are. Any other goes through
text: its own template renders the messages, its responses are decoded, and their lengths are counted in the run's
tokens. Entropy and KL compare token by token, so such a policy has none.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..results.adapters import ADAPTER, base_of, is_adapter
from ..results.integrity import digest
from ..results.records import Generation, Message, Prompt
from ..results.store import read_json
from .chat import encode_prompts, encode_responses, load_tokenizer
from .checkpoint import Checkpoint, load_model
from .find import find_model
from .model_files import WEIGHTS
from .network import Network
from .policy import Policy
from .sampler import to_generations
from .sampling import Answers, respond, sample
from .shared_work import Source
from .tuning import Tuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


@dataclass(frozen=True)
class Elsewhere(Checkpoint):
    """A policy that was trained elsewhere; its key is the hash of its files, and of its base's."""

    named: str
    """The folder or hub id that people gave."""
    base: Path | None = None
    """The folder of an adapter's base."""

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Its own; an adapter without one has its base's."""
        without = self.base and not any((self.path / name).exists() for name in TOKENIZER)
        return load_tokenizer(self.base if self.base and without else self.path)

    def open(self, tuning: Tuning) -> Policy:
        """The policy in memory, beside the SFT model that is shared."""
        alone = replace(tuning, lora_rank=0, base_bits=None)
        model = merged(self.path, self.base) if self.base else load_model(self.path, "lm", alone, frozen=True)
        return Policy(Network(model.to(tuning.device), "lm", alone, None, None), self.tokenizer())


def find_elsewhere(given: str, where: str) -> Elsewhere:
    """A policy by folder or hub id; where: how the user named it.

    InputError for one that is not there or no causal language model, and for an adapter whose base is not there.
    """
    found = find_model(given, where)
    if not is_adapter(found.path):
        _check_causal(read_json(found.path / "config.json"), where)
        return Elsewhere(found.path, found.key, given)
    if any((found.path / name).exists() for name in WEIGHTS if not name.startswith("adapter")):
        raise InputError(f"{where} {given}: the folder holds a whole model beside an adapter; merge the two first")
    if (task := read_json(found.path / ADAPTER).get("task_type") or "CAUSAL_LM") != "CAUSAL_LM":
        raise InputError(f"{where} {given}: an adapter for {task}, not for a causal language model; give a policy")
    try:
        base = find_model(base_of(found.path), "base")
    except InputError as error:
        raise InputError(f"{where} {given}: an adapter whose base cannot be had: {error}") from None
    _check_causal(read_json(base.path / "config.json"), f"{where} {given}: base")
    return Elsewhere(found.path, digest([found.key, base.key]), given, base.path)


def open_copy(checkpoint: Checkpoint, tuning: Tuning) -> Policy:
    """A policy that is to be looked at; a whole model is a copy of its own, so that the SFT model stays in memory."""
    if isinstance(checkpoint, Elsewhere):
        policy = checkpoint.open(tuning)
    else:
        policy = Policy.open(checkpoint, tuning, trainable=True)
    policy.source = Source(open_copy, (checkpoint, tuning))
    return policy


def merged(adapter: Path, base: Path) -> "PreTrainedModel":
    """The base with an adapter of peft's added into its weights, fp32 on the CPU; InputError where it does not fit."""
    from peft import PeftConfig, PeftModel

    model: Any = load_model(base, "lm", Tuning(precision="fp32", device="cpu"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of missing keys, which are told below
            model = PeftModel(model, PeftConfig.from_pretrained(str(adapter)))
            keys = model.load_adapter(str(adapter), "default", torch_device="cpu")
        if lost := [*keys.unexpected_keys, *keys.missing_keys]:
            raise ValueError(f"{lost[0]} is in one of them alone")
        return model.merge_and_unload()
    except Exception as error:  # what peft raises depends on the kind of adapter
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{adapter}: the adapter cannot be merged into {base} ({first}); merge it where it was made"
        ) from None


def reads_alike(policy: Policy, reference: Policy, prompts: Sequence[Sequence[Message]]) -> bool:
    """True if token ids mean the same to both, and these prompts become the same ids."""
    ours, theirs = policy.tokenizer, reference.tokenizer
    widths = {p.network.model.get_output_embeddings().weight.shape[0] for p in (policy, reference)}
    same = len(widths) == 1 and ours.get_vocab() == theirs.get_vocab() and ours.eos_token_id == theirs.eos_token_id
    return same and encode_prompts(ours, prompts) == encode_prompts(theirs, prompts)


def respond_elsewhere(
    policy: Policy,
    reference: Policy,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Answers:
    """Responses of a policy that was trained elsewhere, as `respond` gives those of ours; see the top of this file."""
    given: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    messages = [prompt.messages for prompt in prompts]
    if reads_alike(policy, reference, messages):
        return respond(policy, reference, prompts, **given)
    own = [
        replace(p, ids=tuple(ids)) for p, ids in zip(prompts, encode_prompts(policy.tokenizer, messages), strict=True)
    ]
    began = time.monotonic()
    samples = sample(policy, own, progress="responses", **given)
    seconds = time.monotonic() - began
    generations = recounted(to_generations(policy, samples), reference.tokenizer)
    return Answers(generations, sum(len(s.ids) for s in samples), 0, 0, seconds)


def recounted(generations: Sequence[Generation], tokenizer: "PreTrainedTokenizerBase") -> list[Generation]:
    """The same with their lengths in another tokenizer's tokens, the EOS of those that ended included."""
    lengths = map(len, encode_responses(tokenizer, [g.response for g in generations]))
    return [replace(g, length=n - (not g.finished)) for g, n in zip(generations, lengths, strict=True)]


def _check_causal(config: dict[str, Any], where: str) -> None:
    """InputError for an architecture without the head of a language model, which would be loaded with a random one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    classes = {name for names in CAUSAL.values() for name in ([names] if isinstance(names, str) else names)}
    names = config.get("architectures") or []
    if names and "auto_map" not in config and not classes.intersection(names):
        raise InputError(f"{where}: a {names[0]}, not a causal language model; give a policy that writes responses")
