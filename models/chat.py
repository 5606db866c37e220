"""Messages as token ids: the one place where a chat template is applied."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..results.records import Message
from .model_files import remote_code_allowed
from .turn_end import turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands in where a base model brings no chat template; reports say so.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{{ '### ' + message['role'] + ':\\n' + message['content'] + '\\n\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}"
)

_THINKING = "think|thinking|thought|reasoning|seed:think"
OPENED = re.compile(rf"<({_THINKING})>\s*\Z")  # a block of thinking that a prompt leaves open at its end


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """Load a folder's tokenizer; gives it the plain template if it has none, and a pad token if it has none.

    InputError if there is no tokenizer, or it has no EOS token (a response could never end).
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=remote_code_allowed())
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"{folder} holds no tokenizer that can be loaded ({first}); add tokenizer.json beside the model"
        ) from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {folder} has no EOS token; set eos_token in tokenizer_config.json")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks are built from lengths, so the id does not matter
    return tokenizer


def render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> str:
    """A conversation as its template writes it, up to where the assistant's reply begins."""
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)


def encode_rendered(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Token ids of what `render` wrote; BOS comes from the template alone."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Token ids of conversations up to where the assistant's reply begins."""
    return encode_rendered(tokenizer, [render(tokenizer, messages) for messages in conversations])


def encode_responses(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Token ids of replies with the token that ends each; tokenized alone, so none spans the boundary to the prompt."""
    encoded, end = tokenizer(list(texts), add_special_tokens=False)["input_ids"], turn_end(tokenizer)
    return [[*ids, end] for ids in encoded]


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> list[int]:
    """`encode_prompts` of one conversation."""
    return encode_prompts(tokenizer, [messages])[0]


def encode_response(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """`encode_responses` of one reply."""
    return encode_responses(tokenizer, [text])[0]


def decode_response(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """Text of a reply's token ids, without EOS and other special tokens."""
    return tokenizer.decode(list(ids), skip_special_tokens=True).strip()
