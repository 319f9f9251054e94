"""Devices by name. A device's module is imported when the device is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from threading import RLock

from lpir.errors import InputError, UnsupportedError
from lpir.runtime.device import Device

# "module:attribute" or anything that makes a device
Entry = str | Callable[[], Device]

_ENTRIES: dict[str, Entry] = {
    "CPU": "lpir.devices.cpu.plugin:CpuDevice",
    "GPU": "lpir.devices.gpu.device:GpuDevice",
    "REFERENCE": "lpir.devices.reference.device:ReferenceDevice",
}
_LOADED: dict[str, Device] = {}
_LOCK = RLock()
# what AUTO tries, first to last
_AUTO = ("GPU", "CPU", "REFERENCE")


def register(name: str, entry: Entry) -> None:
    """Adds a device under a new name. Raises InputError when the name is taken."""
    with _LOCK:
        if name in _ENTRIES or name == "AUTO":
            raise InputError(f"device {name!r} is registered already")
        _ENTRIES[name] = entry


def unregister(name: str) -> None:
    """Forgets a device. Raises InputError for an unknown name."""
    with _LOCK:
        if _ENTRIES.pop(name, None) is None:
            raise InputError(f"unknown device {name!r}; there are {', '.join(names())}")
        _LOADED.pop(name, None)


def names() -> list[str]:
    """All registered names, loaded or not."""
    return sorted(_ENTRIES)


def load(name: str) -> Device:
    """The device called `name`; AUTO is the first that works here.

    Raises InputError for an unknown name, UnsupportedError when the device cannot work on this machine.
    """
    with _LOCK:
        if name == "AUTO":
            return load(next(n for n in _AUTO if is_available(n)))
        if name not in _ENTRIES:
            raise InputError(f"unknown device {name!r}; there are AUTO, {', '.join(names())}")
        if name not in _LOADED:
            _LOADED[name] = _make(name, _ENTRIES[name])
        return _LOADED[name]


def is_available(name: str) -> bool:
    """Whether the device can be loaded on this machine."""
    try:
        load(name)
    except UnsupportedError:
        return False
    return True


def available() -> list[str]:
    """Names of the devices that work on this machine."""
    return [name for name in names() if is_available(name)]


def _make(name: str, entry: Entry) -> Device:
    if not isinstance(entry, str):
        return entry()
    module, _, attribute = entry.partition(":")
    try:
        device: Device = getattr(importlib.import_module(module), attribute)()
    except ImportError as error:
        raise UnsupportedError(f"device {name} is not available: {error}") from error
    return device
