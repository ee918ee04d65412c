"""Which of this machine's network interfaces leads to another machine."""

from __future__ import annotations

import fcntl
import socket
import struct

_ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR of Linux
_REQUEST = struct.Struct("16s16x")
_ADDRESS = slice(20, 24)
_ANY_PORT = 9
LOOPBACK = "127."


def interface_towards(host: str) -> str | None:
    """Name of the interface whose address this machine has towards a host. None: its own loopback, or not to be known.

    Nothing is sent.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _ANY_PORT))
            own = probe.getsockname()[0]
            if own.startswith(LOOPBACK):
                return None
            return next((name for _, name in socket.if_nameindex() if _address(probe, name) == own), None)
    except OSError:
        return None


def _address(any_socket: socket.socket, interface: str) -> str | None:
    try:
        answer = fcntl.ioctl(any_socket, _ADDRESS_OF_INTERFACE, _REQUEST.pack(interface.encode()))
    except OSError:  # it has none
        return None
    return socket.inet_ntoa(answer[_ADDRESS])
