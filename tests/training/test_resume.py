"""Step checkpoints: stopping on request, damaged checkpoints, and trainings one after another in one folder."""

import os
import random
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from alignment_bench.errors import InputError, Stopped
from alignment_bench.models.layout import Batch
from alignment_bench.results.store import METRICS, STEPS, read_jsonl
from alignment_bench.runtime import device
from alignment_bench.training import resume
from alignment_bench.training.ledger import Ledger
from alignment_bench.training.loop import Objective, Recipe, fit

NUMBERS = [0.5, -1.0, 2.0, 0.25, 1.5]


def train(out, *, at_step=None, do=None, every=0.0, label="fit"):
    """Ten steps of a linear model on numbers; `do` is called within the given step. Returns its final weights."""
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    ledger = Ledger(out, network_size=2)
    train_more(ledger, model, at_step=at_step, do=do, every=every, label=label)
    return model.weight.detach().clone()


def train_more(ledger, model, *, at_step=None, do=None, every=0.0, label="fit"):
    class Line(Objective):
        examples = NUMBERS

        def sequences(self, example):
            return []

        def losses(self, batch):
            if ledger.optimizer_steps == at_step and do:
                do()
            errors = (model(torch.tensor(batch.rows)[:, None])[:, 0] - 1.0) ** 2
            return errors, {"error": errors.detach() + torch.rand(len(batch.rows))}

    network = SimpleNamespace(
        is_of_all=False,
        parameters=list(model.parameters()),
        batches=lambda rows, sequences, **how: [Batch(rows, 0, None)],
    )
    fit(
        Line(),
        network,
        ledger=ledger,
        recipe=Recipe(examples=20, batch_size=2, lr=0.1, warmup=0.2, seed=3, label=label, checkpoint_every=every),
    )


def log(out):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(out / METRICS)]


def press(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def interrupts():
    """Signals that whoever listened before a training has heard."""
    heard = []
    former = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGINT, former)


@pytest.fixture
def whole(tmp_path):
    """Weights and log of a training that was never stopped."""
    return train(tmp_path / "whole", every=1e9), log(tmp_path / "whole")


