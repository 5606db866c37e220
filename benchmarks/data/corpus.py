"""A benchmark's preference pairs, tokenized once into files and split by prompt into disjoint uses."""

import contextlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pyarrow
from pyarrow import RecordBatch

from ...errors import InputError, nearest
from ...evaluators.reward_function import reward_of
from ...models.chat import as_sampled, encode_responses
from ...models.checkpoint import Checkpoint
from ...models.ches import ches
from ...models.find import BUILTIN
from ...models.policy import Policy
from ...preferences.files import source_digest
from ...preferences.read import PreferenceRow, Reading, from_rows, places_by_prompt, read_preferences, split_key
from ...preferences.unpaired import read_unpaired
from ...results.integrity import code_digest, digest, digest_each, write_json
from ...results.lazy import LazySequence, chunks
from ...results.records import LabelledPair, Pair, RatedReply
from ...results.store import NotMade, read_json
from ...runtime import processes
from ...training.task import PromptDataset
from ..context import MODEL_CODE, Workshop
from ..definition.spec import BY_HASH, LENGTH, BenchmarkSpec, Labels, TrainingPairs
from .arrow_columns import (
    PAIRS,
    REPLIES,
    SIDES,
    labelled_pair_of,
    pair_of,
    prompt_columns,
    prompt_id,
    prompt_of,
    reply_of,
    subset_of,
)
from .arrow_rows import ArrowFile, ArrowRows, divide
from .collected import collect_pairs
from .labels import changed
from .misfits import SAME, Misfits
from .more_pairs import Rows, append_pairs
from .prompts import Shown, ids_hash, least, show
from .training_pairs import Score, check_training_pairs, training_rows

WORLDS = {"world": "alignment_bench.benchmarks.world:preference_rows"}
WORLD_ROWS, WORLD_SEED = 6000, 20260
CODE = ("benchmarks/data", "preferences", "models")
WORLD_CODE = ("benchmarks/world.py", "benchmarks/world_reward.py")

TO_TRAIN, TO_TUNE = ("sft", "training"), ("selection", "tuning")  # the splits by what may be done with them
PARTS = (*TO_TRAIN, "evaluation", "heldout", *TO_TUNE)
FITTING, UNPAIRED, RECORD = ".fitting.arrow", "unpaired.arrow", "record.json"


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
    demonstrations: Sequence[RatedReply]
    """What SFT imitates in place of the pairs of `sft`; empty where it does not."""
    practice: ArrowRows[Any]
    """Rows whose prompts methods sample from: `training`, unless the benchmark brings others."""
    questions: ArrowRows[Any]
    """Rows whose prompts policies are judged on: `heldout`, unless the benchmark brings others."""
    record: dict[str, Any]
    """For run.json: source, rows read, dropped by reason, used and left over, pairs and prompts of each split.

    Rows read are those used, those left over by `rows`, and all that were dropped."""
    digest: str
    """Hash of every pair and of the split it is in."""

    @property
    def labelled(self) -> Sequence[LabelledPair]:
        """The held-out pairs as text, in the same order."""
        return self.labelled_of("heldout")

    def labelled_of(self, part: str) -> Sequence[LabelledPair]:
        """The pairs of a split as text, in the same order."""
        return getattr(self, part).read_as(labelled_pair_of)

    @property
    def subsets(self) -> dict[str, str | None]:
        """The subset of each prompt that policies are judged on, by its id."""
        return dict(self.questions.read_as(subset_of))

    def prompts(self, rows: ArrowRows[Any], max_new_tokens: int, limit: int | None = None) -> PromptDataset:
        """The prompts of some rows, each once, the first `limit` in the order of their ids (which are hashes)."""
        places = np.unique(rows.column("prompt_id"), return_index=True)[1][:limit]
        prompts = rows.read_as(prompt_of)
        return PromptDataset(LazySequence(len(places), lambda i: prompts[places[i]]), max_new_tokens)

    def prompt_ids(self, *parts: str) -> np.ndarray:
        """The ids of the prompts of these splits, each once, as rising numbers."""
        return np.unique(np.concatenate([getattr(self, part).column("prompt_id") for part in parts]))

    def prompt_hashes(self, *parts: str) -> np.ndarray:
        """The hashes of these splits' prompts as the model sees them (`Shown.hash`), each once, rising."""
        return np.unique(np.concatenate([getattr(self, part).column("prompt_hash") for part in parts]))


