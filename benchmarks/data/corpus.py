"""A benchmark's preference pairs, tokenized once into files and split by prompt into disjoint uses."""

import contextlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pyarrow
from pyarrow import RecordBatch

from ...errors import InputError, nearest
from ...models.chat import encode_prompts, encode_responses
from ...models.checkpoint import Checkpoint
from ...models.find import BUILTIN
from ...preferences.files import source_digest
from ...preferences.read import PreferenceRow, Reading, from_rows, places_by_prompt, read_preferences, split_key
from ...preferences.unpaired import RatedRow, read_unpaired
from ...results.integrity import code_digest, digest, digest_each, write_json
from ...results.lazy import LazySequence, chunks
from ...results.records import LabelledPair, Message, Pair, Prompt, RatedReply
from ...results.store import NotMade, read_json
from ...runtime import processes
from ...training.task import PromptDataset
from ..context import Workshop
from ..definition.spec import BenchmarkSpec, Labels
from .arrow_rows import ArrowFile, ArrowRows, divide, token_ids
from .labels import changed
from .more_pairs import Rows, append_pairs

WORLDS = {"world": "alignment_bench.benchmarks.world:preference_rows"}
WORLD_ROWS, WORLD_SEED = 6000, 20260
CODE = ("benchmarks/data", "preferences", "models")
WORLD_CODE = ("benchmarks/world.py", "benchmarks/world_reward.py")

TO_TRAIN, TO_TUNE = ("sft", "training"), ("selection", "tuning")  # the splits by what may be done with them
PARTS = (*TO_TRAIN, "evaluation", "heldout", *TO_TUNE)
SIDES = ("chosen", "rejected")
FITTING, UNPAIRED, RECORD = ".fitting.arrow", "unpaired.arrow", "record.json"

_MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
_IDS = pyarrow.list_(pyarrow.int32())
# An id is 16 hexadecimal digits, so it is kept as the number that they are.
_PROMPT = [("id", pyarrow.uint64()), ("prompt_id", pyarrow.uint64()), ("prompt", _MESSAGES), ("prompt_ids", _IDS)]
_REPLIES = [("chosen", pyarrow.string()), ("rejected", pyarrow.string()), ("chosen_ids", _IDS), ("rejected_ids", _IDS)]
PAIRS = pyarrow.schema([*_PROMPT, *_REPLIES, ("subset", pyarrow.string())])
REPLIES = pyarrow.schema([*_PROMPT, ("ids", _IDS), ("good", pyarrow.bool_())])


@dataclass(frozen=True)
class Corpus:
    """The uses of the pairs, and what was left out. Rows lie on disk and are read when they are looked at."""

    sft: ArrowRows[Pair]
    training: ArrowRows[Pair]
    evaluation: ArrowRows[Pair]
    heldout: ArrowRows[Pair]
    selection: ArrowRows[Pair]
    """Empty, as `tuning` is, where the benchmark gives it no share."""
    tuning: ArrowRows[Pair]
    unpaired: Sequence[RatedReply]
    """Replies rated on their own, none of them to a prompt of another use than `sft` and `training`."""
    record: dict[str, Any]
    """For run.json: source, rows read, dropped by reason, used and left over, pairs and prompts of each split."""
    digest: str
    """Hash of every pair and of the split it is in."""

    @property
    def labelled(self) -> Sequence[LabelledPair]:
        """The held-out pairs as text, in the same order."""
        return self.labelled_of("heldout")

    def labelled_of(self, part: str) -> Sequence[LabelledPair]:
        """The pairs of a split as text, in the same order."""
        return getattr(self, part).read_as(_labelled)

    def prompts(self, pairs: ArrowRows[Pair], max_new_tokens: int, limit: int | None = None) -> PromptDataset:
        """The prompts of some pairs, each once, the first `limit` in the order of their ids (which are hashes)."""
        places = np.unique(pairs.column("prompt_id"), return_index=True)[1][:limit]
        prompts = pairs.read_as(_prompt)
        return PromptDataset(LazySequence(len(places), lambda i: prompts[places[i]]), max_new_tokens)

    def prompt_ids(self, *parts: str) -> np.ndarray:
        """The ids of the prompts of these splits, each once, as rising numbers."""
        return _prompt_ids(getattr(self, part) for part in parts)


