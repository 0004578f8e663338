"""Keeps a notebook's kernel off the network: imported by Python at start-up where this folder is on PYTHONPATH.

The default path of a chapter needs no network, and this makes a violation fail even on a machine that has one. The
exception does not derive from `Exception`, so that no library can take it for a passing failure and carry on.

LLMBOOK_HIDDEN names modules, with commas between them, that count as not installed.
"""

import importlib.machinery
import ipaddress
import os
import socket
import sys
from typing import Any

_hidden = frozenset(filter(None, os.environ.get("LLMBOOK_HIDDEN", "").split(",")))


class _UnlessHidden(importlib.machinery.PathFinder):
    """Finds what `sys.path` has, less the hidden modules: `importlib.util.find_spec` gives None for these."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return None if fullname in _hidden else super().find_spec(fullname, path, target)


if _hidden:
    sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = _UnlessHidden


class NetworkUsedError(BaseException):
    """A cell on the default path tried to reach another machine."""


def _is_local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or name in ("", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _check(host: object) -> None:
    if not _is_local(host):
        raise NetworkUsedError(f"the default path of a chapter must not use the network, but a cell asked for {host!r}")


_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _guarded_connect(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        _check(address[0])
    return _connect(self, address)


def _guarded_connect_ex(self: socket.socket, address: Any) -> int:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        _check(address[0])
    return _connect_ex(self, address)


def _guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    _check(host)
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect = _guarded_connect  # type: ignore[method-assign, assignment]
socket.socket.connect_ex = _guarded_connect_ex  # type: ignore[method-assign, assignment]
socket.getaddrinfo = _guarded_getaddrinfo
