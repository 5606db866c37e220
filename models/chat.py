"""Messages as token ids: the one place where a chat template is applied."""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
# The prompt as it is, which the model goes on with; its BOS where the tokenizer itself puts one.
BARE_TEMPLATE = "{{ messages | map(attribute='content') | join('\\n\\n') }}"
BOS = "{{ bos_token }}"
Template = Literal["chat", "text"]
CLOSING = (",", ".", ";", ":", "!", "?", "'")  # a text that begins so follows a word without a space
# Today in templates that write the date: one day, lest a run give other numbers on another.
TODAY = datetime(2026, 1, 1)
DATED = "strftime_now"  # the function by which they ask for it
DIRECTIVES = ("-d", "-m", "-I", *"aAbBdeHIjmMpSyY")  # of strftime
_THINKING = "think|thinking|thought|reasoning|seed:think"
OPENED = re.compile(rf"<({_THINKING})>\s*\Z")  # a block of thinking that a prompt leaves open at its end


class Refused(InputError):
    """A conversation that a chat template refuses, in the template's own words."""


def load_tokenizer(folder: str | Path, template: Template = "chat") -> "PreTrainedTokenizerBase":
    """Load a folder's tokenizer; gives it the plain template if it has none, and a pad token if it has none.

    template: its own (chat), or the bare one in its place (text). InputError if there is no tokenizer, it has no EOS
    token (a response could never end), or several templates of which none is the default.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=remote_code_allowed())
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"{folder} holds no tokenizer that can be loaded ({first}); add tokenizer.json beside the model"
        ) from None
    except (KeyError, TypeError) as error:  # templates in a list without names
        raise InputError(
            f"the tokenizer of {folder} cannot be read ({type(error).__name__}: {error}); where chat_template in its "
            f"tokenizer_config.json is a list, give each template a name, or leave one text"
        ) from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {folder} has no EOS token; set eos_token in tokenizer_config.json")
    if template == "text":
        starts = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = (BOS if starts else "") + BARE_TEMPLATE
    elif tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    _template(tokenizer)  # says so where there are several
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks are built from lengths, so the id does not matter
    return tokenizer


def is_bare(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """True where a prompt is bare text, which a reply goes on with after a space."""
    return str(tokenizer.chat_template).removeprefix(BOS) == BARE_TEMPLATE


def writes_date(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """True where the chat template asks for the date, for which it gets `TODAY`."""
    return DATED in str(tokenizer.chat_template)


def render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], *, is_prompt: bool = True) -> str:
    """A conversation as its template writes it, as a prompt up to where the reply begins; Refused in its own words."""
    from jinja2 import TemplateError

    template = _template(tokenizer)
    try:
        return tokenizer.apply_chat_template(
            list(messages), chat_template=template, tokenize=False, add_generation_prompt=is_prompt
        )
    except (TemplateError, TypeError) as error:
        words = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise Refused(f"the chat template refuses the prompt: {words}") from None


def _template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The template that is used, in which today is `TODAY`; InputError where there are several and none is default."""
    try:
        return _on_one_day(tokenizer.get_chat_template())
    except ValueError:
        names = ", ".join(tokenizer.chat_template or ())
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} has several chat templates ({names}) and none named default; "
            f"give chat_template in its tokenizer_config.json one of them"
        ) from None


@lru_cache
def _on_one_day(template: str) -> str:
    """A template whose `strftime_now` is a macro: transformers gives no way to pass another function to it."""
    if DATED not in template:
        return template
    written = "".join(f" | replace('%{each}', '{TODAY.strftime(f'%{each}')}')" for each in DIRECTIVES)
    return f"{{% macro {DATED}(format) %}}{{{{ format{written} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"


def encode_rendered(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Token ids of what `render` wrote; BOS comes from the template alone."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Token ids of conversations up to where the assistant's reply begins; Refused as `render`."""
    return encode_rendered(tokenizer, [render(tokenizer, messages) for messages in conversations])


def encode_responses(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], cut: Sequence[bool] | None = None
) -> list[list[int]]:
    """Token ids of replies with the token that ends each; tokenized alone, so none spans the boundary to the prompt.

    cut: true for a reply that did not end by itself; it gets no such token. After bare text one begins with a space.
    """
    texts = [without_end(tokenizer, text) for text in texts]
    if is_bare(tokenizer):
        texts = [text if text.startswith(CLOSING) or not text else f" {text}" for text in texts]
    encoded, end = encode_rendered(tokenizer, texts), turn_end(tokenizer)
    return [
        ids if is_cut and ids else [*ids, end]
        for ids, is_cut in zip(encoded, repeat(False) if cut is None else cut, strict=cut is not None)
    ]


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> list[int]:
    """`encode_prompts` of one conversation."""
    return encode_prompts(tokenizer, [messages])[0]


def encode_response(tokenizer: "PreTrainedTokenizerBase", text: str, cut: bool = False) -> list[int]:
    """`encode_responses` of one reply."""
    return encode_responses(tokenizer, [text], [cut])[0]


def without_end(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """A text without the control tokens (EOS, an end of turn) that stand at its end as text, if there are any."""
    ends = _ends(tokenizer)
    while (bare := text.rstrip()).endswith(ends):
        text = next(bare.removesuffix(end) for end in ends if bare.endswith(end)).rstrip()
    return text


@lru_cache(maxsize=8)
def _ends(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    return tuple(token for token in tokenizer.all_special_tokens if token != tokenizer.bos_token)


def as_sampled(tokenizer: "PreTrainedTokenizerBase", prompt: str, reply: str, cut: bool = False) -> str:
    """A reply of the data as the model would write it after a rendered prompt.

    Without an end that stands in it as text. Where the prompt opens a block of thinking, a reply does not open it once
    more, and one that holds no thoughts closes it at once (a cut one may lie within it).
    """
    reply = without_end(tokenizer, reply)
    if not (opened := OPENED.search(prompt)):
        return reply
    tag = opened[1]
    if begun := re.match(rf"\s*<{tag}>\s*", reply):
        return reply[begun.end() :]
    return reply if cut or f"</{tag}>" in reply else f"\n</{tag}>\n\n{reply}"


def opens_thoughts(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """True where a prompt ends in a block of thinking that it opens, so that every response begins within it."""
    return bool(OPENED.search(render(tokenizer, [{"role": "user", "content": "?"}])))


def answer_of(text: str, opened: bool) -> str:
    """A response without its thoughts: what follows the last block of them, nothing where they do not end.

    opened: see `opens_thoughts`.
    """
    *before, last = re.split(rf"</(?:{_THINKING})>", text)
    unfinished = re.match(rf"\s*<(?:{_THINKING})>", text)
    return "" if not before and (opened or unfinished) else last.strip()


def decode_response(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """Text of a reply's token ids, without EOS and other special tokens."""
    return tokenizer.decode(list(ids), skip_special_tokens=True).strip()
