"""Hostile and broken input: preference files, benchmarks, records of runs from elsewhere, answers of endpoints."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from forks import bench, beside, outcome, wait_for
from harness import TINY, World, kind
from work import ROWS, answer, finished_run, serve

from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.errors import InputError
from alignment_bench.evaluators.judge_openai import OpenAIAsker
from alignment_bench.preferences.export import convert
from alignment_bench.preferences.read import read_preferences
from alignment_bench.results.integrity import write_record

TOLD = "read, dropped and counted, or one sentence; never a traceback"
SIGNS = [*b"[]{}:,&*!|>-?'\"\n #%@`~0\t\x00\xff\xed\xa0\x80;\r\\"]
VALUES: list[Any] = [None, "", "x" * 300, -1, 0, 1e308, True, [], {}, [None], {"a": 1}, "\x1b[2J", "../x", 10**30, "𝄞"]


def harmed(data: bytes, rng: Random) -> bytes:
    """Bytes with up to four places overwritten, taken out, doubled or cut off."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found) or 1)
        match rng.randrange(5):
            case 0 | 1:
                found[at : at + rng.randint(0, 3)] = bytes([rng.choice(SIGNS)])
            case 2:
                found[at : at + rng.randint(1, 40)] = b""
            case 3:
                found[at:at] = found[at : at + rng.randint(1, 40)]
            case 4 if rng.random() < 0.2:
                del found[at:]
    return bytes(found)


def changed(value: Any, rng: Random) -> Any:
    """A JSON value with one part, wherever it lies, replaced by another or gone."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        copy: Any = value.copy()
        place = rng.choice([*value]) if isinstance(value, dict) else rng.randrange(len(value))
        if rng.random() < 0.1:
            del copy[place]
        else:
            copy[place] = changed(value[place], rng)
        return copy
    return rng.choice(VALUES)


@kind("broken preference files", TOLD)
def files(world: World, rng: Random, times: int) -> Iterator[str]:
    folder = world.place()
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:6]))
    names = ["pairs.jsonl", "pairs.json", "pairs.csv", "pairs.parquet"]
    for name in names[1:]:
        convert(str(folder / names[0]), str(folder / name))
    whole = {name: (folder / name).read_bytes() for name in names}
    for name in islice(cycle(names), times):
        (path := folder / f"harmed{Path(name).suffix}").write_bytes(harmed(whole[name], rng))
        yield ended(lambda path=path: [*read_preferences(str(path))])


@kind("broken benchmarks", TOLD)
def benchmarks(world: World, rng: Random, times: int) -> Iterator[str]:
    whole, path = TINY.read_bytes() + b"model: builtin/base_model\n", world.place() / "x.yaml"
    for _ in range(times):
        path.write_bytes(harmed(whole, rng))
        yield ended(lambda: load_spec(str(path)))


def ended(work: Any) -> str:
    """Empty where the work ends, or ends with one sentence."""
    try:
        work()
    except InputError as error:
        return "" if "\n" not in str(error) else f"more than a line: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@kind("records of a run from elsewhere, changed and hashed again", TOLD)
def records(world: World, rng: Random, times: int) -> Iterator[str]:
    root = world.copy()
    place = finished_run(root).path
    whole = {name: json.loads((place / name).read_text()) for name in ("run.json", "summary.json")}
    for name in islice(cycle(["summary.json", "summary.json", "run.json"]), times):
        record = changed({k: v for k, v in whole[name].items() if k != "sha256"}, rng)
        write_record(place / name, record if isinstance(record, dict) else {"x": record})

        def work() -> None:
            for command in (("show", place), ("report", place)):
                code, _, err = bench(*command, cwd=root)
                assert code == 0 or (code == 2 and len(err.strip().splitlines()) == 1), err

        code, said = outcome(work)
        yield f"{name}: {said[-600:]}" if code else ""
        for other, record in whole.items():
            write_record(place / other, record)
        shutil.rmtree(place / "report", ignore_errors=True)


def harmed_answer(rng: Random, question: str) -> tuple[int, bytes]:
    """Status and body of an answer of which a part may be another, or that may be harmed as bytes."""
    whole = answer("A")
    content = json.dumps(changed(whole, rng) if rng.random() < 0.6 else whole).encode()
    return rng.choice([200] * 8 + [400, 204]), harmed(content, rng) if rng.random() < 0.5 else content


@kind("broken answers of an endpoint", "an answer or none for each question; the others are answered")
def answers(world: World, rng: Random, times: int) -> Iterator[str]:
    folder, chance = world.place(), Random(rng.randrange(10**6))
    broken, whole = ([f"{name} {i}" for i in range(times)] for name in ("broken", "whole"))

    def reply(question: str) -> tuple[int, bytes]:
        return harmed_answer(chance, question) if question in broken else (200, json.dumps(answer("A")).encode())

    def work() -> None:
        url = f"http://127.0.0.1:{wait_for(folder / 'port')}/v1"
        asker = OpenAIAsker(
            "m", url, concurrency=4, timeout=5.0, first_wait=0.001, settings={"temperature": 0, "max_tokens": 4}
        )
        asked = [question for both in zip(broken, whole, strict=True) for question in both]
        found = dict(zip(asked, asker.ask(asked), strict=True))
        assert all(found[question] is None or isinstance(found[question], str) for question in broken), found
        assert all(found[question] == "A" for question in whole), found

    with beside(partial(serve, folder, reply)):
        code, said = outcome(work)
    yield from [said[-600:] if code else ""] * times
