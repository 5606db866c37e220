"""`bench export --policy`: a trained policy as a folder that transformers or peft load, wherever it is moved."""

import contextlib
import re
import shutil
import tempfile
from pathlib import Path

from ..analysis.elsewhere import is_elsewhere
from ..errors import InputError, nearest
from ..models.checkpoint import open_network
from ..models.merging import save_merged
from ..models.tuning import Tuning
from ..preferences.export import HUB, HUB_ID
from ..reports.policies import base_bits_of, snippet
from ..results.adapters import base_of, is_adapter, set_base
from ..results.integrity import move, writing
from ..results.run_folder import Cell, Run
from ..results.store import POLICY

BASE = "base"  # folder of an adapter's base within its own
GENERATION = "generation_config.json"
SNAPSHOT = re.compile(r".*/models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})")  # the hub's cache


def export_policy(
    run: Run, row: str, seed: int, to: Path, *, merge: bool = False, push: str | None = None, private: bool = True
) -> list[str]:
    """Write the policy of a row and seed to a new folder; the lines to tell, the last of them those that load it.

    With tokenizer, template, generation config and a README. An adapter stays one: its base is named by its hub id, or
    lies in the folder beside it; merge: it is added into the base's weights. push: hub:OWNER/NAME, where the folder is
    uploaded; private: if that repository is new. InputError for a row, seed or name that is not there, a folder that
    is not empty, and a hub that does not take it.
    """
    if push is not None and not (push.startswith(HUB) and HUB_ID.fullmatch(push.removeprefix(HUB))):
        raise InputError(f"--push {push} names no model of the hub; give hub:OWNER/NAME")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to {to} is there already and not empty; give a new folder")
    cell = _cell(run, row, seed)
    cell.check()
    source = cell.path / POLICY
    base: str | None = None
    adapted = is_adapter(source)
    with writing(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{to.name}.", suffix=".partial", dir=to.parent))
        try:
            if not adapted:
                shutil.copytree(source, partial, dirs_exist_ok=True)
            elif merge:
                shutil.copytree(source, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns("adapter_*"))
                _merge(run, source, partial)
            else:
                shutil.copytree(source, partial, dirs_exist_ok=True)
                base = _with_base(partial, Path(base_of(source)), to)
            (partial / "README.md").write_text(_card(run, cell, base), encoding="utf-8")
            partial.chmod(0o755)
            to.rmdir() if to.exists() else None
            move(partial, to)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    said = [f"{row} seed {seed}: {to}"]
    if adapted and (bits := base_bits_of(run.record)):
        said.append(_told_of_bits(bits, merge))
    if cell.cost().get("optimizer_steps") == 0:
        said.append(f"{row} trains nothing: this is the SFT checkpoint, and its gain comes from choosing responses")
    if push is not None:
        said.append(_push(to, push.removeprefix(HUB), private))
    return [*said, "", snippet(str(to), base, base_bits_of(run.record))]


def _cell(run: Run, row: str, seed: int) -> Cell:
    """The cell of a row and seed whose policy lies in the run."""
    rows = run.record["methods"]
    if row not in rows:
        raise InputError(f"--policy {row} is no row of {run.path}; {nearest(row, rows)}")
    if is_elsewhere(rows[row]):
        raise InputError(f"{row} was not trained here; take it from where it is: {rows[row]['params']['policy']}")
    found = {cell.seed: cell for cell in run.cells() if cell.method == row and (cell.path / POLICY).is_dir()}
    if seed not in found:
        known = ", ".join(map(str, found)) or "none"
        raise InputError(f"{run.path} holds no policy of {row} with seed {seed}; seeds that it has: {known}")
    return found[seed]


def _merge(run: Run, adapter: Path, to: Path) -> None:
    """Write the plain model of an adapter, fp32; see `save_merged`."""
    trained = {**run.record["contract"]["tuning"], "device": "cpu", "precision": "fp32", "sampler": "torch"}
    with contextlib.closing(open_network(adapter, "lm", Tuning(**trained).resolve(), trainable=True)) as network:
        save_merged(network, to)


def _told_of_bits(bits: int, merge: bool) -> str:
    """The line of a policy whose base lay in few bits while it was trained."""
    if merge:
        return (
            f"its base lay in {bits} bits in training: the weights that these stand for were merged, in fp32, and what "
            f"is loaded differs from what was measured by rounding alone"
        )
    return f"it was trained and measured on its base in {bits} bits: on the whole weights it is another policy"


def _with_base(adapter: Path, base: Path, to: Path) -> str:
    """Give an exported adapter its base: the hub id, else a copy; what loads it once the folder is in its place."""
    if found := SNAPSHOT.fullmatch(base.as_posix()):
        owner, name, revision = found.groups()
        set_base(adapter, f"{owner}/{name}", revision)
        return f"{owner}/{name}"
    if not base.is_dir():
        raise InputError(f"the base of this adapter, {base}, is not there; bring it back, or export from its own run")
    shutil.copytree(base, adapter / BASE)
    if not (adapter / GENERATION).exists() and (base / GENERATION).exists():
        shutil.copy2(base / GENERATION, adapter / GENERATION)
    set_base(adapter, BASE)
    return str(to / BASE)


def _card(run: Run, cell: Cell, base: str | None) -> str:
    """The folder's README: where the policy comes from, and how it is loaded."""
    record = run.record
    name, model = record["methods"][cell.method]["name"], str(record["contract"].get("model", ""))
    start = f", from {model}" if HUB_ID.fullmatch(model) and not Path(model).exists() else ""
    inside = base is not None and base.endswith(f"/{BASE}")
    fetch = 'folder = "."  # this folder, or of a repository of the hub huggingface_hub.snapshot_download("OWNER/NAME")'
    code = snippet("FOLDER", f"FOLDER/{BASE}" if inside else base, base_bits_of(record))
    code = code.replace(f"'FOLDER/{BASE}'", f'f"{{folder}}/{BASE}"').replace("'FOLDER'", "folder")
    return (
        f"---\nlibrary_name: {'transformers' if base is None else 'peft'}\n---\n\n"
        f"# {record['benchmark']}, {cell.method}, seed {cell.seed}\n\n"
        f"Trained by alignment-bench with {name}, run {record['run_id']}{start}.\n\n"
        f"```python\n{fetch}\n{code}\n```\n"
    )


def _push(folder: Path, name: str, private: bool) -> str:
    """Upload a folder; the line that says where it is."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="A policy trained by alignment-bench")
    except Exception as error:  # of the hub's client or the network
        first = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise InputError(
            f"the hub did not take {name} ({first}); log in with `hf auth login` and check the name and the network; "
            f"the policy lies in {folder}"
        ) from None
    return f"uploaded to {name}"
