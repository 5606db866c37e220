"""Models by the names that people give them: built in, a local folder, or on the hub."""

from pathlib import Path

from ..errors import InputError
from ..results.integrity import digest
from ..results.store import folder_digest
from .chat import Template
from .checkpoint import Checkpoint
from .model_files import check_model_files, remote_code_allowed

BUILTIN = "builtin/"  # prefix of what is shipped with the package: builtin/base_model, builtin/world


def find_model(name: str, option: str, template: Template = "chat") -> Checkpoint:
    """A model by built-in name, local folder or hub id, keyed by its content and, if it is not its own, its template.

    InputError names the option it is of, also for a model that brings code or pickles; see `check_model_files`.
    """
    if name.startswith(BUILTIN):
        folder = Path(__file__).parent / name
        if not (folder / "config.json").exists():
            every = (Path(__file__).parent / BUILTIN).glob("*/config.json")
            known = sorted(f"{BUILTIN}{path.parent.name}" for path in every)
            raise InputError(f"there is no built-in model {name!r}; known: {', '.join(known)}")
    elif Path(name).exists():
        folder = Path(name)
        if not any((folder / file).exists() for file in ("config.json", "adapter_config.json")):
            raise InputError(f"{option} {name}: no config.json there; give a folder in Hugging Face layout or a hub id")
    else:
        folder = _download(name, option)
    check_model_files(folder, f"{option} {name}")
    key = folder_digest(folder)
    return Checkpoint(folder.resolve(), key if template == "chat" else digest([key, template]), template=template)


def _download(name: str, option: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        patterns += ["*.py"] if remote_code_allowed() else []
        return Path(snapshot_download(name, allow_patterns=patterns))
    except HFValidationError:
        raise InputError(f"{option} {name}: there is no such folder, and it is not a hub id (owner/name)") from None
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{option} {name}: there is no such folder, and it did not come from the hub ({reason}); "
            f"check the name and the network, or give a local folder"
        ) from None
