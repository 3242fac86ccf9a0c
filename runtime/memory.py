"""Whether a device has the memory for a model, said before anything is allocated."""

from __future__ import annotations

from edgec.errors import DeviceError

__all__ = ["check_memory"]


def check_memory(device: str, needed: int, there: int) -> None:
    """Refuses a model that is more than the device can hold.

    Args:
        device: Its name, for the message.
        needed: Bytes: weights, the state of a sequence, and what a call allocates.
        there: Bytes; 0 when the device does not say.

    Raises:
        DeviceError: they do not fit.
    """
    if there and needed > there:
        raise DeviceError(
            f"{device}: the model needs {_mb(needed)} MB of device memory,"
            f" {_mb(there)} MB are there",
            "compile with --dtype f16 or a smaller --ctx-size, or use another device",
        )


def _mb(size: int) -> int:
    return -(-size // 1_000_000)
