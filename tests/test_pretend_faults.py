"""The pretend CUDA device catches faults: what CUDA would refuse raises, and what it would wait for is counted."""

import dataclasses

import pytest
import torch
from pretend_cuda import Mixed, pretend_cuda
from pretend_runs import beyond, counts, runs, save_model, train, watch

from alignment_bench.errors import InputError
from alignment_bench.methods import kto, losses, online
from alignment_bench.methods.dpo import DPO
from alignment_bench.models import checkpoint, layout, network, packed_attention
from alignment_bench.models.network import Network
from alignment_bench.training import loop

TUNING = "full fp32"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("pretend"))


@pytest.fixture(scope="module")
def sound(model):
    """What is counted where nothing is wrong, by run."""
    return {name: counts(watch(runs()[name], model, TUNING)) for name in ("dpo", "generation")}


# --- what CUDA would refuse


def moved(function, change):
    """The function with its outcome changed."""
    return lambda *given, **more: change(function(*given, **more))


def mask_on_the_cpu(monkeypatch):
    to_cpu = lambda found: dataclasses.replace(found, mask=found.mask.cpu())  # noqa: E731
    monkeypatch.setattr(network, "lay_out", moved(layout.lay_out, to_cpu))


def attention_mask_on_the_cpu(monkeypatch):
    pack = packed_attention.pack
    monkeypatch.setattr(layout, "pack", lambda rows, device, *, cut: pack(rows, "cpu", cut=cut))


def rows_on_the_cpu(monkeypatch):
    monkeypatch.setattr(online, "pad", lambda rows, device, fill: layout.pad(rows, "cpu", fill))


def model_not_moved(monkeypatch):
    load = checkpoint.load_model
    on_cpu = lambda folder, kind, tuning, **more: load(folder, kind, dataclasses.replace(tuning, device="cpu"), **more)  # noqa: E731
    monkeypatch.setattr(checkpoint, "load_model", on_cpu)


def number_on_the_cpu(monkeypatch):
    """A mean over a list of numbers, one of which came from the CPU."""
    mean = lambda values, mask: torch.stack([(values * mask).sum() / mask.sum(), torch.zeros(())]).sum()  # noqa: E731
    monkeypatch.setattr(losses, "masked_mean", mean)


def drift_on_the_cpu(monkeypatch):
    """KTO's baseline, a number a row."""
    monkeypatch.setattr(kto, "mismatched_log_ratio", lambda *given: torch.zeros(1))


@pytest.mark.parametrize(
    ("fault", "run"),
    [
        (mask_on_the_cpu, "dpo"),
        (attention_mask_on_the_cpu, "dpo"),
        (rows_on_the_cpu, "grpo"),
        (model_not_moved, "sft"),
        (number_on_the_cpu, "ppo"),
        (drift_on_the_cpu, "kto"),
    ],
)
def test_devices_that_meet_are_refused(fault, run, model, monkeypatch):
    fault(monkeypatch)
    with pytest.raises((Mixed, InputError), match="expected all tensors on the same device: aten"):
        watch(runs()[run], model, TUNING)


class ByNumpy(DPO):
    """A loss that leaves torch."""

    def loss(self, logps):
        return super().loss(logps) + float(logps.chosen.sum().detach().numpy().mean())


def test_values_of_the_device_are_no_numpy_array(model):
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        watch(train(ByNumpy(batch_size=8)), model, TUNING)


def test_a_generator_of_the_cpu_draws_nothing_on_the_device():
    generator = torch.Generator()
    with pretend_cuda(), pytest.raises(RuntimeError, match="expected a 'cuda' device type for generator"):
        torch.rand(3, device="cuda", generator=generator)


# --- what would be slow


class RowByRow(DPO):
    """A loss that looks at each pair."""

    def loss(self, logps):
        return torch.stack([each for each in super().loss(logps) if each.item() > -1])


