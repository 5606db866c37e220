"""A model's folder and what it may hold: weights as safetensors, settings as JSON; code only where allowed."""

import json
from pathlib import Path

from ..errors import InputError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SETTINGS = ("config.json", "tokenizer_config.json")

_allowed = False  # whether code that comes with a model may run in this process


def allow_remote_code(allowed: bool) -> None:
    """Settle for this process whether code that comes with a model may run; until then it may not.

    It holds for the process and not for a model, for the checkpoints made from such a model need the same code.
    """
    global _allowed
    _allowed = allowed


def remote_code_allowed() -> bool:
    """For `trust_remote_code` of every `from_pretrained`."""
    return _allowed


def check_model_files(folder: Path, where: str) -> None:
    """InputError for a folder whose weights are pickles alone, or that needs code which comes with it.

    where: how the user named it. Pickles beside safetensors are never opened. Code in the folder is run only where
    `allow_remote_code` says so, and code in another repository never: the folder's content is what a run goes by.
    """
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles and not any((folder / name).exists() for name in WEIGHTS):
        raise InputError(
            f"{where}: its weights are pickled ({pickles[0]}), and reading a pickle can run any code; "
            f"save the model as safetensors, as transformers' save_pretrained does"
        )
    for name in SETTINGS:
        settings = _read(folder / name, where)
        if _allowed and "--" in json.dumps(settings.get("auto_map", "")):
            raise InputError(
                f"{where}: {name} asks to run code of another repository (auto_map); put that code into the model's "
                f"folder and name it there"
            )
        if "auto_map" in settings and not _allowed and not _known(settings, name):
            raise InputError(
                f"{where}: {name} asks to run code that comes with the model (auto_map); read that code, and if you "
                f"trust it add --trust-remote-code, or use a model whose architecture transformers has itself"
            )


def _read(path: Path, where: str) -> dict:
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{where}: {path.name} is not valid JSON; save the model again") from None
    return settings if isinstance(settings, dict) else {}


def _known(settings: dict, name: str) -> bool:
    """True if transformers itself has what the settings ask for."""
    if name == "config.json":
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        return settings.get("model_type") in CONFIG_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    return tokenizer_class_from_name(str(settings.get("tokenizer_class"))) is not None
