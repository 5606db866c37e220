"""The alignment tax: tasks of EleutherAI's lm-evaluation-harness, run through its Python API on the model in memory."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from ..errors import InputError, nearest
from ..results.records import Generation, Score
from .base import OpenPolicy

SHIPPED = Path(__file__).parent / "lm_eval_tasks"


@dataclass(frozen=True)
class LMEval:
    """Yields `lm_eval.TASK.MEASURE` for each document; as a difference to SFT it is the alignment tax."""

    tasks: tuple[str, ...] = ("everyday_facts",)
    """Names of tasks: the shipped one, one in `folder`, or (with `library`) any of lm-eval's own."""
    folder: Path | None = None
    """Folder with YAML tasks of your own."""
    library: bool = False
    """True to know lm-eval's own tasks too; most of them read their data from the hub."""
    limit: Annotated[int, Gt(0)] | None = None
    """Documents of each task that are used, the first ones; none uses all."""
    batch_size: Annotated[int, Gt(0)] = 16
    """Requests in one forward pass."""

    needs_policy = True

    def __post_init__(self) -> None:
        _import()
        if self.folder is not None and not Path(self.folder).is_dir():
            raise InputError(f"lm_eval: there is no folder {self.folder}; give one that holds YAML tasks")

    def score(
        self,
        responses: Sequence[Generation],
        baseline: Sequence[Generation],
        *,
        policy: OpenPolicy,
        reference: OpenPolicy,
    ) -> Iterator[Score]:
        lm_eval, models, tasks = _import()
        manager = self._manager(tasks)
        known = manager.all_tasks
        for name in self.tasks:
            if name not in known:
                hint = nearest(name, known) if len(known) < 50 else "see lm-eval's list, and name your own `folder`"
                raise InputError(f"lm_eval: there is no task {name!r}; {hint}")
        model, tokenizer = policy.network()
        wrapped = models.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size)
        # lm-eval's own cache of requests is left off: its key does not know one model from another
        found = lm_eval.simple_evaluate(
            wrapped, tasks=list(self.tasks), task_manager=manager, limit=self.limit, bootstrap_iters=0, log_samples=True
        )
        for task, samples in sorted(found["samples"].items()):
            for sample in samples:
                for measure in sample["metrics"]:
                    value = sample[measure]
                    if isinstance(value, bool | int | float):
                        yield Score(f"lm_eval.{task}.{measure}", f"{task}:{sample['doc_id']}", float(value))

    def _manager(self, tasks: Any) -> Any:
        folders = [str(SHIPPED), *([str(Path(self.folder).resolve())] if self.folder else [])]
        return tasks.TaskManager(include_path=folders, include_defaults=self.library)


def _import() -> tuple[Any, Any, Any]:
    try:
        import lm_eval
        import lm_eval.models.huggingface
        import lm_eval.tasks
    except ImportError:
        raise InputError(
            "lm_eval: the package lm-eval is not installed; pip install 'alignment-bench[lm-eval]'"
        ) from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return lm_eval, lm_eval.models.huggingface, lm_eval.tasks
