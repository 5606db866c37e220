"""Experiment trackers: each cell's training log, costs and scores, and the summary, sent on after they lie on disk.

What a run writes does not depend on a tracker, and a tracker that fails never stops a run. A cell is sent once: what
was sent is noted in the run's folder, so that a run that goes on does not send it again.
"""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from ..analysis.grids import is_versus
from ..errors import InputError
from ..results.integrity import MANIFEST, digest, no_link, write_json
from ..results.run_folder import TRACKED, Cell, Run
from ..results.store import read_json

PROJECT = "alignment-bench"
SUMMARY = "summary"


class Tracker(Protocol):
    """One service: a run of its own for each cell."""

    def start(self, name: str, config: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, float], step: int) -> None: ...

    def tell(self, title: str, text: str) -> None:
        """Notify whoever follows the run, in the service's own way."""

    def finish(self) -> None: ...


class TensorBoard:
    """Event files below the run's folder: tensorboard --logdir RUN/tensorboard."""

    package = "tensorboard"

    def __init__(self, run: Run):
        self.folder = no_link(run.path / "tensorboard")

    def start(self, name: str, config: dict[str, Any]) -> None:
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        self.writer = writer(str(self.folder / name))
        self.writer.add_text("settings", json.dumps(config, indent=2, default=str))

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def tell(self, title: str, text: str) -> None:
        self.writer.add_text(title, text)

    def finish(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """Weights & Biases: a group a run; WANDB_MODE, WANDB_PROJECT and the like are its own settings."""

    package = "wandb"

    def __init__(self, run: Run):
        self.module, self.folder, self.group = import_module("wandb"), run.path, run.record["run_id"]

    def start(self, name: str, config: dict[str, Any]) -> None:
        self.run = self.module.init(
            project=PROJECT, group=self.group, name=name, config=config, dir=str(self.folder), reinit="create_new"
        )

    def log(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def tell(self, title: str, text: str) -> None:
        self.run.alert(title=title, text=text)

    def finish(self) -> None:
        self.run.finish()


class Trackio:
    """Trackio, which keeps a data base on this machine: trackio show."""

    package = "trackio"

    def __init__(self, run: Run):
        self.module, self.group = import_module("trackio"), run.record["run_id"]

    def start(self, name: str, config: dict[str, Any]) -> None:
        self.module.init(project=PROJECT, name=f"{self.group} {name}", group=self.group, config=config, embed=False)

    def log(self, values: dict[str, float], step: int) -> None:
        self.module.log(values, step=step)

    def tell(self, title: str, text: str) -> None:
        if alert := getattr(self.module, "alert", None):  # its first versions have none
            alert(title=title, text=text)

    def finish(self) -> None:
        self.module.finish()


class MLflow:
    """MLflow: an experiment a benchmark; where it lies is MLflow's own setting (MLFLOW_TRACKING_URI)."""

    package = "mlflow"

    def __init__(self, run: Run):
        self.module, self.tags = import_module("mlflow"), {"run_id": run.record["run_id"]}
        self.module.set_experiment(f"{PROJECT} {run.record['benchmark']}")

    def start(self, name: str, config: dict[str, Any]) -> None:
        self.module.start_run(run_name=name, tags=self.tags)
        self.module.log_params({key: str(value) for key, value in config.items()})

    def log(self, values: dict[str, float], step: int) -> None:
        self.module.log_metrics(values, step=step)

    def tell(self, title: str, text: str) -> None:
        self.module.set_tag("mlflow.note.content", f"{title}: {text}")

    def finish(self) -> None:
        self.module.end_run()


TRACKERS: dict[str, Any] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
    "mlflow": MLflow,
}


def check(name: str | None) -> None:
    """InputError, before anything trains, for a tracker whose package is not installed."""
    if name and find_spec(TRACKERS[name].package) is None:
        raise InputError(f"--tracker {name} is not installed; pip install 'alignment-bench[{name}]'")


class Forwarder:
    """Sends a run's cells and its summary to one tracker, each once; None: to nobody."""

    def __init__(self, name: str | None, run: Run, say: Callable[[str], None]):
        self.name, self.run, self.say = name, run, say
        self.tracker: Tracker | None = None
        if name:
            self._try(lambda: setattr(self, "tracker", TRACKERS[name](run)))

    def cell(self, cell: Cell) -> None:
        """Each row of the training log, then costs and mean scores at its last step."""
        log, scores = cell.metrics(), cell.scores().dropna(subset="value").groupby("metric")["value"].mean()
        last = {f"cost/{name}": value for name, value in cell.cost().items()}
        last |= {f"score/{name}": value for name, value in scores.items() if not is_versus(str(name))}
        rows = [({k: v for k, v in row.items() if k != "step"}, row["step"]) for row in log]
        step = 1 + max((step for _, step in rows), default=0)
        config = self.run.record["methods"].get(cell.method, {}).get("params", {})
        key = digest(read_json(cell.path / MANIFEST)["stages"])
        self._send(f"{cell.method} seed {cell.seed}", key, {**config, "seed": cell.seed}, [*rows, (last, step)])

    def summary(self, summary: Mapping[str, Any]) -> None:
        """The mean of every metric of every method, and word that the run is done, with its verdict."""
        from ..analysis.verdict import verdict  # with scipy, which a mistyped command need not wait for

        means = {
            f"{method}/{metric}": cell["mean"]
            for method, row in summary["methods"].items()
            for metric, cell in row["metrics"].items()
        }
        config = {"benchmark": summary["benchmark"], "run_id": summary["run_id"], "folder": str(self.run.path)}
        told = f"{summary['benchmark']}, run {summary['run_id']}, is done", " ".join(verdict(summary)[:1])
        self._send(SUMMARY, digest(means), config, [(means, 0)], told)

    def _send(
        self,
        name: str,
        key: str,
        config: dict[str, Any],
        rows: list[tuple[dict[str, Any], int]],
        told: tuple[str, str] | None = None,
    ) -> None:
        noted = self.run.path / TRACKED
        sent: dict[str, list[str]] = read_json(noted) if noted.exists() else {}
        to, tracker = self.name, self.tracker
        if to is None or tracker is None or key in sent.get(to, []):
            return

        def send() -> None:
            tracker.start(name, config)
            try:
                for values, step in rows:
                    tracker.log({k: float(v) for k, v in values.items() if isinstance(v, (int, float))}, step)
                if told:
                    tracker.tell(*told)
            finally:
                tracker.finish()
            write_json(noted, {**sent, to: [*sent.get(to, []), key]})

        self._try(send)

    def _try(self, send: Callable[[], None]) -> None:
        """A tracker that fails is told and asked no more; what it would have had lies in the run's folder."""
        try:
            with redirect_stdout(sys.stderr):  # some greet on stdout, which may be wanted for --json alone
                send()
        except Exception as error:
            self.tracker = None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.say(
                f"tracker {self.name} failed: {reason}; the run goes on without it, the same command sends the rest"
            )
