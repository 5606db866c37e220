"""A run with policies that were trained elsewhere as rows: scored, compared, marked on every page; what is refused."""

import json
import re
import shutil
from pathlib import Path

import pandas
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.definition.options import Options, chosen_spec
from alignment_bench.benchmarks.definition.rows import policy_row
from alignment_bench.benchmarks.stages.responses import try_elsewhere
from alignment_bench.errors import InputError
from alignment_bench.models.elsewhere import find_elsewhere
from alignment_bench.reports.render import render
from alignment_bench.results.records import Prompt
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import Store
from alignment_bench.training.task import PromptDataset

OTHER = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"


@pytest.fixture(scope="module")
def places(tmp_path_factory, make_tiny):
    """A base model, an adapter on it, and a model with another template."""
    root = tmp_path_factory.mktemp("elsewhere")
    make_tiny(root / "model", std=0.05)
    make_tiny(root / "other", seed=3, std=0.05, template=OTHER)
    model = AutoModelForCausalLM.from_pretrained(root / "model")
    settings = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, settings).save_pretrained(root / "adapter")
    return root


@pytest.fixture(scope="module")
def run(places, bench, write_tiny):
    """What the command printed, and its run: dpo and two policies, one of them with tokens like SFT's."""
    spec = write_tiny(places, evaluation={"prompts": 3}, evaluators={"implicit_reward": {}})
    arguments = [
        "run",
        "-b",
        spec,
        "--model",
        "model",
        "-m",
        "dpo",
        "--policy",
        "lora=adapter",
        "--policy",
        "far=other",
    ]
    done = bench(*arguments, cwd=places)
    (folder,) = (places / "results" / "runs" / "tiny").iterdir()
    return done, Run(folder)


def test_policies_from_elsewhere_are_rows(run, places):
    done, run = run
    rows = run.summary["methods"]
    assert list(rows) == ["sft", "dpo", "lora", "far"]
    for name in ("lora", "far"):
        assert (rows[name]["trained_here"], rows[name]["cost"]) == (False, {})  # unknown, and not 0
        assert rows[name]["inference"]["generated_tokens"] > 0
        assert run.record["methods"][name]["trained_here"] is False
        assert not list(run.path.glob(f"{name}/seed-0/policy"))
    assert "trained_here" not in rows["dpo"] and rows["dpo"]["cost"]["seconds"] > 0
    assert not any(line.startswith(("lora", "far")) for line in done.stderr.splitlines())  # nothing was trained
    pairs = {(row["a"], row["b"]) for row in run.summary["comparisons"] if row["metric"] == "win_rate.gold"}
    assert {("dpo", "lora"), ("dpo", "far"), ("lora", "far")} < pairs


def test_what_cannot_be_computed_is_left_out_by_name(run):
    _, run = run
    metrics = {name: set(row["metrics"]) for name, row in run.summary["methods"].items()}
    lost = {"kl", "implicit_reward.accuracy", "implicit_reward.margin", "implicit_reward.chosen"}
    assert metrics["lora"] >= lost and not metrics["far"] & lost
    assert {"win_rate.reward_model", "reward.gold", "length", "eos_rate"} <= metrics["far"]
    (said,) = [w for w in run.summary["warnings"] if w.startswith("far: ")]
    assert "KL to SFT" in said and "Implicit reward: margin" in said and "not those of SFT" in said
    scores = next(c for c in run.cells() if c.method == "far").scores()
    assert scores.loc[~scores["metric"].str.startswith("reward.gold."), "value"].notna().all()  # no NaN in their place


def test_the_contract_names_them_by_their_contents(run, places):
    _, run = run
    found = find_elsewhere(str(places / "adapter"), "--policy lora")
    contract = run.record["contract"]["policies"]
    assert contract["lora"] == {"policy": "adapter", "content": found.key, "trained_here": False}
    assert list(contract) == ["lora", "far"]


def test_every_page_marks_them(run):
    done, run = run
    render([run], formats=("html", "md", "latex", "csv"))
    html, text = ((run.report_path / name).read_text() for name in ("index.html", "report.md"))
    tables = (run.report_path / "tables.tex").read_text()
    first = html.partition('id="leaderboard"')[0]
    assert "lora, far: not trained here; what was learnt from" in first and "lora (not trained here)" in first
    assert re.search(r"far <span class=\"ci\">1 seed, not trained here", html.replace("far<span", "far <span"))
    assert "| far (not trained here) |" in text and "| far (not trained here) | unknown | unknown |" in text
    assert re.search(r"far \(not trained here\) & .*unknown", tables)
    costs, results = (pandas.read_csv(run.report_path / "tables" / f"{name}.csv") for name in ("costs", "results"))
    assert not results.set_index("method").loc["far", "trained_here"].any()
    assert results.set_index("method").loc["dpo", "trained_here"].all()
    assert set(costs.loc[~costs["trained_here"], "cost"].str.partition("_")[0]) == {"response"}
    assert "far (not trained here)" in done.stdout and "dpo's policy: results/runs/tiny/" in done.stdout
    assert "/dpo/seed-0/policy" in done.stdout and "take one away: bench export results/runs/tiny/" in done.stdout