def load_corpus(spec: BenchmarkSpec, base: Checkpoint, shop: Workshop) -> Corpus:
    """Read, limit, tokenize and split a benchmark's preferences, or find them on disk.

    InputError for anything that cannot be used. The first of several processes writes, the others then read.
    """
    builtin = spec.preferences.startswith(BUILTIN)
    if spec.unpaired:
        read_unpaired(spec.unpaired)  # says so where there is no such file
    inputs = {
        "code": code_digest(*CODE, *(WORLD_CODE if builtin else ())),
        "tokenizer": base.key,
        "packages": shop.packages,
        "source": spec.preferences if builtin else source_digest(spec.preferences, spec.preferences_split),
        "unpaired": source_digest(spec.unpaired) if spec.unpaired else None,
        "rows": spec.rows,
        "splits": [*spec.splits.shares.items(), spec.split_seed],
        "lengths": [spec.max_prompt_tokens, spec.max_response_tokens],
        **({"more_pairs": [source_digest(source) for source in spec.more_pairs]} if spec.more_pairs else {}),
    }

    def build(out: Path) -> None:
        _write(spec, base.tokenizer(), out)

    stage = None
    if not processes.rank():
        with contextlib.suppress(NotMade):  # of a store that only looks
            stage = shop.store.stage("corpus", inputs, build)
    stage = processes.broadcast(stage)
    if stage is None:  # so it is made for this once; a mapped file outlives its name
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder))
            return _open(spec, Path(folder))
    return _open(spec, stage.path, stage=stage.key)


def rows_digest(rows: Sequence[Pair] | Sequence[RatedReply]) -> str:
    """A hash of the token ids of rows, in their order."""
    if isinstance(rows, ArrowRows) and rows.digest:
        return rows.digest
    return digest_each(
        [r.id, r.prompt.ids, *((r.chosen, r.rejected) if isinstance(r, Pair) else (r.ids, r.good))] for r in rows
    )


def prompt_id(messages: Sequence[Message]) -> str:
    """A prompt's id: 16 hexadecimal digits of the hash of its messages."""
    return digest(list(messages))[:16]


def _prompt_ids(parts: Iterable[ArrowRows]) -> np.ndarray:
    """The ids of the prompts of some splits, each once, as rising numbers."""
    return np.unique(np.concatenate([part.column("prompt_id") for part in parts]))


# Writing


def _write(spec: BenchmarkSpec, tokenizer: Any, out: Path) -> None:
    """A file a split and one for unpaired replies, and what was left out."""
    usable = _read(spec)
    names, keys = array("Q"), array("Q")  # of the pairs that fit: 16 bytes each, all that must be in memory of them
    misfits: Counter[str] = Counter()
    with pyarrow.ipc.new_file(str(out / FITTING), PAIRS) as fitting:
        for fits in _fitting(spec, tokenizer, usable, misfits):
            names.extend(columns["id"] for _, columns in fits)
            keys.extend(split_key(spec.split_seed, row.prompt) for row, _ in fits)
            fitting.write_batch(RecordBatch.from_pylist([columns for _, columns in fits], PAIRS))
    if not names:
        reasons = ", ".join(f"{count} {reason}" for reason, count in misfits.items())
        raise InputError(
            f"{spec.preferences}: no pair fits the benchmark's lengths ({reasons}); "
            f"raise max_prompt_tokens or max_response_tokens"
        )
    # ids are hashes, so the smallest are a fixed random choice
    kept = np.sort(np.argsort(np.frombuffer(names, np.uint64))[: spec.rows])
    shares = spec.splits.shares
    places = places_by_prompt(np.frombuffer(keys, np.uint64)[kept], shares, spec.preferences)
    places |= {name: np.empty(0, np.intp) for name in TO_TUNE if name not in shares}
    divide(out / FITTING, {out / f"{name}.arrow": kept[rows] for name, rows in places.items()})
    (out / FITTING).unlink()
    more = _append_more(spec, tokenizer, out) if spec.more_pairs else {}
    parts = {name: ArrowRows(ArrowFile(out / f"{name}.arrow"), _pair) for name in places}
    record = {
        "read": usable.read,
        "used": len(kept),
        "dropped": {**usable.dropped, **misfits},
        "left_over": len(names) - len(kept),
        "splits": {
            name: {"pairs": len(part), "prompts": len(np.unique(part.column("prompt_id")))}
            for name, part in parts.items()
            if name in shares
        },
        **more,
    }
    digests = {name: rows_digest(part) for name, part in parts.items()}
    if spec.unpaired:
        apart = _prompt_ids(part for name, part in parts.items() if name not in TO_TRAIN)
        record["unpaired"] = _write_unpaired(spec, spec.unpaired, tokenizer, apart, out)
        digests["unpaired"] = rows_digest(ArrowRows(ArrowFile(out / UNPAIRED), _reply))
    write_json(out / RECORD, {"record": record, "digests": digests})


