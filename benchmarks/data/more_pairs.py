"""Labelled pairs that methods and the training reward model learn from beside those of their split."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import RecordBatch

from ...preferences.read import HashSet, PreferenceRow

Rows = Iterator[list[tuple[PreferenceRow, dict[str, Any]]]]  # chunks of rows within the benchmark's lengths, as columns


def append_pairs(training: Path, sources: Sequence[Rows], apart: np.ndarray, schema: pyarrow.Schema) -> dict[str, Any]:
    """Write the pairs of some sources behind those of an Arrow file; how many were used, and what was left out.

    apart: the hashes of other splits' prompts as the model sees them, rising; pairs on these are left out, so that no
    prompt of an evaluation is ever trained on.
    """
    ids, dropped, used = HashSet(), Counter[str](), 0
    joined = training.with_name(f".{training.name}.joined")
    with pyarrow.ipc.new_file(str(joined), schema) as file:
        with pyarrow.OSFile(str(training)) as stream:
            before = pyarrow.ipc.open_file(stream)
            for number in range(before.num_record_batches):
                file.write_batch(batch := before.get_batch(number))
                for each in batch.column("id").to_pylist():
                    ids.add(each)
        for source in sources:
            for chunk in source:
                kept = []
                for _, columns in chunk:
                    if np.isin(np.uint64(columns["prompt_hash"]), apart):
                        dropped["prompt is among those kept for evaluation or tuning"] += 1
                    elif not ids.add(columns["id"]):
                        dropped["duplicate row"] += 1
                    else:
                        kept.append(columns)
                file.write_batch(RecordBatch.from_pylist(kept, schema))
                used += len(kept)
    joined.replace(training)
    return {"used": used, "dropped": dict(dropped)}
