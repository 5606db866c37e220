"""Damaged files of the cache, of a run and of a judge's verdicts: each is found and named, N of N."""

import random
import re
import shutil
from pathlib import Path

import pytest

from alignment_bench.errors import InputError
from alignment_bench.evaluators.judge_cache import Answer, RememberingAsker
from alignment_bench.results.integrity import DamageError
from alignment_bench.results.run_folder import Run

HARMS = ["flip first", "flip last", *(f"flip {i}" for i in range(6)), "cut 0", "cut 50", "cut 99", "delete"]


def damage(path: Path, harm: str, seed: int) -> None:
    """Harm a file in place, so that hard links of it are harmed as well."""
    kind, _, where = harm.partition(" ")
    if kind == "delete":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    if kind == "cut":
        data = data[: len(data) * int(where) // 100]
    else:
        bits = 8 * len(data)
        place = {"first": 0, "last": bits - 1}.get(where)
        place = random.Random(f"{seed} {harm}").randrange(bits) if place is None else place
        data[place // 8] ^= 1 << place % 8
    with open(path, "r+b") as stream:
        stream.truncate(0)
        stream.write(data)


def files_of(root: Path, below: str) -> list[str]:
    names = (p.relative_to(root).as_posix() for p in (root / below).rglob("*") if p.is_file())
    return sorted(n for n in names if not any(part.startswith(".") for part in n.split("/")))


def test_every_damaged_file_of_the_cache_is_named_kept_and_made_again(tmp_path, caplog, whole_run, state):
    expected, found, count = state(whole_run(tmp_path / "good").path.parents[2]), 0, 0
    for name in files_of(tmp_path / "good", "cache"):
        for harm in HARMS:
            count += 1
            shutil.copytree(tmp_path / "good", root := tmp_path / "bad")
            damage(root / name, harm, count)
            harmed = (root / name).read_bytes() if harm != "delete" else None
            caplog.clear()
            whole_run(root, built := [])
            assert built == [name.split("/")[1]]
            [aside] = root.glob("cache/*/*.damaged-*")
            kept = aside / name.split("/", 3)[3]
            assert (kept.read_bytes() if kept.exists() else None) == harmed
            assert f"{root / name} is " in caplog.text and f"is kept as {aside.name} and made again" in caplog.text
            found += state(root) == expected
            shutil.rmtree(root)
    print(f"damaged files of the cache, named and made again: {found} of {count}")
    assert found == count >= 72


def test_every_damaged_file_of_a_run_is_named(tmp_path, whole_run, state):
    """Cells are then placed again from the cache, the summary is written again; a run without its record is refused."""
    expected, found, count = state(whole_run(tmp_path / "good").path.parents[2]), 0, 0
    for name in files_of(tmp_path / "good", "runs"):
        for harm in HARMS:
            count += 1
            shutil.copytree(tmp_path / "good", root := tmp_path / "bad")
            damage(root / name, harm, count)
            run = Run(root / "runs/b/r")

            def read(run=run):
                assert run.record and run.summary
                for cell in run.cells():
                    cell.check()

            with pytest.raises(OSError if harm == "delete" else InputError, match=re.escape(f"{root / name} is ")):
                read()
            if name.endswith("run.json"):
                with pytest.raises(InputError, match="run.json"):
                    whole_run(root)
                found += 1
            else:
                whole_run(root, built := [])
                found += built == [] and state(root) == expected
            shutil.rmtree(root)
    print(f"damaged files of a run, named: {found} of {count}")
    assert found == count >= 84


def test_damage_that_cache_and_cell_share_is_repaired_in_both(tmp_path, whole_run, state):
    """A cell's files are hard links to the cache, so one flipped bit is in both."""
    good = state(whole_run(tmp_path / "root").path.parents[2])
    names = [n for n in files_of(tmp_path / "root", "runs") if "seed-0" in n and "manifest" not in n]
    for number, name in enumerate(names):
        damage(tmp_path / "root" / name, "flip 0", number)
        with pytest.raises(InputError, match=re.escape(name)):
            next(Run(tmp_path / "root/runs/b/r").cells()).check()
        whole_run(tmp_path / "root", built := [])
        assert len(built) == 1 and state(tmp_path / "root") == good
    assert len(names) == 5


def test_a_reader_of_a_cell_names_what_is_damaged(tmp_path, whole_run):
    run = whole_run(tmp_path)
    [cell] = run.cells()
    for name in ("generations.jsonl", "metrics.jsonl", "cost.json"):
        read = getattr(cell, name.partition(".")[0])
        assert read()
        damage(cell.path / name, "flip 0", 0)
        with pytest.raises(DamageError, match=f"{name} is damaged.*give bench run for dpo once more"):
            read()
    assert cell.along() is None  # never had any


def test_a_damaged_verdict_is_asked_again_and_counted(tmp_path):
    """Any flipped bit in a line of verdicts costs that question alone, and is told; none is ever turned round."""
    questions, asked = [str(i) for i in range(4)], []

    class Judge:
        def ask(self, prompts, keep):
            asked.extend(prompts)
            for place, prompt in enumerate(prompts):
                keep(place, Answer("A" if int(prompt) % 2 else "B", 10, 1))
            return ["A" if int(p) % 2 else "B" for p in prompts]

    def ask():
        asker = RememberingAsker(Judge, tmp_path, {"model": "m"})
        return asker.ask(questions), asker.usage().tokens_in

    assert ask() == (["B", "A", "B", "A"], 40)
    [path] = tmp_path.glob("*.jsonl")
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    end, harmless = whole.index(b"\n", start) + 1, 0
    for bit in range(8 * start, 8 * end):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        asked.clear()
        assert ask() == (["B", "A", "B", "A"], 40)
        assert asked in ([], ["0"], ["0", "1"])  # its newline gone, a line takes the next one with it
        harmless += asked == []
    print(f"flipped bits of a verdict: {8 * (end - start) - harmless} asked again, {harmless} without effect")
