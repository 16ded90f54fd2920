"""How does a guest get onto the host's network? By a TAP: an interface of the host whose cable ends in this process."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from labkit.errors import HostError, UsageError
from labkit.virtio.backends.cable import Cable

TUN_DEVICE = "/dev/net/tun"
NAME_MAX_BYTES = 15  # IFNAMSIZ - 1
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000  # Ethernet frames, with nothing before them
INTERFACE_REQUEST = struct.Struct("16sH22x")  # struct ifreq: name, flags

OPEN_HINTS = {
    errno.ENOENT: "the host has no TAP: modprobe tun, and in a container give it /dev/net/tun",
    errno.ENODEV: "the host's kernel has no TAP: modprobe tun",
    errno.EACCES: "not permitted to open it: run as root",
    errno.EPERM: "not permitted to open it: in a container allow the device /dev/net/tun",
}
ATTACH_HINTS = {
    errno.EPERM: "it takes root, CAP_NET_ADMIN, or an interface made for you: ip tuntap add NAME mode tap user YOU",
    errno.EBUSY: "another program has this interface",
    errno.EINVAL: "an interface of this name is there, and it is no TAP",
}


def open_tap(name: str) -> Cable:
    """The interface `name` in the network namespace of the calling thread; made, and gone with the machine, if new.

    The host's side stays as it is: `ip link set NAME up` and an address are the user's to give.
    UsageError: no possible name. HostError: /dev/net/tun is missing, or the host does not permit it.
    """
    wanted = os.fsencode(name)
    if not 0 < len(wanted) <= NAME_MAX_BYTES or name in (".", "..") or any(c in "/:" or c.isspace() for c in name):
        raise UsageError(f"net='tap:{name}': a name of an interface has 1 to {NAME_MAX_BYTES} bytes, no / : or blank")
    try:
        fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _host_error(TUN_DEVICE, error, OPEN_HINTS) from error
    try:
        answer = fcntl.ioctl(fd, TUNSETIFF, INTERFACE_REQUEST.pack(wanted, IFF_TAP | IFF_NO_PI))
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)  # an interface that was there may remember what its last user could do
    except OSError as error:
        os.close(fd)
        raise _host_error(f"TUNSETIFF {name}", error, ATTACH_HINTS) from error
    given = INTERFACE_REQUEST.unpack(answer)[0].rstrip(b"\0")
    return Cable(fd, f"tap:{os.fsdecode(given)}", is_socket=False)


def _host_error(call: str, error: OSError, hints: dict[int, str]) -> HostError:
    number = error.errno or 0
    return HostError(call, number, hints.get(number, ""))
