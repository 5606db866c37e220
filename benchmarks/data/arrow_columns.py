"""The columns of the rows of a benchmark's data on disk, and how a row is read back from them."""

from collections.abc import Sequence
from typing import Any

import pyarrow
from pyarrow import RecordBatch

from ...preferences.demonstrations import PromptRow
from ...preferences.read import PreferenceRow
from ...preferences.unpaired import RatedRow
from ...results.integrity import digest
from ...results.records import LabelledPair, Message, Pair, Prompt, RatedReply
from .arrow_rows import token_ids
from .prompts import Shown

SIDES = ("chosen", "rejected")
_MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
_IDS = pyarrow.list_(pyarrow.int32())
# An id is 16 hexadecimal digits, so it is kept as the number that they are.
_NAMES = [(name, pyarrow.uint64()) for name in ("id", "prompt_id", "prompt_hash")]
PROMPT = [*_NAMES, ("prompt", _MESSAGES), ("prompt_ids", _IDS)]
_REPLIES = [("chosen", pyarrow.string()), ("rejected", pyarrow.string()), ("chosen_ids", _IDS), ("rejected_ids", _IDS)]
_CUT = [("chosen_cut", pyarrow.bool_()), ("rejected_cut", pyarrow.bool_())]
PAIRS = pyarrow.schema([*PROMPT, *_REPLIES, *_CUT, ("subset", pyarrow.string())])
REPLIES = pyarrow.schema([*PROMPT, ("ids", _IDS), ("good", pyarrow.bool_())])


def prompt_id(messages: Sequence[Message]) -> str:
    """A prompt's id: 16 hexadecimal digits of the hash of its messages."""
    return digest(list(messages))[:16]


def prompt_columns(row: PreferenceRow | RatedRow | PromptRow, shown: Shown) -> dict[str, Any]:
    """The columns of a row's name and prompt."""
    names = {"id": int(row.id, 16), "prompt_id": int(prompt_id(row.prompt), 16), "prompt_hash": shown.hash}
    return {**names, "prompt": row.prompt, "prompt_ids": shown.ids}


def _id(batch: RecordBatch, column: str, place: int) -> str:
    return f"{batch.column(column)[place].as_py():016x}"


def prompt_of(batch: RecordBatch, place: int) -> Prompt:
    messages = tuple(batch.column("prompt")[place].as_py())
    return Prompt(_id(batch, "prompt_id", place), messages, token_ids(batch, "prompt_ids", place))


def subset_of(batch: RecordBatch, place: int) -> tuple[str, str | None]:
    return _id(batch, "prompt_id", place), batch.column("subset")[place].as_py()


def pair_of(batch: RecordBatch, place: int) -> Pair:
    chosen, rejected = (token_ids(batch, column, place) for column in ("chosen_ids", "rejected_ids"))
    return Pair(_id(batch, "id", place), prompt_of(batch, place), chosen, rejected)


def reply_of(batch: RecordBatch, place: int) -> RatedReply:
    ids, good = token_ids(batch, "ids", place), batch.column("good")[place].as_py()
    return RatedReply(_id(batch, "id", place), prompt_of(batch, place), ids, good)


def labelled_pair_of(batch: RecordBatch, place: int) -> LabelledPair:
    names = ("prompt", "chosen", "rejected", "subset", "chosen_cut", "rejected_cut")
    prompt, chosen, rejected, subset, *cut = (batch.column(name)[place].as_py() for name in names)
    return LabelledPair(_id(batch, "prompt_id", place), tuple(prompt), chosen, rejected, subset, (cut[0], cut[1]))


def alike(batch: RecordBatch, place: int) -> float:
    """The share of two replies' tokens that is in their longest common subsequence."""
    from rapidfuzz.distance import Indel

    return Indel.normalized_similarity(*(token_ids(batch, f"{side}_ids", place) for side in SIDES))