def test_the_same_command_again_makes_nothing(run, places, bench):
    done, run = run
    arguments = ["run", "-b", places / "tiny.yaml", "--model", "model", "-m", "dpo", "--policy", "lora=adapter"]
    again = bench(*arguments, "--policy", "far=other", "--json", cwd=places)
    assert "made in" not in again.stderr and json.loads(again.stdout) == run.summary


def refused(bench, places, *arguments):
    said = bench("run", "-b", places / "tiny.yaml", "--model", "model", *arguments, cwd=places, code=2).stderr
    assert len(said.strip().splitlines()) == 1 and "made in" not in said
    return said


def test_bad_policies_are_told_before_anything_trains(run, places, bench):
    dpo = ("-m", "dpo")
    assert "nothing to compare: give methods with --method" in refused(bench, places)
    assert "--policy theirs is not NAME=MODEL" in refused(bench, places, *dpo, "--policy", "theirs")
    assert "--policy a is given twice, as other and adapter" in refused(
        bench, places, *dpo, "--policy", "a=other", "--policy", "a=adapter"
    )
    assert "--policy theirs nothing: no config.json" not in refused(bench, places, *dpo, "--policy", "theirs=nothing")
    assert "--policy theirs nobody/x: there is no such folder" in refused(
        bench, places, *dpo, "--policy", "theirs=nobody/x"
    )
    assert "--policy dpo: dpo is the name of a row that is trained here" in refused(
        bench, places, *dpo, "--policy", "dpo=other"
    )
    assert "--policy sft: sft is the name of a row" in refused(bench, places, *dpo, "--policy", "sft=other")
    assert "is no name of a policy" in refused(bench, places, *dpo, "--policy", "a b=other")
    assert "vary along no axis" in refused(bench, places, *dpo, "--policy", "a=other", "--vary", "dpo.beta=0.1,0.2")


def test_what_cannot_answer_is_told_before_anything_trains(places, full, tmp_path):
    """A window too short for a prompt with a response, a template that refuses a role, and weights of another shape."""
    asked = [Prompt("p", ({"role": "user", "content": "x" * 20},), (0,))]

    def tried(change, limit=79):
        folder = tmp_path / f"{change.__name__}{limit}"
        shutil.copytree(places / "other", folder)
        change(folder)
        policy = find_elsewhere(str(folder), "--policy theirs")
        return try_elsewhere(Workshop(Store(tmp_path), full, {}), "theirs", policy, PromptDataset(asked, limit))

    def window(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 100}))

    def template(folder):
        (folder / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}")

    def shape(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 60}))

    assert json.loads((tried(window).path / "elsewhere.json").read_text())["parameters"] > 20_000
    with pytest.raises(
        InputError, match="policy theirs reads at most 100 tokens, and its longest prompt with a resp.* 101;"
    ):
        tried(window, 80)
    with pytest.raises(
        InputError,
        match=r"policy theirs cannot be opened and asked \(the chat template refuses the prompt: no such role",
    ):
        tried(template)
    with pytest.raises(InputError, match="policy theirs cannot be opened and asked"):
        tried(shape)


def test_they_may_stand_in_the_yaml(places, tmp_path, write_tiny):
    path = write_tiny(tmp_path, model=str(places / "model"), policies={"theirs": str(places / "other")})
    spec = chosen_spec(str(path), ["dpo"], Options(policies={"lora": str(places / "adapter")}))
    assert [policy_row(spec, name).policy.named for name in spec.policies] == [
        str(places / "other"),
        str(places / "adapter"),
    ]
    bad = write_tiny(tmp_path, model="m", policies={"dpo": "x"})
    with pytest.raises(InputError, match=r"tiny.yaml, line \d+, policies.dpo: dpo is the name of a row"):
        policy_row(chosen_spec(str(bad), [], Options()), "dpo")
    assert chosen_spec(str(Path(bad)), [], Options()).policies == {"dpo": "x"}
