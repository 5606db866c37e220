"""Two processes that train one cell side by side end where one process ends, and none waits for one that failed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from alignment_bench.results import processes
from alignment_bench.results.records import InputError
from alignment_bench.results.store import read_jsonl

SPEC = {
    "name": "tiny",
    "description": "two random layers",
    "preferences": "builtin/world",
    "rows": 60,
    "max_prompt_tokens": 150,
    "max_response_tokens": 40,
    "tuning": {"precision": "fp32"},
    "sft": {"examples": 15, "lr": 1e-3, "batch_size": 5},
    "reward_model": {"examples": 15, "lr": 1e-3, "batch_size": 5},
    "budget": 15,
    "evaluation": {"prompts": 4},
    # a minibatch of four of five responses leaves one, so a process has none
    "methods": {
        "ppo": {"lr": 1e-3, "rollout_size": 5, "minibatch_size": 4, "epochs": 2},
        "dpo": {"lr": 1e-3, "batch_size": 5},
        "orpo": {"lr": 1e-3, "batch_size": 5},
    },
    "evaluators": {"length": {}},
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_same_losses_and_weights_as_one_process(bench, tiny, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**SPEC, "model": str(tiny.path)}))
    command = ["run", "-b", "tiny.yaml", "-m", "dpo,orpo,ppo", "--device", "cpu", "--gate", "ignore"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m"]
    two = subprocess.Popen(
        [*launch, "alignment_bench", *command, "--root", "two", "--json"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    bench(*command, "--root", "one", cwd=tmp_path)
    said, complained = two.communicate(timeout=300)
    assert two.returncode == 0, complained[-3000:]
    assert json.loads(said)["benchmark"] == "tiny"  # said once, by one process
    runs = [next(tmp_path.glob(f"{root}/runs/tiny/*")) for root in ("one", "two")]
    counts = [json.loads((run / "run.json").read_text())["environment"]["processes"] for run in runs]
    assert counts == [1, 2]
    left = [{p.relative_to(run).as_posix() for p in run.rglob("*")} for run in runs]
    assert left[0] == left[1]
    assert not list(tmp_path.glob("two/cache/*/.*.partial"))
    trainings = [_trainings(tmp_path / root, run) for root, run in zip(("one", "two"), runs, strict=True)]
    assert sorted(trainings[0]) == ["dpo", "orpo", "ppo", "reward_model 1", "reward_model 2", "sft"]
    for name, (log, weights, cost) in trainings[0].items():
        other_log, other_weights, other_cost = trainings[1][name]
        assert len(log) == len(other_log) >= 3, name
        for row, other in zip(log, other_log, strict=True):
            assert row.keys() == other.keys(), name
            for key in row.keys() & {"loss", "grad_norm", "value_loss", "chosen_logps", "ratio", "clip_fraction"}:
                assert other[key] == pytest.approx(row[key], abs=1e-4, rel=0), (name, key)
        assert weights.keys() == other_weights.keys()
        for key, value in weights.items():
            assert torch.allclose(value, other_weights[key], atol=1e-4, rtol=0), (name, key)
        counted = {key: n for key, n in cost.items() if key not in ("seconds", "peak_memory_mb")}
        assert {key: other_cost[key] for key in counted} == counted, name


def _trainings(root: Path, run: Path) -> dict[str, tuple[list, dict, dict]]:
    """Log, weights and costs of each training."""
    (sft,) = root.glob("cache/sft/[!.]*")
    folders = {path.parent.name: (path, "policy") for path in run.glob("[!s]*/seed-0")} | {"sft": (sft, "model")}
    for path in root.glob("cache/reward_model/[!.]*"):
        seed = json.loads((path / "manifest.json").read_text())["inputs"]["seed"]
        folders[f"reward_model {seed}"] = path, "model"
    return {
        name: (
            read_jsonl(path / "metrics.jsonl"),
            load_file(path / model / "model.safetensors"),
            json.loads((path / "cost.json").read_text()),
        )
        for name, (path, model) in folders.items()
    }


def test_an_error_or_a_stop_in_one_process_is_of_both(tiny, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).parent / "failing_processes.py"
    both = [
        subprocess.Popen(
            [sys.executable, str(script), str(tiny.path), str(tmp_path)],
            env={
                **ENVIRONMENT,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    first, second = (json.loads(out) for out, _ in said)
    assert first["failed"] == "PeerError: process 2 of 2: KeyError: 'no such row'"
    assert second["failed"] == "KeyError: 'no such row'"
    for ended in (first, second):
        assert ended["again"].endswith("fresh: True")
        assert ended["found"].endswith("fresh: False")
        assert ended["stopped"].startswith("Stopped: stopped after step 4 of 10")
    assert first["continued"] == second["continued"] == first["again"]
    (whole,) = tmp_path.glob("a/cache/train/[!.]*/policy/model.safetensors")
    (continued,) = tmp_path.glob("b/cache/train/[!.]*/policy/model.safetensors")
    assert whole.read_bytes() == continued.read_bytes()


def test_what_is_not_supported_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="FSDP"):
        processes.start("auto")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match="DeepSpeed"):
        processes.start("auto")
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="cuda:1 names one device"):
        processes.start("cuda:1")
    assert processes.size() == 1
