"""Names of devices, checked without torch, whose import takes seconds."""

from ..errors import InputError

KINDS = ("cpu", "cuda", "mps")


def kind_of(device: str) -> str:
    """A device without its number: cpu, cuda, mps."""
    return device.partition(":")[0]


def check_device(device: str) -> str:
    """The device as it is given; InputError for one that no machine has."""
    kind, colon, number = device.partition(":")
    if device != "auto" and (kind not in KINDS or colon and not number.isdecimal()):
        raise InputError(f"--device {device} is not known; give cpu, cuda, cuda:N, mps or auto")
    return device