def load_corpus(spec: BenchmarkSpec, base: Checkpoint, shop: Workshop) -> Corpus:
    """Read, limit, tokenize and split a benchmark's preferences, or find them on disk.

    InputError for anything that cannot be used.
    """
    check_training_pairs(spec)
    collection = collect_pairs(spec, base, shop) if spec.collected else None
    builtin = not collection and spec.preferences.startswith(BUILTIN)
    if spec.unpaired:
        read_unpaired(spec.unpaired)  # says so where there is no such file
    if spec.labels.taste != LENGTH:
        reward_of(spec.labels.taste, _taste(spec))  # the same of a function
    inputs = {
        "code": code_digest(*CODE, *(WORLD_CODE if builtin else ())),
        "tokenizer": base.key,
        "packages": shop.packages,
        "source": collection.key if collection else _source(spec),
        "unpaired": source_digest(spec.unpaired) if spec.unpaired else None,
        "rows": spec.rows,
        "splits": [*spec.shares.items(), spec.split_seed],
        "lengths": [spec.max_prompt_tokens, spec.max_response_tokens],
        **({"training_pairs": spec.training_pairs.model_dump()} if spec.training_pairs != TrainingPairs() else {}),
        **({"states": shop.inputs(MODEL_CODE, base=base.key)} if spec.training_pairs.by != BY_HASH else {}),
        **({"columns": spec.columns} if spec.columns and not collection else {}),
        **({"more_pairs": [source_digest(source) for source in spec.more_pairs]} if spec.more_pairs else {}),
    }

    def score(pairs: Sequence[Pair]) -> np.ndarray:
        with processes.apart():  # the first of several processes alone, opening and passes
            return ches(Policy.open(base, shop.tuning, trainable=False), pairs)

    def build(out: Path) -> None:
        usable = read_preferences(str(collection.path)) if collection else _read(spec)
        _write(spec, usable, base.tokenizer(), score, out)

    more: dict[str, Any] = {"collected": collection.counts} if collection else {}
    return made_once(shop, "corpus", inputs, build, partial(_open, spec, **more))


def made_once(
    shop: Workshop, name: str, inputs: dict[str, Any], build: Callable[[Path], None], read: Callable[..., Corpus]
) -> Corpus:
    """The corpus of a stage's files: read(folder, stage=key). The first of several processes writes them."""
    stage = None
    if not processes.rank():
        with contextlib.suppress(NotMade):  # of a store that only looks
            stage = shop.store.stage(name, inputs, build)
    stage = processes.broadcast(stage)
    if stage is None:  # so it is made for this once; a mapped file outlives its name
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder))
            return read(Path(folder))
    return read(stage.path, stage=stage.key)


def rows_digest(rows: Sequence[Pair] | Sequence[RatedReply]) -> str:
    """A hash of the token ids of rows, in their order."""
    if isinstance(rows, ArrowRows) and rows.digest:
        return rows.digest
    return digest_each(
        [r.id, r.prompt.ids, *((r.chosen, r.rejected) if isinstance(r, Pair) else (r.ids, r.good))] for r in rows
    )


# Writing


def _write(spec: BenchmarkSpec, usable: Reading[PreferenceRow], tokenizer: Any, score: Score, out: Path) -> None:
    """A file a split and one for unpaired replies, and what was left out."""
    keys, contents = array("Q"), array("Q")  # of the pairs that fit; with their names all that is in memory of them
    misfits = Misfits(spec)
    with pyarrow.ipc.new_file(str(out / FITTING), PAIRS) as fitting:
        for fits in _fitting(tokenizer, usable, misfits):
            keys.extend(split_key(spec.split_seed, row.prompt) for row, _ in fits)
            contents.extend(_contents(row, columns) for row, columns in fits)
            fitting.write_batch(RecordBatch.from_pylist([columns for _, columns in fits], PAIRS))
    if not keys:
        raise InputError(f"{spec.preferences}: no pair can be used ({misfits.told()})")
    kept = _kept(ArrowFile(out / FITTING).column("id"), np.frombuffer(contents, np.uint64), spec.rows, misfits)
    left_over = len(keys) - misfits.count[SAME] - len(kept)
    hashes, names = (ArrowFile(out / FITTING).column(name)[kept] for name in ("prompt_hash", "prompt_id"))
    # prompts that are one to the model are one: all have the least of their texts' keys and ids
    prompts = least(names, hashes)
    shares = spec.shares
    places = places_by_prompt(least(np.frombuffer(keys, np.uint64)[kept], hashes), shares, spec.preferences)
    places |= {name: np.empty(0, np.intp) for name in PARTS if name not in shares}
    trained = training_rows(spec, ArrowFile(out / FITTING), kept, places["training"], score)
    left_out = len(places["training"]) - len(trained)
    places["training"] = trained
    divide(out / FITTING, {out / f"{name}.arrow": (kept[rows], prompts[rows]) for name, rows in places.items()})
    (out / FITTING).unlink()
    more = _append_more(spec, tokenizer, out) if spec.more_pairs else {}
    parts = {name: ArrowRows(ArrowFile(out / f"{name}.arrow"), pair_of) for name in places}
    record = {
        "read": usable.read,
        "used": len(kept) - left_out,
        "dropped": {**usable.dropped, **misfits.count},
        "settings": misfits.settings(),
        "left_over": left_over + left_out,
        **({"training_pairs": {**spec.training_pairs.model_dump(), "left_out": left_out}} if left_out else {}),
        "same_prompts": len(np.unique(names)) - len(np.unique(prompts)),
        "splits": {
            name: {"pairs": len(part), "prompts": len(np.unique(part.column("prompt_id")))}
            for name, part in parts.items()
            if name in shares
        },
        **more,
    }
    digests = {name: rows_digest(part) for name, part in parts.items()}
    if spec.unpaired:
        apart = np.unique(np.concatenate([hashes[rows] for name, rows in places.items() if name not in TO_TRAIN]))
        record["unpaired"] = _write_unpaired(spec, spec.unpaired, tokenizer, apart, out)
        digests["unpaired"] = rows_digest(ArrowRows(ArrowFile(out / UNPAIRED), reply_of))
    write_json(out / RECORD, {"record": record, "digests": digests})


