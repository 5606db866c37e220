"""What a team brings beside its pairs: demonstrations for SFT, prompts to sample from, questions to be judged on.

Whether two prompts are one goes by what the model sees, their token ids. A question that anything is trained or tuned
on is left out; then each demonstration and each prompt that is one of the questions left, or of the pairs' prompts that
are kept for evaluation or tuning.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import RecordBatch

from ...errors import InputError
from ...models.checkpoint import Checkpoint
from ...preferences.demonstrations import read_demonstrations, read_prompts
from ...preferences.files import source_digest
from ...preferences.read import HashSet, Reading
from ...results.integrity import code_digest, digest, digest_each, write_json
from ...results.lazy import chunks
from ...results.records import Prompt
from ...results.store import read_json
from ..context import Workshop
from ..definition.spec import BenchmarkSpec
from .arrow_columns import PROMPT, REPLIES, prompt_columns, prompt_of, reply_of
from .arrow_rows import ArrowFile, ArrowRows
from .corpus import CODE, RECORD, TO_TRAIN, TO_TUNE, Corpus, encoded, made_once, rows_digest
from .misfits import Misfits
from .prompts import Shown

DEMONSTRATIONS, PRACTICE, QUESTIONS = "demonstrations", "prompts", "questions"
FIELDS = {DEMONSTRATIONS: ("demonstrations",), PRACTICE: ("prompts",), QUESTIONS: ("evaluation", "questions")}
PROMPTS = pyarrow.schema([*PROMPT, ("subset", pyarrow.string())])
LEARNT = "prompt is among those that are trained or tuned on"
KEPT = "prompt is among those kept for evaluation or tuning"
TWICE = "the same prompt again"


def with_brought(spec: BenchmarkSpec, base: Checkpoint, shop: Workshop, corpus: Corpus) -> Corpus:
    """A corpus with what the benchmark brings beside its pairs, read or found on disk.

    InputError for a file that is not there, or of which nothing is left.
    """
    named = {DEMONSTRATIONS: spec.demonstrations, PRACTICE: spec.prompts, QUESTIONS: spec.evaluation.questions}
    sources = {name: source for name, source in named.items() if source is not None}
    if not sources:
        return corpus
    readings = {name: _reading(spec, name, source) for name, source in sources.items()}  # says where there is no file
    inputs = {
        "code": code_digest(*CODE),
        "tokenizer": base.key,
        "packages": shop.packages,
        "sources": {name: source_digest(source) for name, source in sources.items()},
        "beside": corpus.digest,
        "lengths": [spec.max_prompt_tokens, spec.max_response_tokens],
    }

    def build(out: Path) -> None:
        _write(spec, readings, base.tokenizer(), corpus, out)

    return made_once(shop, "brought", inputs, build, partial(_open, sources, corpus))


def _reading(spec: BenchmarkSpec, name: str, source: str) -> Reading[Any]:
    read = read_demonstrations if name == DEMONSTRATIONS else read_prompts
    return read(source, f"{spec.place(*FIELDS[name])}, {'.'.join(FIELDS[name])}")


# Writing


def _write(spec: BenchmarkSpec, readings: dict[str, Reading[Any]], tokenizer: Any, corpus: Corpus, out: Path) -> None:
    """A file for each source; what was left out of it, and the hash of the rest."""
    kept = corpus.prompt_hashes("evaluation", "heldout", *TO_TUNE)
    found = {}
    if reading := readings.get(QUESTIONS):
        learnt = corpus.prompt_hashes(*TO_TRAIN, "evaluation", *TO_TUNE)
        if isinstance(corpus.unpaired, ArrowRows):
            learnt = np.union1d(learnt, corpus.unpaired.column("prompt_hash"))
        found[QUESTIONS] = _write_rows(spec, reading, tokenizer, learnt, LEARNT, out / _file(QUESTIONS))
        kept = np.union1d(kept, ArrowFile(out / _file(QUESTIONS)).column("prompt_hash"))
    for name in readings.keys() - found.keys():
        found[name] = _write_rows(spec, readings[name], tokenizer, kept, KEPT, out / _file(name))
    write_json(out / RECORD, {"record": found, "digests": {name: _digest(name, out / _file(name)) for name in found}})


def _write_rows(
    spec: BenchmarkSpec, reading: Reading[Any], tokenizer: Any, apart: np.ndarray, why: str, path: Path
) -> dict[str, Any]:
    """A file of rows within the benchmark's lengths and not to prompts kept apart; what was left out.

    apart: hashes of those prompts as rising numbers; why: the reason under which such a row is counted. A prompt that
    has no reply is there once.
    """
    misfits = Misfits(spec)
    has_replies = path.name == _file(DEMONSTRATIONS)
    schema = REPLIES if has_replies else PROMPTS
    once, used = HashSet(), 0

    def replies_of(row: Any) -> list[tuple[str, bool]]:
        return [(row.reply, row.cut)] if has_replies else []

    with pyarrow.ipc.new_file(str(path), schema) as file:
        for chunk in chunks(reading, path.stem):
            fits = []
            for row, shown, replies in encoded(tokenizer, chunk, replies_of):
                if misfits.has(shown, *(ids for _, ids in replies)):
                    continue
                assert isinstance(shown, Shown)
                if np.isin(np.uint64(shown.hash), apart):
                    misfits.count[why] += 1
                elif not has_replies and not once.add(shown.hash):
                    misfits.count[TWICE] += 1
                else:
                    more = {"ids": replies[0][1], "good": True} if has_replies else {"subset": row.subset}
                    fits.append({**prompt_columns(row, shown), **more})
            used += len(fits)
            file.write_batch(RecordBatch.from_pylist(fits, schema))
    dropped = {**reading.dropped, **misfits.count}
    if not used:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        field = ".".join(FIELDS[path.stem])
        raise InputError(
            f"{spec.place(*FIELDS[path.stem])}, {field}: none of the {reading.read} rows of {reading.source} is left "
            f"({reasons}); give others"
        )
    return {"read": reading.read, "used": used, "dropped": dropped}


# Reading


def _file(name: str) -> str:
    return f"{name}.arrow"


def _prompts(path: Path) -> ArrowRows[Prompt]:
    return ArrowRows(ArrowFile(path), prompt_of)


def _digest(name: str, path: Path) -> str:
    if name == DEMONSTRATIONS:
        return rows_digest(ArrowRows(ArrowFile(path), reply_of))
    return digest_each([prompt.id, prompt.ids] for prompt in _prompts(path))


def _open(sources: dict[str, str], corpus: Corpus, folder: Path, **more: Any) -> Corpus:
    """A corpus with the files of `_write`; more: for the record."""
    found = read_json(folder / RECORD)
    digests, record = found["digests"], {**corpus.record}
    for name, source in sources.items():
        record[name] = {"source": source, **found["record"][name], "content": digests[name]}
    changes: dict[str, Any] = {"record": {**record, "brought": more}, "digest": digest([corpus.digest, digests])}
    if DEMONSTRATIONS in sources:
        file = ArrowFile(folder / _file(DEMONSTRATIONS))
        changes["demonstrations"] = ArrowRows(file, reply_of, digests[DEMONSTRATIONS])
    for name, field in ((PRACTICE, "practice"), (QUESTIONS, "questions")):
        if name in sources:
            changes[field] = _prompts(folder / _file(name))
    return replace(corpus, **changes)
