"""The end of a reply: the token that is trained as its last, and those at which sampling stops."""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..results.records import Ids

REPLY = "a-reply-to-look-behind"  # stands for a reply's text in a conversation that is rendered to see what follows it


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Id of the token that ends a reply: the special token which the chat template writes after it, else the EOS.

    Models of the gemma-it, Phi-3 and Llama-3-Instruct kind end turns with a token that is not `tokenizer.eos_token`.
    """
    return _turn_end(tokenizer, str(tokenizer.chat_template), tokenizer.eos_token_id)


@lru_cache(maxsize=8)
def _turn_end(tokenizer: "PreTrainedTokenizerBase", template: str, eos: int) -> int:
    """The same, kept as long as template and EOS are the same."""
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": REPLY}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template may refuse any conversation, in its own words
        return eos
    behind = text.rpartition(REPLY)[2].lstrip()
    special = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    written = [token for token in special if behind.startswith(token)]
    return special[max(written, key=len)] if written else eos


def stop_ids(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel") -> frozenset[int]:
    """Ids at which a response ends: the trained end, the tokenizer's EOS, and those of generation_config.

    A single id there that is an ordinary word to the tokenizer is a default of the model's class, which nobody chose.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if isinstance(named, int):
        named = [named] if named in tokenizer.added_tokens_decoder else []
    return frozenset({turn_end(tokenizer), tokenizer.eos_token_id, *(named or [])})


def without_stop(ids: "Ids", stops: frozenset[int]) -> "Ids":
    """A response's ids without the token that ended it, if one did."""
    return ids[:-1] if ids and ids[-1] in stops else ids
