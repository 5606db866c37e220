"""Names of devices, checked without torch, whose import takes seconds."""

import os

from ..errors import InputError

KINDS = ("cpu", "cuda", "mps")


def kind_of(device: str) -> str:
    """A device without its number: cpu, cuda, mps."""
    return device.partition(":")[0]


def keep_order() -> None:
    """Have torch take sums in one order each time, until the process ends; before a GPU's first matrix product.

    What it cannot is done as ever, with a warning. https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True, warn_only=True)


def check_device(device: str) -> str:
    """The device as it is given; InputError for one that no machine has."""
    kind, colon, number = device.partition(":")
    if device != "auto" and (kind not in KINDS or colon and not number.isdecimal()):
        raise InputError(f"--device {device} is not known; give cpu, cuda, cuda:N, mps or auto")
    return device