def _fitting(tokenizer: Any, rows: Iterable[PreferenceRow], misfits: Misfits) -> Rows:
    """Chunks of the rows that fit the benchmark, each with its columns; the others are counted by reason."""
    for chunk in chunks(rows, "preferences"):
        fits = []
        for row, shown, sides in encoded(tokenizer, chunk, lambda r: zip((r.chosen, r.rejected), r.cut, strict=True)):
            if misfits.has(shown, *(ids for _, ids in sides)):
                continue
            (chosen, chosen_ids), (rejected, rejected_ids) = sides
            assert isinstance(shown, Shown)
            texts = {"chosen": chosen, "rejected": rejected, "subset": row.subset}
            cut = dict(zip(("chosen_cut", "rejected_cut"), row.cut, strict=True))
            ids = {"chosen_ids": chosen_ids, "rejected_ids": rejected_ids}
            fits.append((row, {**prompt_columns(row, shown), **texts, **cut, **ids}))
        yield fits


def _contents(row: PreferenceRow, columns: dict[str, Any]) -> int:
    """A hash of a pair's tokens, and of who labelled it."""
    return ids_hash(*(columns[f"{part}_ids"] for part in ("prompt", *SIDES)), also=row.labeler_id or "")


def _append_more(spec: BenchmarkSpec, tokenizer: Any, out: Path) -> dict[str, Any]:
    """For the record: how many further pairs were written behind the training pairs, and what was left out."""
    others = [ArrowFile(out / f"{name}.arrow").column("prompt_hash") for name in PARTS if name not in TO_TRAIN]
    read, misfits = [read_preferences(source) for source in spec.more_pairs], Misfits(spec)
    sources = [_fitting(tokenizer, rows, misfits) for rows in read]
    found = append_pairs(out / "training.arrow", sources, np.unique(np.concatenate(others)), PAIRS)
    dropped = sum((Counter(rows.dropped) for rows in read), misfits.count + Counter(found["dropped"]))
    if not found["used"]:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        raise InputError(f"{', '.join(spec.more_pairs)}: none of these pairs can be added to the training ({reasons})")
    return {"more_pairs": {"used": found["used"], "dropped": dict(dropped)}}


def _kept(ids: np.ndarray, contents: np.ndarray, limit: int | None, misfits: Misfits) -> np.ndarray:
    """The places, rising, of at most so many rows, those of the smallest ids; of rows of the same tokens only one.

    ids are hashes, so the smallest are a fixed random choice. contents: hashes of the rows' tokens.
    """
    order = np.argsort(ids)
    first = np.sort(np.unique(contents[order], return_index=True)[1])  # in the order of ids
    if again := len(ids) - len(first):
        misfits.count[SAME] = again
    return np.sort(order[first[:limit]])


def _write_unpaired(spec: BenchmarkSpec, source: str, tokenizer: Any, apart: np.ndarray, out: Path) -> dict[str, Any]:
    """A file of rated replies within the benchmark's lengths and not to prompts kept apart; what was left out.

    apart: the hashes of those prompts as the model sees them.
    """
    usable = read_unpaired(source)
    misfits = Misfits(spec)
    kinds = Counter({True: 0, False: 0})
    with pyarrow.ipc.new_file(str(out / UNPAIRED), REPLIES) as file:
        for chunk in chunks(usable, "unpaired replies"):
            fits = []
            for row, shown, ((_, ids),) in encoded(tokenizer, chunk, lambda r: [(r.reply, r.cut)]):
                if isinstance(shown, Shown) and np.isin(np.uint64(shown.hash), apart):
                    misfits.count["prompt is among those kept for evaluation"] += 1
                elif not misfits.has(shown, ids):
                    assert isinstance(shown, Shown)
                    kinds[row.good] += 1
                    fits.append({**prompt_columns(row, shown), "ids": ids, "good": row.good})
            file.write_batch(RecordBatch.from_pylist(fits, REPLIES))
    dropped = {**usable.dropped, **misfits.count}
    if not all(kinds.values()):
        raise InputError(
            f"{source}: of its usable replies {kinds[True]} are good and {kinds[False]} are not (dropped: "
            f"{dropped}); both kinds are needed"
        )
    return {"used": kinds.total(), "good": kinds[True], "dropped": dropped}


