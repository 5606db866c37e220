"""What vLLM is asked for, by a stub in its place: memory, sleep, weights from memory, and its refusals."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from alignment_bench.errors import InputError
from alignment_bench.models import sampler_vllm, sampling
from alignment_bench.models.policy import Policy
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Prompt

PROMPTS = [Prompt(str(i), (), (0, 10, 11 + i)) for i in range(3)]


class Engine:
    """vLLM's LLM as far as the sampler knows it; it answers each prompt with 7 and EOS."""

    started: list["Engine"] = []
    total, free = 80.0, 64.0  # GiB, of the device

    def __init__(self, **settings):
        share = settings.get("gpu_memory_utilization", 0.92)  # vLLM's own default
        if settings["enable_sleep_mode"] and share * self.total > self.free:  # as request_memory in its worker does
            raise ValueError(
                f"Free memory on device cuda:0 ({self.free}/{self.total} GiB) on startup is less than\n desired GPU "
                f"memory utilization ({share}, {share * self.total:.1f} GiB)."
            )
        self.settings, self.calls, self.weights = settings, [], []
        config = SimpleNamespace(model_config=SimpleNamespace(enable_sleep_mode=settings["enable_sleep_mode"]))
        core = SimpleNamespace(shutdown=lambda: self.calls.append("shutdown"))
        self.llm_engine = SimpleNamespace(vllm_config=config, engine_core=core)
        Engine.started.append(self)

    def wake_up(self, tags):
        self.calls.append(f"wake {' '.join(tags)}")

    def sleep(self, level):
        self.calls.append(f"sleep {level}")

    def reset_prefix_cache(self):
        self.calls.append("forget prefixes")

    def collective_rpc(self, name, kwargs):
        self.calls.append(name)
        self.weights = dict(kwargs["weights_iterator"])

    def generate(self, asked, settings, use_tqdm):
        self.calls.append("generate")
        logprobs = [{7: SimpleNamespace(logprob=-0.5)}, {1: SimpleNamespace(logprob=-0.25)}]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[7, 1], logprobs=logprobs)]) for _ in asked]


@pytest.fixture(params=["cpu", "cuda"])
def kind(request, monkeypatch):
    """The kind of device that this vLLM is built for; policies stay on the CPU and say they are there."""
    vllm, platforms = ModuleType("vllm"), ModuleType("vllm.platforms")
    vllm.LLM, vllm.SamplingParams = Engine, lambda **settings: settings
    sleeps = request.param == "cuda"
    platforms.current_platform = SimpleNamespace(device_type=request.param, is_sleep_mode_available=lambda: sleeps)
    for name, module in (("vllm", vllm), ("vllm.platforms", platforms)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sampler_vllm, "_engines", {})
    monkeypatch.setattr(Engine, "started", [])
    return request.param


def drawn(tiny, kind, *, rounds=1, rows=range(3), together=False, **settings):
    policy = Policy.open(tiny, Tuning(precision="fp32", device="cpu", sampler="vllm", **settings), trainable=True)
    tuning = policy.network.tuning
    for _ in range(rounds):
        policy.network.tuning = replace(tuning, device=kind)
        found = sampler_vllm.sample(
            policy, PROMPTS, rows, streams=[5, 6, 7], max_new_tokens=4, seed=0, temperature=1.0, top_p=1.0,
            progress=None, together=together,
        )  # fmt: skip
        policy.network.tuning = tuning
    return policy, found


def test_what_an_engine_is_started_with(tiny, kind):
    """A share of the memory on a GPU; on a CPU room for 8 sequences of 256 tokens, the model's window: of each token
    2 x 2 layers x 2 heads x 8 wide x 4 bytes."""
    drawn(tiny, kind, vllm_memory=0.25, vllm_sequences=8)
    [engine] = Engine.started
    found = {name: engine.settings.get(name) for name in ("gpu_memory_utilization", "kv_cache_memory_bytes")}
    expected = (0.25, None) if kind == "cuda" else (None, 8 * 256 * 256)
    assert tuple(found.values()) == expected
    assert engine.settings["max_num_seqs"] == 8 and engine.settings["enable_sleep_mode"] == (kind == "cuda")