class ByMask(DPO):
    """A loss that picks rows by a mask, whose number the CPU must know."""

    def loss(self, logps):
        found = super().loss(logps)
        return found[found > -1]


class MadeAnew(DPO):
    """A loss with a constant that is copied each time."""

    def loss(self, logps):
        return super().loss(logps) * torch.tensor([1.0], device=logps.chosen.values.device)


class TokenByToken(DPO):
    """A loss that adds up tokens in Python."""

    def loss(self, logps):
        return super().loss(logps) + 0 * sum(logps.chosen.values[:, t] for t in range(logps.chosen.values.shape[1]))


@pytest.mark.parametrize(
    ("method", "kind"),
    [(RowByRow, "step: waits"), (ByMask, "step: waits"), (MadeAnew, "step: copies"), (TokenByToken, "step: launches")],
)
def test_a_slow_loss_is_told(method, kind, model, sound):
    told = beyond(counts(watch(train(method(batch_size=8)), model, TUNING)), sound["dpo"])
    assert any(one.startswith(kind) for one in told), told


def weights_cast_for_each_token(monkeypatch):
    head = Network.head

    def cast(self, states):
        self.model.lm_head.weight.to(torch.bfloat16)
        return head(self, states)

    monkeypatch.setattr(Network, "head", cast)


def values_read_for_each_token(monkeypatch):
    head = Network.head

    def read(self, states):
        assert states.isfinite().all()
        return head(self, states)

    monkeypatch.setattr(Network, "head", read)


def ids_copied_for_each_token(monkeypatch):
    head = Network.head
    monkeypatch.setattr(Network, "head", lambda self, s: head(self, s + torch.tensor([0.0]).to(s.device)))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (weights_cast_for_each_token, "many: launches"),
        (values_read_for_each_token, "many: waits"),
        (ids_copied_for_each_token, "many: copies"),
    ],
)
def test_what_a_token_takes_too_much_is_told(fault, kind, model, sound, monkeypatch):
    fault(monkeypatch)
    told = beyond(counts(watch(runs()["generation"], model, TUNING)), sound["generation"])
    assert any(one.startswith(kind) for one in told), told


def test_a_step_too_many_is_told(model, sound, monkeypatch):
    step = loop.Optimizer.step
    monkeypatch.setattr(loop.Optimizer, "step", lambda self, *given: step(self, *given) and step(self, *given))
    told = beyond(counts(watch(runs()["dpo"], model, TUNING)), sound["dpo"])
    assert any(one.startswith("step: launches") for one in told), told


# --- the device itself


def test_counts_by_hand():
    """Two copies there, a product and a sum, one copy back, one number read; views and the CPU's own work are free."""
    with pretend_cuda() as seen:
        a = torch.ones(2, 3).to("cuda")
        b = torch.tensor([1.0, 2.0, 3.0], device="cuda")
        assert (a.device, a.T.is_cuda, torch.ones(1).is_cuda) == (torch.device("cuda:0"), True, False)
        c = (a.T.view(3, 2)[:, 0] * b).sum()
        assert (torch.ones(3) * 2).sum() == 6
        assert c.cpu().device.type == "cpu"
        assert float(c) == 6
    assert (seen.count("copies"), seen.count("launches"), seen.count("waits")) == (2, 2, 2)


def test_gradients_lie_where_their_weights_do():
    with pretend_cuda():
        layer = torch.nn.Linear(3, 2).to("cuda")
        layer(torch.ones(4, 3, device="cuda")).square().sum().backward()
        assert {p.grad.device.type for p in layer.parameters()} == {"cuda"}
        with pytest.raises(Mixed):
            layer(torch.ones(4, 3))
        with pytest.raises(Mixed):
            layer.weight.grad + torch.ones(2, 3)


def test_nothing_is_left_behind():
    with pretend_cuda():
        kept = torch.ones(3, device="cuda")
    assert not torch.cuda.is_available()
    assert kept.device.type == "cpu"
    assert torch.equal(kept + torch.ones(3), torch.full((3,), 2.0))