def test_asked_to_stop_it_ends_the_step_saves_and_goes_on_later(tmp_path, whole, capsys):
    """Step 5 of 10 (the fifth, in which 4 are done) is finished; the same weights and log in the end."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match=r"stopped after step 5 of 10 of fit, which is saved; the same command"):
        train(tmp_path / "x", at_step=4, do=press, every=1e9)
    assert signal.getsignal(signal.SIGINT) is before
    assert "once more to stop at once" in capsys.readouterr().err
    assert len(log(tmp_path / "x")) == 5
    calls = []
    assert train(tmp_path / "x", at_step=4, do=lambda: calls.append(1)) == whole[0]
    assert not calls, "step 5 was done twice"
    assert log(tmp_path / "x") == whole[1]


def test_asked_twice_it_stops_at_once(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(tmp_path / "x", at_step=4, do=lambda: press(2), every=1e9)
    assert not str(stopped.value)
    assert len(log(tmp_path / "x")) == 4
    assert train(tmp_path / "x") == whole[0]
    assert log(tmp_path / "x") == whole[1]


def test_asked_when_the_last_step_has_been_looked_at(tmp_path, whole, monkeypatch):
    """The bar goes away between the last look and the end of listening."""

    def bar(rest, *_, **__):
        yield from rest
        press()

    monkeypatch.setattr(resume, "tqdm", bar)
    with pytest.raises(Stopped, match="stopped after step 10 of 10 of fit, which is saved"):
        train(tmp_path / "x", every=1e9)
    monkeypatch.undo()
    assert train(tmp_path / "x") == whole[0]
    assert log(tmp_path / "x") == whole[1]


def test_asked_in_a_step_that_fails_those_before_hear_of_it(tmp_path, interrupts):
    """A run goes on with other cells when a training fails, unless somebody wants it to end."""

    def press_and_fail():
        press()
        raise ValueError("these rows")

    with pytest.raises(ValueError, match="these rows"):
        train(tmp_path / "x", at_step=4, do=press_and_fail)
    assert interrupts == [signal.SIGINT]


def test_asked_twice_those_before_hear_of_it_once(tmp_path, interrupts):
    def press_twice_and_fail():
        press(2)
        raise ValueError("these rows")

    with pytest.raises(ValueError, match="these rows"):
        train(tmp_path / "x", at_step=4, do=press_twice_and_fail)
    assert interrupts == [signal.SIGINT]


def test_asked_while_a_terminal_takes_no_more_lines(tmp_path, monkeypatch):
    """The key comes within the writing of a line, where Python can write no other."""
    reading, writing = os.pipe()
    stderr = os.fdopen(writing, "w", buffering=1)  # lines, as the real one
    monkeypatch.setattr(sys, "stderr", stderr)

    def write_much():
        def press_then_read():
            time.sleep(0.2)
            press()
            time.sleep(0.2)
            while os.read(reading, 65536):
                pass

        threading.Thread(target=press_then_read, daemon=True).start()
        stderr.write("x" * 500_000)
        stderr.flush()

    with pytest.raises(Stopped, match="stopped after step 5 of 10"):
        train(tmp_path / "x", at_step=4, do=write_much, every=1e9)
    stderr.close()


@pytest.mark.parametrize("name", ["tensors-00000.safetensors", "state.json", "manifest.json", METRICS])
@pytest.mark.parametrize("harm", ["flip", "empty", "half", "almost", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, whole, capsys, name, harm):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "x", at_step=6, do=lambda: press(2))
    newest, before = sorted((tmp_path / "x" / STEPS).glob("[0-9]*"), reverse=True)
    assert (int(newest.name), int(before.name)) == (6, 5)
    data = bytearray((newest / name).read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 4
    (newest / name).write_bytes(data[: {"empty": 0, "half": len(data) // 2, "almost": len(data) * 99 // 100}.get(harm)])
    if harm == "gone":
        (newest / name).unlink()
    assert train(tmp_path / "x") == whole[0]
    assert log(tmp_path / "x") == whole[1]
    assert str(newest) in capsys.readouterr().err


def test_all_checkpoints_damaged_means_from_the_start(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "x", at_step=6, do=lambda: press(2))
    for file in (tmp_path / "x" / STEPS).glob("*/state.json"):
        file.unlink()
    assert train(tmp_path / "x") == whole[0]
    assert log(tmp_path / "x") == whole[1]


def test_two_trainings_in_one_folder(tmp_path):
    """Stopped in the second of two, both are done again, for the first one's end is not on disk."""

    def both(out, do=None):
        torch.manual_seed(0)
        out.mkdir(exist_ok=True)
        model = nn.Linear(1, 1)
        ledger = Ledger(out, network_size=2)
        train_more(ledger, model)
        train_more(ledger, model, at_step=14, do=do)
        return model.weight.detach().clone()

    expected = both(tmp_path / "whole")
    with pytest.raises(Stopped):
        both(tmp_path / "x", do=press)
    assert both(tmp_path / "x") == expected
    assert log(tmp_path / "x") == log(tmp_path / "whole")


def test_a_checkpoint_is_written_in_pieces(tmp_path, whole, monkeypatch):
    """Weight and bias, the count of steps and the moments of each of them: 4 bytes each. Last the random state."""
    monkeypatch.setattr(resume, "PIECE", 8)
    written = []
    save = resume.save_file

    def counted(tensors, path):
        written.append(sum(t.numel() * t.element_size() for t in tensors.values()))
        save(tensors, path)

    monkeypatch.setattr(resume, "save_file", counted)
    with pytest.raises(Stopped):
        train(tmp_path / "x", at_step=4, do=press, every=1e9)
    (folder,) = (tmp_path / "x" / STEPS).glob("[0-9]*")
    assert written == [8, 8, 8, 8, 5056]
    assert len(list(folder.glob("tensors-*.safetensors"))) == len(written)
    assert train(tmp_path / "x", every=1e9) == whole[0]
    assert log(tmp_path / "x") == whole[1]


def test_beside_a_process_that_cannot_write_none_waits_for_the_next_piece(tmp_path, monkeypatch):
    """With divided weights each piece takes all processes: the others hear of a full disk before they begin it."""
    taken = []

    def hear(value):
        if len(taken) == 1:
            raise InputError("the disk is full")
        return [value, value]

    monkeypatch.setattr(resume, "PIECE", 8)
    monkeypatch.setattr(resume, "full", lambda tensor: taken.append(1) or tensor)
    monkeypatch.setattr(resume.processes, "rank", lambda: 1)
    monkeypatch.setattr(resume.processes, "all_gather", hear)
    parts = {"weights": resume.Weights([nn.Parameter(torch.zeros(2)) for _ in range(3)])}
    with pytest.raises(InputError, match="the disk is full"):
        resume.StepCheckpoints(tmp_path, "x", 9, parts, every=1.0)._save(1)
    assert len(taken) == 1


