"""Two processes that train one cell side by side end where one process ends, and none waits for one that failed."""

import json
import shutil
import signal
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from side_by_side import ENVIRONMENT, side_by_side

from alignment_bench.errors import InputError
from alignment_bench.results.store import STEPS, read_jsonl
from alignment_bench.runtime import launch, processes, turns

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
        # with Adam's usual epsilon a step along a gradient of nearly 0 follows its rounding, and so do later responses
        "ppo": {"lr": 1e-3, "rollout_size": 5, "minibatch_size": 4, "epochs": 2, "adam_epsilon": 1e-3},
        "dpo": {"lr": 1e-3, "batch_size": 5},
        "orpo": {"lr": 1e-3, "batch_size": 5},
    },
    "evaluators": {"length": {}},
}
DATA_PARALLEL = {"distributed_type": "MULTI_GPU", "num_processes": 2}
FSDP = {
    "distributed_type": "FSDP",
    "num_processes": 2,
    "fsdp_config": {"fsdp_version": 2, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"},
}
ZERO = {
    "distributed_type": "DEEPSPEED",
    "num_processes": 2,
    "deepspeed_config": {"deepspeed_config_file": "zero.json"},
}
# a bucket holds a few weights, and the largest one alone
ZERO_FILE = {
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 5000, "overlap_comm": False},
    "bf16": {"enabled": False},
}


needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed; pip install 'alignment-bench[deepspeed]'"
)


def command(methods: str, root: Path) -> list[str]:
    return ["run", "-b", "tiny.yaml", "-m", methods, "--device", "cpu", "--gate", "ignore", "--root", str(root)]


@pytest.fixture(scope="module")
def alone(bench, tiny, tmp_path_factory):
    """alone(lora_rank, methods): a folder with a benchmark, tiny.yaml, and in `one` what one process makes of it."""

    @cache
    def run(lora_rank: int, methods: str) -> Path:
        folder = tmp_path_factory.mktemp("alone")
        spec = {**SPEC, "model": str(tiny.path), "tuning": {**SPEC["tuning"], "lora_rank": lora_rank}}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(spec))
        bench(*command(methods, folder / "one"), cwd=folder)
        return folder

    return run


@pytest.mark.parametrize(
    ("config", "lora_rank", "methods"),
    [
        pytest.param(DATA_PARALLEL, 0, "dpo,orpo,ppo", id="data-parallel"),
        pytest.param(DATA_PARALLEL, 4, "dpo,ppo", id="lora", marks=pytest.mark.slow),
        pytest.param(FSDP, 0, "dpo,orpo,ppo", id="fsdp"),
        pytest.param(FSDP, 4, "dpo,ppo", id="fsdp-lora", marks=pytest.mark.slow),
        pytest.param(ZERO, 0, "dpo,orpo,ppo", id="zero-2", marks=[needs_deepspeed, pytest.mark.slow]),
    ],
)
def test_same_losses_and_weights_as_one_process(alone, tmp_path, config, lora_rank, methods):
    one = alone(lora_rank, methods)
    shutil.copy(one / "tiny.yaml", tmp_path)
    (tmp_path / "accelerate.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "zero.json").write_text(json.dumps(ZERO_FILE))
    # where the launcher imports DeepSpeed it would tell stdout that it found no GPU
    environment = {"DS_ACCELERATOR": "cpu"} if config["distributed_type"] == "DEEPSPEED" else {}
    two = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate.yaml"]
        + ["-m", "alignment_bench", *command(methods, tmp_path / "two"), "--json"],
        cwd=tmp_path,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert two.returncode == 0, two.stderr[-3000:]
    assert json.loads(two.stdout)["benchmark"] == "tiny"  # said once, by one process
    roots = [one / "one", tmp_path / "two"]
    runs = [next(root.glob("runs/tiny/*")) for root in roots]
    counts = [json.loads((run / "run.json").read_text())["environment"]["processes"] for run in runs]
    assert counts == [1, 2]
    left = [{p.relative_to(run).as_posix() for p in run.rglob("*")} for run in runs]
    assert left[0] == left[1]
    assert not list(tmp_path.glob("two/cache/*/.*.partial"))
    texts = [_responses(run) for run in runs]
    for name, (responses, measured) in texts[0].items():
        if name != "ppo":  # see above
            assert texts[1][name][0] == responses, name
            assert texts[1][name][1] == pytest.approx(measured, rel=1e-3, abs=1e-4), name
    trainings = [_trainings(root, run) for root, run in zip(roots, runs, strict=True)]
    assert sorted(trainings[0]) == [*methods.split(","), "reward_model 1", "reward_model 2", "sft"]
    for name, (log, weights, cost) in trainings[0].items():
        other_log, other_weights, other_cost = trainings[1][name]
        assert len(log) == len(other_log) >= 3, name
        # PPO's rewards come from a model whose weights differ in their last digits, and are whitened
        off = 1e-3 if name == "ppo" else 1e-4
        for row, other in zip(log, other_log, strict=True):
            assert row.keys() == other.keys(), name
            for key in row.keys() & {"loss", "grad_norm", "value_loss", "chosen_logps", "ratio", "clip_fraction"}:
                # PPO's loss may be 0, as a mean of terms of about 1
                assert other[key] == pytest.approx(row[key], rel=off, abs=off), (name, key)
        assert weights.keys() == other_weights.keys()
        # Root mean square. A step moves a weight by 1e-3; where the gradient is nearly 0 its rounding says whereto, so
        # a few weights of tens of thousands may end a step apart.
        apart = torch.cat([(value - other_weights[key]).flatten() for key, value in weights.items()])
        assert apart.square().mean().sqrt() < 5e-5, name
        counted = {key: n for key, n in cost.items() if not key.endswith(("seconds", "peak_memory_mb"))}
        assert {key: other_cost[key] for key in counted} == counted, name


def _responses(run: Path) -> dict[str, tuple[list[str], list[float]]]:
    """Each row's responses, and their entropies and KL."""
    rows = {path.parts[-3]: read_jsonl(path) for path in run.glob("*/seed-0/generations.jsonl")}
    return {
        name: ([row["response"] for row in found], [row[key] for row in found for key in ("entropy", "kl")])
        for name, found in rows.items()
    }


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
            load_file(next((path / model).glob("*.safetensors"))),
            json.loads((path / "cost.json").read_text()),
        )
        for name, (path, model) in folders.items()
    }


