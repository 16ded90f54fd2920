"""How do bytes get to the other side? Whole, in order, or with an error: a wait always has an end.

Sockets never block. Who has to wait does so beside a bell (bell.py), which ends the wait, and so does a signal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from labkit.errors import HostError, LabkitError, UsageError
from labkit.migration import tls as sealing
from labkit.migration.address import Address, Place, all_loopback, identity, make_room
from labkit.migration.bell import Bell, until_after

if TYPE_CHECKING:
    import ssl

SILENCE_S = 30.0  # how long nothing may move in a channel that was accepted, until its owner says otherwise
HANDSHAKE_S = 10.0
RETRY_S = 0.01  # a unix socket whose queue is full says so, and not when it has room
BACKLOG = 16
UNIX_BUFFER_BYTES = 1 << 20
BUFFERS_MAX = 1024  # of one sendmsg: IOV_MAX
TLS_PIECE_BYTES = 1 << 18
OWNER_ONLY = 0o600
WELCOME = b"\1"  # a TLS server's first byte: with TLS 1.3 a client knows only by it that its certificate was taken
UCRED = struct.Struct("3i")  # pid, uid, gid

NOBODY = (errno.ECONNREFUSED, errno.ENOENT)
GONE = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ECONNABORTED)

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview


class Channel:
    """A connection. One thread may send while another receives. After an error it is good for `close` only.

    `timeout_s`: how long nothing at all may move; None: for ever. Errors of all that waits are a HostError with errno
    ETIMEDOUT, ECONNRESET (the other side closed or died), ECANCELED (interrupted, closed here), EPROTO (TLS).
    """

    def __init__(self, sock: socket.socket, address: Address, timeout_s: float | None) -> None:
        self.address, self.timeout_s = address, timeout_s
        self._sock, self._sealed = sock, False
        self._sending, self._receiving = threading.RLock(), threading.RLock()
        self._turn: AbstractContextManager[object] = contextlib.nullcontext()
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_BUFFER_BYTES)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bell = Bell()

    @property
    def fileno(self) -> int:
        """The socket's fd; -1 once closed."""
        return self._sock.fileno()

    @property
    def peer_is_me(self) -> bool:
        """Does the same user have the other end? Only a unix socket knows, as long as it is open."""
        if self._sock.family != socket.AF_UNIX or self.fileno < 0:
            return False
        credentials = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
        return bool(UCRED.unpack(credentials)[1] == os.geteuid())

    @property
    def is_local(self) -> bool:
        """Is the other side on this host, with the same page cache?"""
        return self.address.is_loopback

    def send(self, *parts: Buffer) -> None:
        """All of `parts`, one after the other."""
        views = deque(memoryview(part).cast("B") for part in parts if memoryview(part).nbytes)
        with self._sending:
            while views:
                _drop(views, self._move("send", partial(self._give, views), select.POLLOUT))

    def receive(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        buffer = bytearray(size)
        self.receive_into(memoryview(buffer))
        return bytes(buffer)

    def receive_into(self, view: memoryview) -> None:
        """Exactly as many bytes as `view` has."""
        view = view.cast("B") if view.nbytes else view
        with self._receiving:
            while view.nbytes:
                count = self._move("recv", partial(self._sock.recv_into, view), select.POLLIN)
                if not count:
                    raise self._gone("recv")
                view = view[count:]

    def interrupt(self) -> None:
        """Whoever waits here, or comes to, gets ECANCELED at once. From any thread, at any time, more than once."""
        self._bell.ring()

    def close(self) -> None:
        """Interrupt, and close when all are out. Idempotent."""
        self._bell.ring()
        with self._sending, self._receiving:
            self._sock.close()
            self._bell.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- how it comes to be --

    def reach(self, place: tuple[str | int, ...] | str) -> None:
        """Connect the new socket to `place`."""
        until = until_after(self.timeout_s)
        while True:
            number = self._sock.connect_ex(place)
            if number == errno.EINPROGRESS:
                self._wait("connect", select.POLLOUT, until)
                number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number != errno.EAGAIN:
                break
            if self._bell.rung or time.monotonic() >= until:
                raise self._error("connect", OSError(errno.ETIMEDOUT, ""))
            time.sleep(RETRY_S)
        if number:
            raise self._error("connect", OSError(number, os.strerror(number)))

    def seal(self, context: ssl.SSLContext, *, server: bool) -> None:
        """Begin TLS: each side believes the other only after this."""
        name = None if server else self.address.host
        try:
            sealed = context.wrap_socket(self._sock, server, do_handshake_on_connect=False, server_hostname=name)
        except OSError as error:
            raise self._error("TLS handshake", error) from error
        except ValueError as error:
            raise UsageError(f"{self.address}: no name that a certificate can have: {error}") from error
        self._sock, self._sealed, self._turn = sealed, True, threading.Lock()  # one SSL object, two threads
        self._move("TLS handshake", sealed.do_handshake, select.POLLIN)
        if server:
            self.send(WELCOME)
        elif self.receive(len(WELCOME)) != WELCOME:
            raise HostError("TLS handshake", errno.EPROTO, f"{self.address}: no labkit answers there")

    # -- one chunk --

    def _give(self, views: deque[memoryview]) -> int:
        if self._sealed:
            return self._sock.send(views[0][:TLS_PIECE_BYTES])
        buffers = [views[index] for index in range(min(len(views), BUFFERS_MAX))]
        return self._sock.sendmsg(buffers, (), socket.MSG_NOSIGNAL)

    def _move(self, call: str, step: Callable[[], T], events: int) -> T:
        """One `step`, as soon as it need not wait."""
        until = until_after(self.timeout_s)
        while True:
            if self._bell.rung:
                raise self._canceled(call)
            try:
                with self._turn:
                    return step()
            except BlockingIOError:
                wanted = events
            except OSError as error:
                wanted = sealing.wants(error) if self._sealed else 0
                if not wanted:
                    raise self._error(call, error) from error
            self._wait(call, wanted, until)

    def _wait(self, call: str, events: int, until: float) -> None:
        ready = self._bell.wait(self._sock.fileno(), events, until)
        if self._bell.rung:
            raise self._canceled(call)
        if not ready:
            raise self._error(call, OSError(errno.ETIMEDOUT, ""))

    def _error(self, call: str, error: OSError) -> LabkitError:
        if self._bell.rung:
            return self._canceled(call)
        if self._sealed and sealing.is_end(error):
            return self._gone(call)
        if self._sealed and (fault := sealing.fault(call, error, self.address)):
            return fault
        number = error.errno or 0
        if number in GONE:
            return self._gone(call)
        if number in NOBODY:
            hint = f"nobody listens at {self.address}: start `labkit receive {self.address}` first"
            return HostError(call, number, hint)
        if number == errno.ETIMEDOUT:
            how_long = "" if self.timeout_s is None else f" for {self.timeout_s:g} s"
            return HostError(call, number, f"{self.address}: the other side did not answer{how_long}")
        return HostError(call, number, str(self.address))

    def _gone(self, call: str) -> HostError:
        return HostError(call, errno.ECONNRESET, f"{self.address}: the other side closed the connection or died")

    def _canceled(self, call: str) -> HostError:
        return HostError(call, errno.ECANCELED, f"{self.address}: interrupted or closed on this side")


class Listener:
    """Waits for the other side at `address`. UsageError: somebody is there, no such place, or no TLS beyond loopback.

    A unix socket is ours alone (mode 0600), and its path goes when this closes. `address` has the port that is used.
    """

    def __init__(self, address: Address, *, tls: ssl.SSLContext | None = None) -> None:
        place = _guarded(address, tls)[0]
        self._tls = tls
        self._accepting = threading.RLock()
        self._greeted: Channel | None = None  # whoever is in the handshake
        self._path, self._made = "", (0, 0)  # of a unix socket: where it is, and which it is
        with contextlib.ExitStack() as undo:
            self._bell = Bell()
            undo.callback(self._bell.close)
            self._sock = undo.enter_context(_socket(place))
            undo.callback(self.close)
            self.address = self._listen(address, place)
            undo.pop_all()

    def accept(self, timeout_s: float | None = None) -> Channel:
        """The next that comes. HostError: ETIMEDOUT, nobody came; ECANCELED; what a TLS handshake can raise.

        After a failed handshake the listener is good for the next.
        """
        until = until_after(timeout_s)
        with self._accepting:
            channel = None
            while channel is None:
                self._wait(until, timeout_s)
                channel = self._take()
            try:
                self._greet(channel)
            except BaseException:
                channel.close()
                raise
            finally:
                self._greeted = None
            return channel

    def interrupt(self) -> None:
        """Whoever waits in `accept`, or comes to, gets ECANCELED at once. From any thread, at any time."""
        self._bell.ring()
        if greeted := self._greeted:
            greeted.interrupt()

    def close(self) -> None:
        """Interrupt, remove the path if it is still ours, close. Idempotent."""
        self.interrupt()
        with self._accepting:
            if self._path and identity(self._path) == self._made:
                with contextlib.suppress(OSError):  # its folder may be read-only by now
                    os.unlink(self._path)
            self._path = ""
            self._sock.close()
            self._bell.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _listen(self, address: Address, place: Place) -> Address:
        family, where = place
        self._sock.setblocking(False)
        if family == socket.AF_UNIX:
            make_room(address)
            os.fchmod(self._sock.fileno(), OWNER_ONLY)  # before it has a name: the name gets this mode
        else:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            self._sock.bind(where)
            if family == socket.AF_UNIX:
                self._path = os.path.abspath(address.path)
                self._made = identity(self._path)
            self._sock.listen(BACKLOG)
        except OSError as error:
            why = "somebody listens there" if error.errno == errno.EADDRINUSE else error.strerror
            raise UsageError(f"{address}: {why}") from error
        return address if self._path else address._replace(port=self._sock.getsockname()[1])

    def _wait(self, until: float, timeout_s: float | None) -> None:
        ready = self._bell.rung or self._bell.wait(self._sock.fileno(), select.POLLIN, until)
        if self._bell.rung:
            raise HostError("accept", errno.ECANCELED, f"{self.address}: interrupted or closed on this side")
        if not ready:
            raise HostError("accept", errno.ETIMEDOUT, f"{self.address}: nobody came for {timeout_s:g} s")

    def _take(self) -> Channel | None:
        """Who came; None if it went again, or another took it."""
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            raise HostError("accept", error.errno or 0, str(self.address)) from error
        return _channel(sock, self.address, HANDSHAKE_S)

    def _greet(self, channel: Channel) -> None:
        if self._tls is not None:
            self._greeted = channel
            if self._bell.rung:
                channel.interrupt()
            channel.seal(self._tls, server=True)
        channel.timeout_s = SILENCE_S


def connect(
    address: Address,
    *,
    tls: ssl.SSLContext | None = None,
    timeout_s: float | None,
    made: Callable[[Channel], object] = lambda _: None,
) -> Channel:
    """A channel to who listens at `address`. UsageError: beyond loopback without TLS, our certificate is refused.

    HostError: ECONNREFUSED or ENOENT, nobody listens; and what a Channel can raise. `made` is told of a channel before
    it waits for anybody, so that it can be interrupted.
    """
    if address.kind == "tcp" and not address.port:
        raise UsageError(f"{address}: port 0 is for who listens: the kernel chooses one")
    places = _guarded(address, tls)
    for place in places[:-1]:
        with contextlib.suppress(HostError):
            return _connect_to(place, _channel(_socket(place), address, timeout_s), tls, made)
    return _connect_to(places[-1], _channel(_socket(places[-1]), address, timeout_s), tls, made)


def _connect_to(
    place: Place, channel: Channel, tls: ssl.SSLContext | None, made: Callable[[Channel], object]
) -> Channel:
    try:
        made(channel)
        channel.reach(place[1])
        if tls is not None:
            channel.seal(tls, server=False)
    except BaseException:
        channel.close()
        raise
    return channel


def _socket(place: Place) -> socket.socket:
    try:
        return socket.socket(place[0], socket.SOCK_STREAM)
    except OSError as error:
        raise HostError("socket", error.errno or 0, "too many open files, or no IPv6 here?") from error


def _channel(sock: socket.socket, address: Address, timeout_s: float | None) -> Channel:
    try:
        return Channel(sock, address, timeout_s)
    except BaseException:
        sock.close()
        raise


def _guarded(address: Address, tls: ssl.SSLContext | None) -> list[Place]:
    """The places of `address`, if what goes there is safe from others."""
    places = address.places()
    if tls is not None and address.kind == "unix":
        raise UsageError(f"{address}: TLS is for tcp; a unix socket is safe by its mode")
    if tls is None and not all_loopback(places):
        raise UsageError(
            f"{address} is beyond this machine: anybody on the way could read the guest's memory and change it; "
            f"give tls=, a folder with {sealing.CA}, {sealing.CERTIFICATE} and {sealing.KEY}"
        )
    return places


def _drop(views: deque[memoryview], count: int) -> None:
    """Take the first `count` bytes away."""
    while count:
        first = views.popleft()
        if count < first.nbytes:
            views.appendleft(first[count:])
        count -= min(count, first.nbytes)