def _source(spec: BenchmarkSpec) -> str:
    """What tells the pairs of one source from another's: a name that is built in, or a hash of what is read."""
    if spec.preferences.startswith(BUILTIN):
        return spec.preferences
    return source_digest(spec.preferences, spec.preferences_split)


def _read(spec: BenchmarkSpec) -> Reading[PreferenceRow]:
    if not spec.preferences.startswith(BUILTIN):
        return read_preferences(spec.preferences, spec.preferences_split, spec.columns)
    name = spec.preferences.removeprefix(BUILTIN)
    if name not in WORLDS:
        raise InputError(f"there are no built-in preferences {name!r}; {nearest(name, WORLDS)}")
    rows = resolve_name(WORLDS[name])(spec.rows or WORLD_ROWS, seed=WORLD_SEED)
    return from_rows(rows, spec.preferences)


def encoded(tokenizer: Any, rows: Sequence[Any], replies_of: Callable[[Any], Iterable[tuple[str, bool]]]) -> Iterator:
    """Each row with its prompt as the model sees it (or why the template refuses it), and its replies as text and ids.

    replies_of: a row's replies, each with whether it was cut. A prompt that several rows have is tokenized once.
    """
    unique = {prompt_id(row.prompt): row.prompt for row in rows}
    shown = dict(zip(unique, show(tokenizer, list(unique.values())), strict=True))
    prompts = [shown[prompt_id(row.prompt)] for row in rows]
    texts: list[list[str]] = []
    cuts: list[list[bool]] = []
    for row, prompt in zip(rows, prompts, strict=True):
        given = list(replies_of(row))
        before = prompt.text if isinstance(prompt, Shown) else ""
        texts.append([as_sampled(tokenizer, before, reply, cut) for reply, cut in given])
        cuts.append([cut for _, cut in given])
    ids = iter(encode_responses(tokenizer, [t for of in texts for t in of], [c for of in cuts for c in of]))
    for row, prompt, of in zip(rows, prompts, texts, strict=True):
        yield row, prompt, [(text, next(ids)) for text in of]


# Reading


def _open(spec: BenchmarkSpec, folder: Path, **more: Any) -> Corpus:
    """The corpus of `_write`; more: for the record."""
    found = read_json(folder / RECORD)
    record, digests = found["record"], found["digests"]
    parts = {name: ArrowRows(ArrowFile(folder / f"{name}.arrow"), pair_of, digests[name]) for name in PARTS}
    if spec.labels != Labels():
        parts["training"], record["labels"] = _relabelled(parts["training"], spec)
        digests = {**digests, "training": parts["training"].digest}
    unpaired: Sequence[RatedReply] = ()
    if spec.unpaired:
        unpaired = ArrowRows(ArrowFile(folder / UNPAIRED), reply_of, digests["unpaired"])
        record["unpaired"] = {"source": spec.unpaired, **record["unpaired"]}
    if spec.more_pairs:
        record["more_pairs"] = {"sources": list(spec.more_pairs), **record["more_pairs"]}
    record = {"source": spec.preferences, **record, **more}
    used = {name: of for name, of in digests.items() if name in record["splits"] or name == "unpaired"}
    return Corpus(
        **parts,
        unpaired=unpaired,
        demonstrations=(),
        practice=parts["training"],
        questions=parts["heldout"],
        record=record,
        digest=digest(used),
    )


def _taste(spec: BenchmarkSpec) -> str:
    """Where the taste of labellers is written, for errors."""
    return f"{spec.place('labels', 'taste')}, labels.taste"


def _relabelled(rows: ArrowRows[Pair], spec: BenchmarkSpec) -> tuple[ArrowRows[Pair], dict[str, Any]]:
    """Pairs as a labeller that errs would have given them, and what was done."""
    swapped = changed(rows.file, spec.labels, _taste(spec))

    def read(batch: RecordBatch, place: int) -> Pair:
        pair, key = pair_of(batch, place), batch.column("id")[place].as_py()
        at = np.searchsorted(swapped, np.uint64(key))
        is_swapped = at < len(swapped) and swapped[at] == key
        return replace(pair, chosen=pair.rejected, rejected=pair.chosen) if is_swapped else pair

    done = {**spec.labels.model_dump(), "changed": len(swapped)}
    key = digest([rows.digest, swapped.tolist()]) if len(swapped) else rows.digest
    return ArrowRows(rows.file, read, key), done