def test_a_dry_run_ends_and_is_said_once(tiny, tmp_path):
    """Nothing is on disk and the first process makes no pairs, so each reads them for itself."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**SPEC, "model": str(tiny.path)}))
    options = [*command("dpo", tmp_path / "root"), "--dry-run", "--json"]
    ended = side_by_side("alignment_bench", *options, cwd=tmp_path)
    assert [code for code, _, _ in ended] == [0, 0], ended
    first, second = (out for _, out, _ in ended)
    steps = json.loads(first)["steps"]
    assert "dpo seed 0, training" in {step["stage"] for step in steps}
    assert {step["state"] for step in steps} == {"to do"}
    assert second == "" and not (tmp_path / "root").exists()


def test_an_error_or_a_stop_in_one_process_is_of_both(tiny, tmp_path):
    ended = side_by_side("failing_processes.py", tiny.path, tmp_path)
    assert [code for code, _, _ in ended] == [0, 0], ended
    first, second = (json.loads(out) for _, out, _ in ended)
    assert first["failed"] == "PeerError: process 2 of 2: KeyError: 'no such row'"
    assert second["failed"] == "KeyError: 'no such row'"
    for each in (first, second):
        assert each["again"].endswith("fresh: True")
        assert each["found"].endswith("fresh: False")
        assert each["stopped"].startswith("Stopped: stopped after step 4 of 10")
    assert first["continued"] == second["continued"] == first["again"]
    (whole,) = tmp_path.glob("a/cache/train/[!.]*/policy/model.safetensors")
    (continued,) = tmp_path.glob("b/cache/train/[!.]*/policy/model.safetensors")
    assert whole.read_bytes() == continued.read_bytes()
    _both_worked(first["shared"], second["shared"])
    for each in (first, second):
        # 24 bytes go together, a third of 12 is too much, 80 are more than a bucket, and integers are of another kind
        assert each["summed"]["calls"] == [6, 3, 20, 2]
        assert each["summed"]["sums"] == [[1.0] * 3, [3.0] * 3, [5.0] * 3, [3.0] * 20, [11, 11]]


def _both_worked(first: dict, second: dict) -> None:
    """The second process did about half of what the first asked for, and all was as each says alone."""
    alone, helped = first["alone"], first["helped"]
    assert alone == second["alone"]
    assert helped["responses"] == alone["responses"]
    for name in ("logps", "totals", "entropies", "scores", "margins"):
        assert helped[name] == pytest.approx(alone[name], rel=1e-4), name
    assert helped["totals"] == pytest.approx(helped["logps"], rel=1e-4)
    assert helped["kls"] == [0.0] * 12
    # 12 texts by the policy, twice, and by the reward model
    assert first["texts_alone"] == second["texts_alone"] == 36
    assert first["texts"] == 18
    assert first["raised"] == "PeerError: process 2 of 2: KeyError: 'no such text'"
    assert not first["told"]  # should it end the run, the second hears of it
    assert first["after"] == helped["totals"]
    assert second["texts_in_all"] == 18 + 6 + 6
    assert second["left"] == 1  # the policy that was asked last


def test_each_process_holds_its_shard_of_the_weights(tiny, tmp_path):
    """Weights, gradients and Adam's moments with FSDP; a stop goes on to the same bytes, an error ends both."""
    config = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    ended = side_by_side("sharded_processes.py", tiny.path, tmp_path, **config)
    assert [code for code, _, _ in ended] == [1, 1], ended
    shards = [json.loads(out) for _, out, _ in ended]
    # 259 x 32 embeddings (tied), two layers of 2 x 32 x 32 + 2 x 32 x 16 + 3 x 32 x 64 + 2 x 32, and a last norm of 32
    weights = 259 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32
    odd = 32  # one of the two holds the middle of 259 rows
    for shard in shards:
        assert shard["weights"] in ((weights - odd) // 2, (weights + odd) // 2)
        assert shard["gradients"] == shard["weights"]
        assert shard["moments"] == 2 * shard["weights"]
        assert shard["let_go"] == 0
        assert shard["together"] == weights
        assert shard["stopped"].startswith("Stopped: stopped after step 4 of 10")
    assert sum(shard["weights"] for shard in shards) == weights
    assert shards[0]["loss"] == shards[1]["loss"] == pytest.approx(shards[0]["loss_alone"], rel=1e-5)
    assert shards[0]["scores"] == shards[1]["scores"]
    assert shards[0]["scores"]["after"] == shards[0]["scores"]["at_the_end"]
    assert shards[0]["scores"]["others"] == []
    # the step lowers what it was given: the scores' sum
    assert sum(shards[0]["scores"]["after"]) < sum(shards[0]["scores"]["before"]) - 0.1
    # Two steps of two passes through two layers. Forward and backward each brings a layer's weights together, in bf16;
    # in fp32 all norms come together once a pass, and so do embeddings and last norm. Where they stay, once a step.
    for reshards, of_bf16, of_fp32 in (("true", 2 * 2 * 2 * 2, 2 * 2 * 2), ("false", 2 * 2, 2 * 2)):
        found = [shard["bf16"][reshards] for shard in shards]
        for each in found:
            assert each["gathered"] == {"torch.bfloat16": of_bf16, "torch.float32": of_fp32}
            assert each["losses"] == pytest.approx(shards[0]["bf16"]["alone"], rel=1e-6)
            assert each["apart"] < 1e-10  # squares of distances, added up; a step moves a weight by 1e-3
            assert each["held"] == ["torch.bfloat16", "torch.float32"]
            assert each["at_the_end"] == ["torch.float32"]
    for precision, types in (("fp32", ["torch.float32"]), ("bf16", ["torch.bfloat16", "torch.float32"])):
        of_layers, found = weights - 259 * 32 - 32, [shard["frozen"][precision] for shard in shards]
        assert sum(each["true"]["shards"] for each in found) == of_layers
        for each in found:
            divided, whole = each["true"], each["false"]
            assert divided["shards"] == of_layers // 2 and whole["shards"] == 0
            assert divided["types"] == types
            assert divided["whole"] == whole["whole"] - of_layers == weights - of_layers
            for name in ("losses", "said", "scores", "weights"):
                assert divided[name] == whole[name] == found[0]["false"][name], name
            if precision == "fp32":  # in bf16 an adapter that is merged is rounded by chance
                assert divided["responses"] == whole["responses"]
        assert found[0]["true"]["losses"][1] < found[0]["true"]["losses"][0]
        assert min(found[0]["true"]["said"][1]) > 0
        assert len(set(found[0]["true"]["scores"])) == 3
        assert found[0]["true"]["logits"] == found[0]["false"]["logits"]
    assert shards[0]["continued"] == shards[1]["continued"] == shards[0]["whole"]
    (whole,) = tmp_path.glob("a/cache/train/[!.]*/policy/model.safetensors")
    (continued,) = tmp_path.glob("b/cache/train/[!.]*/policy/model.safetensors")
    assert whole.read_bytes() == continued.read_bytes()
    assert "KeyError: 'no such row'" in ended[1][2]
    assert "process 2 of 2 failed in what all do together" in ended[1][2]


@needs_deepspeed
def test_moments_and_gradients_are_divided_and_a_kill_changes_nothing(tiny, tmp_path):
    """ZeRO's updates of a network and a head beside plain AdamW: adapters in stage 1, all weights in stage 2."""
    launched = {"ACCELERATE_USE_DEEPSPEED": "true"}
    ended = side_by_side("zero_processes.py", tiny.path, tmp_path, "kill", **launched)
    assert [code for code, _, _ in ended] == [-signal.SIGKILL] * 2, ended
    first, second = (json.loads(out) for _, out, _ in ended)
    head = 32
    weights = {
        # rank 4 on q and o of 32 x 32, k and v of 32 x 16, three of 32 x 64, in two layers
        "1": 4 * 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64)) + head,
        "2": 259 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32 + head,
    }
    for stage, count in weights.items():
        for found in (first[stage], second[stage]):
            assert found["moments"] == 2 * count // 2
            # in stage 2 the shard, and at most the rest of the weight that lies in both, none there larger than 64 x 32
            least, most = (count, count) if stage == "1" else (count // 2, count // 2 + 64 * 32)
            assert least <= found["gradients"] <= most
            assert found["losses"] == pytest.approx(found["plain_losses"], rel=1e-5)
            assert found["norms"] == pytest.approx(found["plain_norms"], rel=1e-5)
            assert found["off"] < 1e-5  # weights moved by the learning rate, 1e-3 and 1e-2, in each of four steps
            assert "loss nan" in found["failed"]
            assert found["untouched"]
            assert found["apart"]
    # in stage 1 they wait for each other after their passes alone, where one that failed tells the other
    assert first["ended"] == "PeerError: process 2 of 2: KeyError: 'no such row'"
    assert second["ended"] == "KeyError: 'no such row'"

    left = [path.name for path in tmp_path.glob(f"b/cache/train/.*/{STEPS}/[0-9]*")]
    assert sorted(left) == ["000000002", "000000003"]
    ended = side_by_side("zero_processes.py", tiny.path, tmp_path, "continue", **launched)
    assert [json.loads(out)["made"] for _, out, _ in ended] == [first["made"]] * 2, ended
    (whole,) = tmp_path.glob("a/cache/train/[!.]*/policy/model.safetensors")
    (continued,) = tmp_path.glob("b/cache/train/[!.]*/policy/model.safetensors")
    assert whole.read_bytes() == continued.read_bytes()
    assert [code for code, _, _ in ended] == [1, 1]
    assert "KeyError: 'no such row'" in ended[1][2]
    assert "process 2 of 2 failed in what all do together" in ended[1][2]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP 1.*fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"},
            "SIZE_BASED_WRAP.*set TRANSFORMER_BASED_WRAP",
        ),
    ],
)
def test_what_is_not_supported_is_refused(monkeypatch, variables, said):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        launch.start("auto")
    assert processes.size() == 1


def test_a_pass_through_divided_weights_takes_all_processes(monkeypatch):
    monkeypatch.setattr(processes, "_SIZE", 2)
    monkeypatch.setattr(processes, "_WAITING", True)
    with pytest.raises(RuntimeError, match="takes all processes, and the others wait for work"):
        turns.take_turn(("lm model", False))


def test_work_apart_is_of_a_process_that_is_alone(monkeypatch):
    for name, value in {"_RANK": 1, "_SIZE": 2, "_WAITING": True}.items():
        monkeypatch.setattr(processes, name, value)
    with pytest.raises(KeyError), processes.apart():
        assert (processes.rank(), processes.size(), processes.are_waiting()) == (0, 1, False)
        raise KeyError
    assert (processes.rank(), processes.size(), processes.are_waiting()) == (1, 2, True)


def test_a_device_by_number_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="cuda:1 names one device"):
        launch.start("cuda:1")