def _fitting(spec: BenchmarkSpec, tokenizer: Any, rows: Iterable[PreferenceRow], misfits: Counter[str]) -> Rows:
    """Chunks of the rows within the benchmark's lengths, each with its columns; the others are counted by reason."""
    for chunk in chunks(rows, "preferences"):
        fits = []
        chosen, rejected = (encode_responses(tokenizer, [getattr(r, side) for r in chunk]) for side in SIDES)
        for row, columns, *replies in zip(chunk, _prompts(tokenizer, chunk), chosen, rejected, strict=True):
            reason = _too_long(spec, columns["prompt_ids"], *replies)
            if reason is None and replies[0] == replies[1]:
                reason = "chosen and rejected have the same tokens"
            if reason:
                misfits[reason] += 1
                continue
            texts = {"chosen": row.chosen, "rejected": row.rejected, "subset": row.subset}
            fits.append((row, {**columns, **texts, "chosen_ids": replies[0], "rejected_ids": replies[1]}))
        yield fits


def _append_more(spec: BenchmarkSpec, tokenizer: Any, out: Path) -> dict[str, Any]:
    """For the record: how many further pairs were written behind the training pairs, and what was left out."""
    others = (out / f"{name}.arrow" for name in PARTS if name not in TO_TRAIN)
    apart = _prompt_ids(ArrowRows(ArrowFile(path), _pair) for path in others)
    read, misfits = [read_preferences(source) for source in spec.more_pairs], Counter[str]()
    sources = [_fitting(spec, tokenizer, rows, misfits) for rows in read]
    found = append_pairs(out / "training.arrow", sources, apart, PAIRS)
    dropped = sum((Counter(rows.dropped) for rows in read), misfits + Counter(found["dropped"]))
    if not found["used"]:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        raise InputError(f"{', '.join(spec.more_pairs)}: none of these pairs can be added to the training ({reasons})")
    return {"more_pairs": {"used": found["used"], "dropped": dict(dropped)}}


def _write_unpaired(spec: BenchmarkSpec, source: str, tokenizer: Any, apart: np.ndarray, out: Path) -> dict[str, Any]:
    """A file of rated replies within the benchmark's lengths and not to prompts kept apart; what was left out.

    apart: the ids of those prompts as rising numbers.
    """
    usable = read_unpaired(source)
    misfits: Counter[str] = Counter()
    kinds = Counter({True: 0, False: 0})
    with pyarrow.ipc.new_file(str(out / UNPAIRED), REPLIES) as file:
        for chunk in chunks(usable, "unpaired replies"):
            fits = []
            replies = encode_responses(tokenizer, [row.reply for row in chunk])
            for row, columns, ids in zip(chunk, _prompts(tokenizer, chunk), replies, strict=True):
                place = np.searchsorted(apart, np.uint64(columns["prompt_id"]))
                reason = _too_long(spec, columns["prompt_ids"], ids)
                if place < len(apart) and apart[place] == columns["prompt_id"]:
                    reason = "prompt is among those kept for evaluation"
                if reason:
                    misfits[reason] += 1
                    continue
                kinds[row.good] += 1
                fits.append({**columns, "ids": ids, "good": row.good})
            file.write_batch(RecordBatch.from_pylist(fits, REPLIES))
    dropped = {**usable.dropped, **misfits}
    if not all(kinds.values()):
        raise InputError(
            f"{source}: of its usable replies {kinds[True]} are good and {kinds[False]} are not (dropped: "
            f"{dropped}); both kinds are needed"
        )
    return {"used": kinds.total(), "good": kinds[True], "dropped": dropped}


def _read(spec: BenchmarkSpec) -> Reading[PreferenceRow]:
    if not spec.preferences.startswith(BUILTIN):
        return read_preferences(spec.preferences, spec.preferences_split)
    name = spec.preferences.removeprefix(BUILTIN)
    if name not in WORLDS:
        raise InputError(f"there are no built-in preferences {name!r}; {nearest(name, WORLDS)}")
    rows = resolve_name(WORLDS[name])(spec.rows or WORLD_ROWS, seed=WORLD_SEED)
    return from_rows(rows, spec.preferences)


