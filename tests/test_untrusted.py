"""Files of others run no code here: pickles, YAML tags, code beside a model; and names that are paths are refused."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from alignment_bench.errors import InputError
from alignment_bench.preferences.labels import label_path
from alignment_bench.results.run_folder import Run, check_names, runs_folder

SPEC = {
    "name": "tiny", "preferences": "builtin/world", "rows": 60, "max_prompt_tokens": 150, "max_response_tokens": 90,
    "sft": {"examples": 8, "lr": 1e-3}, "reward_model": {"examples": 8, "lr": 1e-3}, "budget": 8,
}  # fmt: skip


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def model(tmp_path, make_tiny) -> Path:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SPEC))
    return make_tiny(tmp_path / "model")


def pickled(model: Path, name: str, mark: Path) -> Path:
    """The model with a payload for its weights."""
    folder = Path(shutil.copytree(model, model.with_name(f"pickled-{name}")))
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload(mark)))
    return folder


def coded(model: Path, file: str, mark: Path) -> Path:
    """The model with settings that name code of its own, which leaves a file behind when it is imported."""
    folder = Path(shutil.copytree(model, model.with_name(f"coded-{file}")))
    settings = json.loads((folder / file).read_text())
    if file == "config.json":
        settings |= {"model_type": "mine", "architectures": ["Mine"]}
        settings["auto_map"] = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Mine",
                                "AutoModelForSequenceClassification": "mine.Mine"}  # fmt: skip
    else:
        settings |= {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["mine.MyTokenizer", None]}}
    (folder / file).write_text(json.dumps(settings))
    (folder / "mine.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nConfig = Mine = MyTokenizer = None\n")
    return folder


OPTIONS = ("--model", "--judge", "--reward-model")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "model.pkl"])
def test_pickled_weights_are_refused(bench, model, tmp_path, name):
    folder = pickled(model, name, mark := tmp_path / "executed")
    for option in OPTIONS:
        given = ["--model", model, option, folder] if option != "--model" else [option, folder]
        done = bench("run", "-b", "tiny.yaml", "-m", "dpo", *given, cwd=tmp_path, code=2)
        [said] = done.stderr.strip().splitlines()
        assert f"{option} {folder}: its weights are pickled ({name})" in said
    assert not mark.exists() and not (tmp_path / "results").exists()
    pickle.loads((folder / name).read_bytes())
    assert mark.exists()  # it would have been


def test_a_pickle_beside_safetensors_is_never_opened(bench, model, tmp_path):
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    (model / "training_args.bin").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    from alignment_bench.models.checkpoint import load_model
    from alignment_bench.models.tuning import Tuning

    loaded = load_model(model, "lm", Tuning(precision="fp32", device="cpu"))
    stored = load_file(model / "model.safetensors")["model.norm.weight"]
    assert torch.equal(loaded.model.norm.weight, stored) and not (tmp_path / "executed").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_is_refused(bench, model, tmp_path, monkeypatch, file):
    """Even where somebody at the keyboard would say yes, as transformers asks."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = coded(model, file, mark := tmp_path / "executed")
    for option in OPTIONS:
        given = ["--model", model, option, folder] if option != "--model" else [option, folder]
        done = bench("run", "-b", "tiny.yaml", "-m", "dpo", *given, cwd=tmp_path, code=2)
        [said] = done.stderr.strip().splitlines()
        assert f"{option} {folder}: {file} asks to run code that comes with the model" in said
    assert not mark.exists()


def test_code_for_an_architecture_that_transformers_has_is_not_used(model, tmp_path):
    from alignment_bench.models.checkpoint import load_model
    from alignment_bench.models.find import find_model
    from alignment_bench.models.tuning import Tuning

    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "mine.Mine"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "mine.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    found = find_model(str(model), "--model")
    assert type(load_model(found.path, "lm", Tuning(precision="fp32", device="cpu"))).__name__ == "LlamaForCausalLM"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [MARK]", "!!python/name:os.mkdir", "!mine {a: 1}"])
def test_yaml_tags_run_nothing(bench, tmp_path, tag):
    mark = tmp_path / "executed"
    (tmp_path / "tiny.yaml").write_text(f"name: tiny\ndescription: {tag.replace('MARK', str(mark))}\n")
    done = bench("run", "-b", "tiny.yaml", "-m", "dpo", cwd=tmp_path, code=2)
    assert "tiny.yaml, line 2: not valid YAML (could not determine a constructor for the tag" in done.stderr
    bench("run", "-b", "quick", "-m", "dpo:beta=!!python/name:os.mkdir", cwd=tmp_path, code=2)
    assert not mark.exists()


