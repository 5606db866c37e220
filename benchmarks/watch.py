"""`bench watch`: a page of a run at work, served to this machine alone; it reads the disk and changes nothing."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from ..analysis.quantities import measured
from ..errors import InputError
from ..preferences.guard import Guard
from ..preferences.serve import at_address, listen, serve_until_interrupted
from ..reports.curves import MAIN, SIGNALS
from ..results.integrity import MANIFEST
from ..results.progress import AT_WORK, BEGUN, CELL, DONE, PROGRESS, Progress, read_progress
from ..results.run_folder import Cell, Run
from ..results.store import GENERATIONS

PAGE = Path(__file__).with_name("watch_page")
HOST = "127.0.0.1"
DEPTH = 4  # folders that are looked in: ROOT/runs/BENCHMARK/RUN-ID, and nothing within a cache
POINTS = 200  # of a curve, at most; of a longer log every k-th row is drawn, and the last one
SAMPLES = 3  # responses that are shown
LONGEST = 2_000  # characters of one


def serve(folder: Path, port: int) -> None:
    """Serve the page of the newest run at or below a folder until it is interrupted; port 0 takes a free one."""
    find_progress(folder)
    with listen(HOST, port) as listening:
        print(f"watching {folder} at {at_address(HOST, listening)}; Ctrl-C stops, the run goes on", flush=True)
        serve_until_interrupted(build_app(folder), listening)


def build_app(folder: Path) -> ASGIApp:
    """The web application over the runs at or below a folder."""

    def state(request: Request) -> JSONResponse:
        try:
            return JSONResponse(watched(folder))
        except (InputError, OSError, ValueError) as error:  # written to at this moment, or gone
            return JSONResponse({"error": str(error)}, 503)

    def file(name: str, kind: str) -> Any:
        return lambda request: FileResponse(PAGE / name, media_type=kind)

    routes = [
        Route("/", file("watch.html", "text/html")),
        Route("/watch.css", file("watch.css", "text/css")),
        Route("/watch.js", file("watch.js", "text/javascript")),
        Route("/api/state", state),
    ]
    return Guard(Starlette(routes=routes), HOST, None)


def find_progress(folder: Path) -> tuple[Path, Progress]:
    """The folder whose run began last, at or below this one, and its progress; InputError where there is none."""
    places = [p.parent for depth in range(DEPTH) for p in folder.glob(f"{'*/' * depth}{PROGRESS}")]
    found = [(place, read_progress(place)) for place in places]
    known = [(place, progress) for place, progress in found if progress]
    if not known:
        raise InputError(f"{folder} holds no run that could be watched; give the folder of a run, or of a benchmark's")
    return max(known, key=lambda each: each[1].began)


def watched(folder: Path) -> dict[str, Any]:
    """All that the page shows, as plain data."""
    place, progress = find_progress(folder)
    run = Run(place)
    record = run.record if run.exists else {}
    cells = {f"{cell.method}{CELL}{cell.seed}": cell for cell in run.cells()} if record else {}
    left, unknown = progress.left()
    return {
        "title": f"{record['benchmark']}, run {record['run_id']}" if record else _benchmark(place),
        "folder": str(place),
        "state": AT_WORK if progress.is_at_work else progress.state.replace(AT_WORK, "gone"),
        "sentence": progress.sentence(),
        "left": left if progress.is_at_work else None,
        "unknown": unknown,
        "cells": [_row(progress, label, state) for label, state in progress.cells.items()],
        "shared": [
            {"name": step.name, "state": step.state, "seconds": step.seconds}
            for step in progress.steps
            if not step.cell
        ],
        "curves": curves(logs(progress, cells)),
        "samples": samples([*cells.values()]),
    }


def _benchmark(place: Path) -> str:
    """The benchmark of a run that has no folder yet, or none that can be read."""
    return place.parent.name if place.name.startswith(BEGUN) else place.name


def _row(progress: Progress, label: str, state: str) -> dict[str, Any]:
    method, _, seed = label.rpartition(CELL)
    steps = [step for step in progress.steps if step.cell == label]
    return {
        "method": method,
        "seed": int(seed),
        "state": state,
        "done": sum(step.state == DONE for step in steps),
        "steps": len(steps),
        "seconds": sum(step.seconds or 0.0 for step in steps),
        "why": progress.failures.get(label, ""),
    }


def logs(progress: Progress, cells: Mapping[str, Cell]) -> dict[str, list[dict[str, Any]]]:
    """By cell its training log, of trainings at work as far as it is."""
    finished = {label: _whole(cell, (cell.path / MANIFEST).stat().st_mtime_ns) for label, cell in cells.items()}
    return {label: rows for label, rows in {**finished, **progress.logs()}.items() if rows}


@lru_cache(maxsize=256)
def _whole(cell: Cell, changed: int) -> list[dict[str, Any]]:
    """The log of a cell in the run's folder; read again where the cell is another one."""
    return cell.metrics()


def curves(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The signals of the report's figures, a line a cell: points (examples or step, value)."""
    axis = "examples" if all("examples" in row for rows in found.values() for row in rows) else "step"
    drawn = []
    for metric, title in {**MAIN, **SIGNALS}.items():
        lines = [
            {"cell": label, "points": _thinned([[row[axis], row[metric]] for row in rows if measured(row.get(metric))])}
            for label, rows in found.items()
        ]
        if lines := [line for line in lines if line["points"]]:
            drawn.append({"title": title, "axis": axis, "lines": lines})
    return drawn


def _thinned(points: list[list[float]]) -> list[list[float]]:
    every = -(-len(points) // POINTS)
    return points if every <= 1 else [*points[:-1:every], points[-1]]


def samples(cells: Sequence[Cell]) -> dict[str, Any] | None:
    """The first responses of the cell that was placed last; None before there is one."""
    if not cells:
        return None
    last = max(cells, key=lambda cell: (cell.path / MANIFEST).stat().st_mtime)
    rows = []
    with open(last.path / GENERATIONS, encoding="utf-8") as stream:
        for line, _ in zip(stream, range(SAMPLES), strict=False):
            row = json.loads(line)
            rows.append({"prompt": row["prompt"][-1]["content"][-LONGEST:], "response": row["response"][:LONGEST]})
    return {"cell": f"{last.method}{CELL}{last.seed}", "rows": rows}