def test_weights_are_put_in_place_each_round_and_a_gpu_is_given_back_in_between(tiny, kind):
    policy, found = drawn(tiny, kind, rounds=2)
    assert [s.ids for s in found] == [(7, 1)] * 3 and found[0].logps == (-0.5, -0.25) and found[0].finished
    [engine] = Engine.started
    put = ["reload_weights", "forget prefixes", "generate"]
    if kind == "cuda":
        put = ["wake weights", "reload_weights", "wake kv_cache", "forget prefixes", "generate", "sleep 2"]
    assert engine.calls == put * 2
    state = policy.network.model.state_dict()
    assert engine.weights.keys() == state.keys()
    assert all(engine.weights[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items())  # no copy


def test_a_gpu_is_given_back_when_sampling_fails(tiny, kind, monkeypatch):
    monkeypatch.setattr(Engine, "generate", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drawn(tiny, kind)
    assert Engine.started[0].calls[-1] == ("sleep 2" if kind == "cuda" else "forget prefixes")


def test_memory_that_is_not_there_is_said_in_one_sentence(tiny, kind):
    """64 GiB of 80 are free beside a 7B policy. vLLM's default, 0.92, wants 73.6 and would not start; ours does."""
    drawn(tiny, kind)
    if kind == "cuda":
        with pytest.raises(InputError, match=r"tuning.vllm_memory is 0.9\): Free memory .* is less than desired GPU"):
            drawn(tiny, kind, vllm_memory=0.9)


@pytest.fixture
def of_two(monkeypatch):
    """This process is one of two; the other one's longest sequence is of 1,100 tokens, more than our engine's step."""
    monkeypatch.setattr(sampler_vllm.processes, "size", lambda: 2)
    monkeypatch.setattr(sampler_vllm.processes, "all_gather", lambda value: [value, 1100])


def test_each_of_several_processes_has_an_engine_of_its_own_and_all_start_alike(tiny, kind, of_two, monkeypatch):
    monkeypatch.setattr(sampler_vllm, "context_window", lambda config: None)
    _, found = drawn(tiny, kind, together=True)
    [engine] = Engine.started
    assert engine.settings["distributed_executor_backend"] == "external_launcher"
    assert engine.settings["max_model_len"] == 2048  # for the other one's, or that would start another engine alone
    assert len(found) == 3
    _, found = drawn(tiny, kind, together=True, rows=())  # its shard is empty, and it does all but draw
    put = ["reload_weights", "forget prefixes"]
    expected = ["wake weights", "reload_weights", "wake kv_cache", "forget prefixes", "sleep 2"]
    assert engine.calls[-len(put if kind == "cpu" else expected) :] == (put if kind == "cpu" else expected)
    assert found == [] and engine.calls.count("generate") == 1 and len(Engine.started) == 1


def test_one_process_of_several_does_not_start_an_engine_alone(tiny, kind, of_two):
    """vLLM would wait for the others for ever."""
    with pytest.raises(InputError, match="vLLM samples in all processes at once, and this sampling is of one; use"):
        drawn(tiny, kind)
    assert not Engine.started


def test_an_engine_that_does_not_start_ends_all_processes(tiny, kind, of_two, monkeypatch):
    """The others wait for it in what vLLM does in all at once."""
    monkeypatch.setattr(Engine, "__init__", lambda self, **settings: 1 / 0)
    monkeypatch.setattr(sampler_vllm.processes, "end_all", lambda error: sys.exit(f"all end: {error}"))
    with pytest.raises(SystemExit, match="all end: division by zero"):
        drawn(tiny, kind, together=True)


@pytest.mark.parametrize("several", [True, False])
def test_an_engine_that_ends_leaves_the_processes_joined(tiny, kind, several, monkeypatch):
    """vLLM ends its own groups, and then all that torch has: of several processes that one is the run's."""
    ended, at_exit = [], []
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda group=None: ended.append(group))
    monkeypatch.setattr(sampler_vllm.processes, "size", lambda: 1 + several)
    monkeypatch.setattr(sampler_vllm.processes, "all_gather", lambda value: [value])
    monkeypatch.setattr(sampler_vllm.atexit, "register", at_exit.append)
    drawn(tiny, kind, together=several)
    [engine] = Engine.started

    def shutdown():
        torch.distributed.destroy_process_group("vLLM's own")
        torch.distributed.destroy_process_group()

    engine.llm_engine.engine_core.shutdown = shutdown
    drawn(tiny, kind, together=several, vllm_sequences=7)  # another engine takes its place
    assert len(Engine.started) == 2
    assert ended == (["vLLM's own"] if several else ["vLLM's own", None])
    torch.distributed.destroy_process_group()
    assert ended[-1] is None  # it is torch's again
    assert at_exit == [sampler_vllm._end_engine] * (2 * several)


def test_divided_weights_are_handed_over_in_whole(tiny, kind, monkeypatch):
    """All processes bring them together; here `full` adds 1 where it would do so."""
    monkeypatch.setattr(sampler_vllm, "full", lambda tensor: tensor + 1)
    policy, _ = drawn(tiny, kind)
    state = policy.network.model.state_dict()
    assert all(torch.equal(tensor, state[name] + 1) for name, tensor in Engine.started[0].weights.items())


@pytest.mark.parametrize("together", [True, False])
def test_the_sampler_hears_whether_all_processes_are_there(tiny, together, monkeypatch):
    heard = []
    monkeypatch.setattr(sampler_vllm, "sample", lambda *given, **named: heard.append(named["together"]) or [])
    monkeypatch.setattr(sampling.processes, "all_gather", lambda value: [value])
    policy = Policy.open(tiny, Tuning(precision="fp32", device="cpu", sampler="vllm"), trainable=True)
    assert sampling.sample(policy, [], max_new_tokens=4, seed=0, together=together) == []
    assert heard == [together]


def test_one_process_alone_leaves_the_executor_to_vllm(tiny, kind):
    drawn(tiny, kind)
    assert Engine.started[0].settings["distributed_executor_backend"] is None


def test_an_adapter_is_handed_over_merged(tiny, kind):
    policy, _ = drawn(tiny, kind, lora_rank=4)
    with torch.no_grad():
        for parameter in policy.network.parameters:
            parameter.add_(torch.ones_like(parameter) * 0.1)
    found = dict(sampler_vllm.plain_weights(policy.network))
    name = "model.layers.0.self_attn.q_proj"
    layer = policy.network.activate().get_submodule(name)
    [adapter] = layer.active_adapters
    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    expected = layer.base_layer.weight + b @ a * 32 / 4
    assert torch.allclose(found[f"{name}.weight"], expected, atol=1e-6)
    assert not any("lora" in name or "base_layer" in name for name in found)
    policy.network.close()