def _prompts(tokenizer: Any, rows: Sequence[PreferenceRow | RatedRow]) -> list[dict[str, Any]]:
    """The columns of each row's name and prompt; a prompt that several rows of a chunk have is tokenized once."""
    names = [prompt_id(row.prompt) for row in rows]
    unique = {name: row.prompt for name, row in zip(names, rows, strict=True)}
    ids = dict(zip(unique, encode_prompts(tokenizer, list(unique.values())), strict=True))
    return [
        {"id": int(row.id, 16), "prompt_id": int(name, 16), "prompt": row.prompt, "prompt_ids": ids[name]}
        for name, row in zip(names, rows, strict=True)
    ]


def _too_long(spec: BenchmarkSpec, prompt: Sequence[int], *replies: Sequence[int]) -> str | None:
    """The reason why a row is too long for the benchmark; None where it is not. Nothing is truncated."""
    if len(prompt) > spec.max_prompt_tokens:
        return f"prompt longer than {spec.max_prompt_tokens} tokens"
    if max(map(len, replies)) > spec.max_response_tokens:
        return f"reply longer than {spec.max_response_tokens} tokens"
    return None


# Reading


def _open(spec: BenchmarkSpec, folder: Path, **more: Any) -> Corpus:
    """The corpus of `_write`; more: for the record."""
    found = read_json(folder / RECORD)
    record, digests = found["record"], found["digests"]
    parts = {name: ArrowRows(ArrowFile(folder / f"{name}.arrow"), _pair, digests[name]) for name in PARTS}
    if spec.labels != Labels():
        parts["training"], record["labels"] = _relabelled(parts["training"], spec.labels)
        digests = {**digests, "training": parts["training"].digest}
    unpaired: Sequence[RatedReply] = ()
    if spec.unpaired:
        unpaired = ArrowRows(ArrowFile(folder / UNPAIRED), _reply, digests["unpaired"])
        record["unpaired"] = {"source": spec.unpaired, **record["unpaired"]}
    if spec.more_pairs:
        record["more_pairs"] = {"sources": list(spec.more_pairs), **record["more_pairs"]}
    record = {"source": spec.preferences, **record, **more}
    used = {name: of for name, of in digests.items() if name in record["splits"] or name == "unpaired"}
    return Corpus(**parts, unpaired=unpaired, record=record, digest=digest(used))


def _relabelled(rows: ArrowRows[Pair], labels: Labels) -> tuple[ArrowRows[Pair], dict[str, Any]]:
    """Pairs as a labeller that errs would have given them, and what was done."""
    file = rows.file
    swapped = changed(file.column("id"), file.lengths("chosen_ids"), file.lengths("rejected_ids"), labels)

    def read(batch: RecordBatch, place: int) -> Pair:
        pair, key = _pair(batch, place), batch.column("id")[place].as_py()
        at = np.searchsorted(swapped, np.uint64(key))
        is_swapped = at < len(swapped) and swapped[at] == key
        return replace(pair, chosen=pair.rejected, rejected=pair.chosen) if is_swapped else pair

    done = {**labels.model_dump(), "changed": len(swapped)}
    return ArrowRows(file, read, digest([rows.digest, done])), done


def _id(batch: RecordBatch, column: str, place: int) -> str:
    return f"{batch.column(column)[place].as_py():016x}"


def _prompt(batch: RecordBatch, place: int) -> Prompt:
    messages = tuple(batch.column("prompt")[place].as_py())
    return Prompt(_id(batch, "prompt_id", place), messages, token_ids(batch, "prompt_ids", place))


def _pair(batch: RecordBatch, place: int) -> Pair:
    chosen, rejected = (token_ids(batch, column, place) for column in ("chosen_ids", "rejected_ids"))
    return Pair(_id(batch, "id", place), _prompt(batch, place), chosen, rejected)


def _reply(batch: RecordBatch, place: int) -> RatedReply:
    ids, good = token_ids(batch, "ids", place), batch.column("good")[place].as_py()
    return RatedReply(_id(batch, "id", place), _prompt(batch, place), ids, good)


def _labelled(batch: RecordBatch, place: int) -> LabelledPair:
    prompt, chosen, rejected, subset = (
        batch.column(name)[place].as_py() for name in ("prompt", "chosen", "rejected", "subset")
    )
    return LabelledPair(_id(batch, "prompt_id", place), tuple(prompt), chosen, rejected, subset)