@pytest.fixture
def clock(monkeypatch):
    """A clock that only saving moves, and whoever adds to `now`."""
    clock = SimpleNamespace(now=0.0, saving=0.0, a_piece=20.0)
    save = resume.save_file

    def slowly(tensors, path):
        clock.now += clock.a_piece
        clock.saving += clock.a_piece
        save(tensors, path)

    monkeypatch.setattr(resume, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(resume, "save_file", slowly)
    return clock


def saved_at(out, clock, *, steps, every=None, sizes=(4, 4, 4)):
    """Steps of 10 s each; returns when a checkpoint of tensors of these sizes was there, in seconds."""
    parts = {str(i): resume.Weights([nn.Parameter(torch.zeros(size))]) for i, size in enumerate(sizes)}
    checkpoints = resume.StepCheckpoints(out, "x", steps, parts, every=every)
    checkpoints.parts.pop("random")
    seen = []
    for _ in checkpoints.steps(0, "x"):
        newest = checkpoints._found()[:1]
        if newest and (not seen or seen[-1][0] != newest[0].name):
            seen.append((newest[0].name, clock.now))
        clock.now += 10
    return [when for _, when in seen]


def test_checkpoints_take_3_percent_of_the_time_whatever_they_cost(tmp_path, clock, monkeypatch):
    """Three pieces of 20 s are 3% of 2,000 s: the first is given up after a piece, when 120 s have passed."""
    monkeypatch.setattr(resume, "PIECE", 16)
    times = saved_at(tmp_path, clock, steps=1900)
    assert times[0] == pytest.approx(2000 + 60, abs=10)
    assert all(later - one == pytest.approx(2060, abs=11) for one, later in zip(times, times[1:], strict=False))
    assert len(times) == 9 and clock.saving == 20 + 9 * 60
    assert clock.saving / clock.now <= 0.03


def test_a_cheap_checkpoint_is_there_every_two_minutes(tmp_path, clock):
    clock.a_piece = 1.0
    assert saved_at(tmp_path, clock, steps=50) == [121, 242, 363, 484]


def test_checkpoints_as_often_as_one_asks(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(resume, "PIECE", 16)
    assert saved_at(tmp_path, clock, steps=12, every=30.0) == [90, 180, 270]


def test_it_goes_on_where_fewer_gpus_are_visible(monkeypatch):
    """Saved with two; the second one's random state is left aside."""
    put_back = {}

    def set_state(state, i):
        put_back[i] = [torch.zeros(1), torch.ones(1)][:there][i], state

    for there in (2, 1):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: there)  # noqa: B023  (used within this round)
        monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.tensor(10), torch.tensor(11)])
        monkeypatch.setattr(torch.cuda, "set_rng_state", set_state)
        state = resume.RandomState().state_dict()
        put_back.clear()
        resume.RandomState().load_state_dict(state)
        assert {i: int(found) for i, (_, found) in put_back.items()} == {i: 10 + i for i in range(there)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    put_back.clear()
    resume.RandomState().load_state_dict(state)
    assert not put_back


class Scattered(torch.autograd.Function):
    """A weight times 2,000 numbers, whose gradient is summed up in an order that differs each time, as on a GPU."""

    NUMBERS = torch.linspace(-1.0, 1.2, 2000)

    @staticmethod
    def forward(ctx, weight):
        return weight * Scattered.NUMBERS

    @staticmethod
    def backward(ctx, gradient):
        terms = (gradient * Scattered.NUMBERS).tolist()
        if not torch.are_deterministic_algorithms_enabled():
            random.SystemRandom().shuffle(terms)
        return torch.tensor([np.add.accumulate(np.float32(terms))[-1]])  # one after another, in fp32


class Sums(nn.Module):
    """A line through 0 whose slope is seen in `Scattered` alone."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, rows):
        return rows * Scattered.apply(self.weight).mean()


def stopped_and_not(out, monkeypatch):
    """Final weights of a training and of one that was stopped in the middle, in a forced order of sums or without."""
    monkeypatch.setattr(nn, "Linear", lambda *sizes: Sums())
    one = train(out / "one", every=1e9)
    with pytest.raises(Stopped):
        train(out / "other", at_step=4, do=press, every=1e9)
    return float(one), float(train(out / "other", every=1e9))


def test_without_a_forced_order_of_sums_it_goes_on_to_rounding(tmp_path, monkeypatch):
    ends = []
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        ends += stopped_and_not(tmp_path / str(number), monkeypatch)
    assert len(set(ends)) > 1
    assert ends == pytest.approx([ends[0]] * len(ends), rel=1e-4)


def test_in_a_forced_order_of_sums_it_goes_on_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        device.keep_order()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        one, other = stopped_and_not(tmp_path, monkeypatch)
    finally:
        torch.use_deterministic_algorithms(False)
    assert one == other