BAD_NAMES = ["../up", "/abs", "a/b", "nul\0", "x" * 300, "", ".", "..", ".hidden", " a", "a ", "con\n"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_no_names(bench, tmp_path, name):
    """Of a method (a plugin may call itself anything), a benchmark, and a labeller (spaces and letters of any kind)."""
    with pytest.raises(InputError, match="cannot be a folder's"):
        check_names([name])
    record = {"run_id": "r", "created": "", "commands": [], "contract": {}, "methods": {name: {}}}
    with pytest.raises(InputError, match="cannot be a folder's"):
        Run(tmp_path / "run").open(record)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**SPEC, "name": name, "model": "builtin/base_model"}))
    done = bench("run", "-b", "tiny.yaml", "-m", "dpo", cwd=tmp_path, code=2)
    said = "a character of code 0" if "\0" in name else "name: give letters, digits, dots, dashes and underscores"
    assert done.stderr.startswith("bench: ") and said in done.stderr
    with pytest.raises(InputError, match="the labeller's name"):
        label_path(tmp_path, f"{name}/x" if name.strip() in ("a", "con") else name)  # white space around it is trimmed
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


def test_names_that_differ_in_case_only(tmp_path):
    record = {"run_id": "r", "created": "", "commands": [], "contract": {}, "methods": {"dpo": {}}}
    run = Run(runs_folder(tmp_path, "quick") / "r")
    run.open(record)
    with pytest.raises(InputError, match="'dpo' and 'DPO' differ in upper and lower case only"):
        run.open({**record, "methods": {"DPO": {}}})
    assert list(run.record["methods"]) == ["dpo"]
    with pytest.raises(InputError, match="'quick' and 'Quick' differ"):
        runs_folder(tmp_path, "Quick")
    assert runs_folder(tmp_path, "quick") == tmp_path / "runs" / "quick"
    (tmp_path / "labels").mkdir()
    label_path(tmp_path, "Ann").write_text("")
    with pytest.raises(InputError, match="'ann' differs from 'Ann', who is there already"):
        label_path(tmp_path, "ann")
    assert label_path(tmp_path, "Ann").exists()


KINDS = ("sft", "reward_model", "train", "generations")  # of stages that load the model

OWN_CODE = """
import os
from transformers import LlamaConfig, LlamaForCausalLM
os.makedirs({mark!r}, exist_ok=True)
class Config(LlamaConfig):
    model_type = "mine"
class Mine(LlamaForCausalLM):
    config_class = Config
"""


@pytest.fixture
def own_code(model, tmp_path, monkeypatch):
    """A model that only its own code can load, which leaves a folder behind when it is imported; and that folder."""
    from alignment_bench.models.model_files import allow_remote_code

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = coded(model, "config.json", mark := tmp_path / "executed")
    (folder / "mine.py").write_text(OWN_CODE.format(mark=str(mark)))
    yield folder, mark
    allow_remote_code(False)


def test_code_of_a_model_runs_only_with_the_flag_and_the_contract_says_so(bench, model, own_code, tmp_path):
    folder, mark = own_code
    command = [
        "run",
        "-b",
        "tiny.yaml",
        "-m",
        "dpo",
        "--model",
        folder,
        "--gate",
        "ignore",
        "--set",
        "tuning.lora_rank=4",
    ]
    done = bench(*command, cwd=tmp_path, code=2)
    assert "read that code, and if you trust it add --trust-remote-code" in done.stderr
    assert not mark.exists() and not (tmp_path / "results").exists()
    summary = json.loads(bench(*command, "--trust-remote-code", "--json", cwd=tmp_path).stdout)
    assert mark.exists() and summary["contract"]["trust_remote_code"] is True
    cache = tmp_path / "results" / "cache"
    made = {p.parts[-3]: json.loads(p.read_text())["inputs"] for p in cache.rglob("manifest.json")}
    assert all(made[kind]["trust_remote_code"] is True for kind in KINDS), made
    [sft] = (tmp_path / "results" / "cache" / "sft").glob("*/model")
    assert (sft / "mine.py").exists()  # it brings the code that it needs
    shutil.rmtree(mark)
    bench(*command, cwd=tmp_path, code=2)  # that it was trusted once does not last
    assert not mark.exists()


def test_code_of_a_judge_runs_only_with_the_flag(bench, own_code, tmp_path):
    folder, mark = own_code
    row = {"id": 1, "prompt": "p", "response_a": "x", "response_b": "y", "human": "a"}
    (tmp_path / "labels.jsonl").write_text(json.dumps(row) + "\n")
    command = ["audit-judge", "--judge", folder, "--labels", "labels.jsonl", "--judge-prompt", "compact", "--json"]
    bench(*command, cwd=tmp_path, code=2)
    assert not mark.exists()
    found = json.loads(bench(*command, "--trust-remote-code", cwd=tmp_path).stdout)
    assert mark.exists() and list(found["judges"]) == [str(folder)]


def test_code_of_another_repository_is_refused_with_the_flag_too(bench, own_code, tmp_path):
    folder, mark = own_code
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"]["AutoModelForCausalLM"] = "owner/repo--mine.Mine"
    (folder / "config.json").write_text(json.dumps(settings))
    command = ["run", "-b", "tiny.yaml", "-m", "dpo", "--model", folder, "--trust-remote-code"]
    assert "asks to run code of another repository" in bench(*command, cwd=tmp_path, code=2).stderr
    assert not mark.exists()
