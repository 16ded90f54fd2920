"""Do all bytes arrive, in order, or does an error say why not, at once, and leave nothing behind?"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest
import trustme
from certificates import folder

from labkit.errors import HostError, UsageError
from labkit.migration import address, bell, tls
from labkit.migration.address import parse
from labkit.migration.channel import BACKLOG, Channel, Listener, connect

pytestmark = pytest.mark.usefixtures("leaves_nothing")

LONG_S = 120.0  # longer than any test may take: who waits that long was not woken
SHORT_S = 0.05
MUCH = 32 << 20  # more than any socket keeps
KINDS = ("unix", "tcp", "tcp6", "tls")
POLL = ("7", "271")  # poll and ppoll, as /proc has them on x86-64


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for loopback that both sides take."""
    authority = trustme.CA()
    return folder(tmp_path_factory.mktemp("tls") / "safe", authority, authority)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are in the test's own folder, and short."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """Threads for what waits for the test."""
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.fixture(params=KINDS)
def listener(request: pytest.FixtureRequest, safe: Path) -> Iterator[Listener]:
    """Listens on each kind of address."""
    kind = request.param
    if kind == "tcp6" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    text = {"unix": "unix:x.sock", "tcp6": "tcp:[::1]:0"}.get(kind, "tcp:0")
    with Listener(parse(text), tls=tls.context(safe, True) if kind == "tls" else None) as made:
        made.folder = safe if kind == "tls" else None  # type: ignore[attr-defined]
        yield made


def reach(listener: Listener) -> Channel:
    """Connect to `listener`, as it wants it."""
    where = listener.folder  # type: ignore[attr-defined]
    return connect(listener.address, tls=tls.context(where, False) if where else None, timeout_s=LONG_S)


@pytest.fixture
def pair(listener: Listener, beside: ThreadPoolExecutor) -> Iterator[tuple[Channel, Channel]]:
    """Two ends of one channel: who connected, who accepted."""
    coming = beside.submit(reach, listener)
    with listener.accept(LONG_S) as accepted, coming.result() as connected:
        yield connected, accepted


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set as soon as anybody waits beside a bell."""
    event, wait = threading.Event(), bell.Bell.wait

    def tell(self: bell.Bell, fd: int, events: int, until: float) -> bool:
        event.set()
        return wait(self, fd, events, until)

    monkeypatch.setattr(bell.Bell, "wait", tell)
    return event


@contextlib.contextmanager
def fails(number: int, words: str | None = None) -> Iterator[None]:
    """A HostError with this errno is raised."""
    with pytest.raises(HostError, match=words) as failed:
        yield
    assert failed.value.errno == number, str(failed.value)


# -- what is sent arrives ----------------------------------------------------------------------------------------------


def test_parts_arrive_as_one_stream(pair: tuple[Channel, Channel]) -> None:
    """Bytes of several kinds, in order, both ways; empty ones are nothing; the other side cuts as it likes."""
    first, second = pair
    first.send(b"ab", b"", bytearray(b"cd"), memoryview(b"efgh")[1:3], array.array("H", [0x3231]))
    assert (second.receive(3), second.receive(0), second.receive(5)) == (b"abc", b"", b"dfg12"[:5])
    second.send(b"back")
    assert first.receive(4) == b"back"
    first.send()


def test_thousands_of_parts_arrive(pair: tuple[Channel, Channel], beside: ThreadPoolExecutor) -> None:
    """More parts than one call takes."""
    parts = [bytes([index & 0xFF]) * (index % 7) for index in range(5000)]
    sending = beside.submit(pair[0].send, *parts)
    whole = b"".join(parts)
    assert pair[1].receive(len(whole)) == whole
    sending.result()


def test_much_goes_both_ways_at_once(pair: tuple[Channel, Channel], beside: ThreadPoolExecutor) -> None:
    """Each side sends and receives at the same time, more than the sockets keep."""
    blocks = [os.urandom(MUCH // 2), os.urandom(MUCH // 2)]
    sending = [beside.submit(end.send, memoryview(block)) for end, block in zip(pair, blocks, strict=True)]
    coming = [beside.submit(end.receive, MUCH // 2) for end in pair]
    assert [future.result() for future in coming] == blocks[::-1]
    assert [future.result() for future in sending] == [None, None]


def test_what_is_received_goes_where_it_is_wanted(pair: tuple[Channel, Channel]) -> None:
    """A view is filled exactly, whatever it is a view of."""
    pair[0].send(b"abcdefgh")
    target = bytearray(b"........")
    pair[1].receive_into(memoryview(target)[2:5])
    assert target == b"..abc..."
    numbers = array.array("I", [0])
    pair[1].receive_into(memoryview(numbers))
    assert numbers.tobytes() == b"defg"
    pair[1].receive_into(memoryview(b""))
    assert pair[1].receive(1) == b"h"


def test_only_a_unix_socket_knows_its_peer(pair: tuple[Channel, Channel]) -> None:
    """The same user has both ends here; over TCP nobody says so."""
    is_unix = pair[0].address.kind == "unix"
    assert [end.peer_is_me for end in pair] == [is_unix, is_unix]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_not_me(tmp_path: Path) -> None:
    """Who connected under another uid is told from us."""
    tmp_path.chmod(0o711)
    with Listener(parse("unix:x.sock")) as listener, socket.socket(socket.AF_UNIX) as other:
        os.chmod("x.sock", 0o666)
        os.seteuid(65534)
        try:
            other.connect("x.sock")
        finally:
            os.seteuid(0)
        with listener.accept(LONG_S) as channel:
            assert not channel.peer_is_me


# -- the other side is gone, or silent ---------------------------------------------------------------------------------


def test_a_closed_channel_is_told_after_its_data(pair: tuple[Channel, Channel]) -> None:
    """What was sent before is received before."""
    pair[0].send(b"last")
    pair[0].close()
    assert pair[1].receive(4) == b"last"
    with fails(errno.ECONNRESET, "closed the connection or died"):
        pair[1].receive(1)


def test_an_end_in_the_middle_is_an_error(pair: tuple[Channel, Channel]) -> None:
    """Half of what was asked for is not given out."""
    pair[0].send(b"half")
    pair[0].close()
    with fails(errno.ECONNRESET):
        pair[1].receive(8)


def test_sending_to_a_closed_channel_is_the_same_error(pair: tuple[Channel, Channel]) -> None:
    """A broken pipe and a reset are one errno, and no signal."""
    pair[1].close()
    with fails(errno.ECONNRESET, "closed the connection or died"):
        pair[0].send(bytes(MUCH))


CHILD = """
import signal, sys
from labkit.migration import tls
from labkit.migration.address import parse
from labkit.migration.channel import connect
channel = connect(parse(sys.argv[1]), tls=tls.context(sys.argv[2], False) if sys.argv[2] else None, timeout_s=30)
channel.send(*[b"%08d" % number for number in range(1000)])
print("sent", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("unread", [b"", b"never read"])
def test_what_a_killed_process_had_sent_is_received(listener: Listener, unread: bytes) -> None:
    """Killed with SIGKILL, with and without bytes it never read: all it had sent comes in order, then the error."""
    command = [sys.executable, "-c", CHILD, str(listener.address), str(listener.folder or "")]  # type: ignore[attr-defined]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            with listener.accept(LONG_S) as channel:
                assert process.stdout.readline() == "sent\n"
                channel.send(*([unread] if unread else []))
                process.kill()
                process.wait()
                assert channel.receive(8000) == b"".join(b"%08d" % number for number in range(1000))
                with fails(errno.ECONNRESET):
                    channel.receive(1)
                with fails(errno.ECONNRESET):
                    channel.send(bytes(MUCH))
        finally:
            process.kill()


def test_silence_ends_with_an_error(pair: tuple[Channel, Channel]) -> None:
    """Nothing comes, or nothing is taken, for `timeout_s`."""
    pair[0].timeout_s = SHORT_S
    with fails(errno.ETIMEDOUT, r"did not answer for 0\.05 s"):
        pair[0].receive(1)
    with fails(errno.ETIMEDOUT, r"did not answer for 0\.05 s"):
        pair[0].send(bytes(MUCH))


def test_the_time_begins_anew_with_each_chunk(pair: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow peer is not a silent one: whatever moves moves the end of patience."""
    ends, wait = [], bell.Bell.wait

    def feed(self: bell.Bell, fd: int, events: int, until: float) -> bool:
        ends.append(until)
        pair[0].send(b"x")
        return wait(self, fd, events, until)

    monkeypatch.setattr(bell.Bell, "wait", feed)
    assert pair[1].receive(3) == b"xxx"
    assert len(ends) == 3
    assert sorted(set(ends)) == ends


@pytest.mark.parametrize("timeout_s", [-1, float("nan"), "1", True])
def test_a_timeout_is_a_length_of_time(timeout_s: float) -> None:
    """Or None; anything else is refused, and nothing is left open."""
    with Listener(parse("unix:x.sock")) as listener, pytest.raises(UsageError, match="timeout_s="):
        listener.accept(timeout_s)
    with Listener(parse("tcp:0")) as listener, pytest.raises(UsageError, match="timeout_s="):
        connect(listener.address, timeout_s=timeout_s)


@pytest.mark.parametrize("text", ["unix:nobody.sock", "unix:stale.sock", "tcp:{port}", "tcp:localhost:{port}"])
def test_where_nobody_listens_the_error_says_what_to_do(text: str) -> None:
    """No socket, a stale one, a free port: start the other side first."""
    with socket.socket(socket.AF_UNIX) as stale, socket.socket() as bound:
        stale.bind("stale.sock")
        bound.bind(("127.0.0.1", 0))  # and nobody listens: the port stays free of others
        where = parse(text.format(port=bound.getsockname()[1]))
        with fails(errno.ENOENT if "nobody" in text else errno.ECONNREFUSED, f"start `labkit receive {where}` first"):
            connect(where, timeout_s=LONG_S)


def test_who_listens_but_has_no_time_is_waited_for(beside: ThreadPoolExecutor) -> None:
    """A unix socket with a full queue: too long is ETIMEDOUT, and room in it lets the next one in."""
    with Listener(parse("unix:x.sock")) as listener, contextlib.ExitStack() as crowd:
        for _ in range(BACKLOG + 1):
            crowd.enter_context(connect(listener.address, timeout_s=LONG_S))
        with fails(errno.ETIMEDOUT, "did not answer"):
            connect(listener.address, timeout_s=SHORT_S)
        last = beside.submit(connect, listener.address, timeout_s=LONG_S)
        crowd.enter_context(listener.accept(LONG_S))
        crowd.enter_context(last.result())


# -- an interrupt ends every wait --------------------------------------------------------------------------------------


def end_by_interrupt(end: Channel | Listener) -> None:
    """Interrupt."""
    end.interrupt()


def end_by_close(end: Channel | Listener) -> None:
    """Close."""
    end.close()


@pytest.fixture(params=[end_by_interrupt, end_by_close])
def end_it(request: pytest.FixtureRequest) -> Callable[[Channel | Listener], None]:
    """Both ways to end a wait from another thread."""
    return request.param


End = Callable[[Channel | Listener], None]


@pytest.mark.parametrize("what", ["send", "receive"])
def test_an_interrupt_ends_a_wait(
    pair: tuple[Channel, Channel], waiting: threading.Event, beside: ThreadPoolExecutor, end_it: End, what: str
) -> None:
    """Whoever waits gets ECANCELED, and whoever comes later too."""
    channel = pair[0]
    waiting.clear()
    begun = beside.submit(channel.send, bytes(MUCH)) if what == "send" else beside.submit(channel.receive, 1)
    assert waiting.wait(LONG_S)
    end_it(channel)
    with fails(errno.ECANCELED, "on this side"):
        begun.result()
    with fails(errno.ECANCELED):
        channel.receive(1)
    with fails(errno.ECANCELED):
        channel.send(b"x")


def test_an_interrupt_comes_before_data(pair: tuple[Channel, Channel]) -> None:
    """What waits to be received is not, once interrupted."""
    pair[1].send(b"x")
    pair[0].interrupt()
    with fails(errno.ECANCELED):
        pair[0].receive(1)


def test_an_interrupt_ends_an_accept(
    listener: Listener, waiting: threading.Event, beside: ThreadPoolExecutor, end_it: End
) -> None:
    """From another thread, and for who comes later."""
    begun = beside.submit(listener.accept)
    assert waiting.wait(LONG_S)
    end_it(listener)
    with fails(errno.ECANCELED):
        begun.result()
    with fails(errno.ECANCELED):
        listener.accept()


def test_an_interrupt_ends_a_handshake(safe: Path, beside: ThreadPoolExecutor, end_it: End) -> None:
    """Who connects and then says nothing keeps nobody who wants to end."""
    listener = Listener(parse("tcp:0"), tls=tls.context(safe, True))
    with listener, socket.create_connection((listener.address.host, listener.address.port)):
        begun = beside.submit(listener.accept)
        while listener._greeted is None:
            os.sched_yield()
        end_it(listener)
        with fails(errno.ECANCELED):
            begun.result()


def test_interrupt_and_close_may_come_at_any_time(listener: Listener, pair: tuple[Channel, Channel]) -> None:
    """Twice, after each other, in any order: no error, and no other fd is touched."""
    for end in (*pair, listener):
        end.interrupt()
        end.close()
        with open("/dev/null", "wb") as other:
            end.interrupt()
            end.close()
            other.write(b"x")
    assert [end.fileno for end in pair] == [-1, -1]


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ctrl_c(beside: ThreadPoolExecutor) -> Iterator[Callable[[], None]]:
    """Have SIGINT come as soon as the main thread is inside a poll, or cannot be seen to be."""
    main = threading.main_thread().native_id
    done = threading.Event()

    def press() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                if Path(f"/proc/self/task/{main}/syscall").read_text().split()[0] in POLL:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return
            os.sched_yield()

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: beside.submit(press) and None
    done.set()
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("what", ["send", "receive"])
def test_ctrl_c_ends_a_transfer(pair: tuple[Channel, Channel], ctrl_c: Callable[[], None], what: str) -> None:
    """In the main thread, at once."""
    ctrl_c()
    with pytest.raises(KeyboardInterrupt):
        pair[0].send(bytes(MUCH)) if what == "send" else pair[0].receive(1)


def test_ctrl_c_ends_an_accept(listener: Listener, ctrl_c: Callable[[], None]) -> None:
    """And the listener is good for the next."""
    ctrl_c()
    with pytest.raises(KeyboardInterrupt):
        listener.accept()
    with fails(errno.ETIMEDOUT, "nobody came"):
        listener.accept(0)


def test_ctrl_c_ends_the_handshake_of_an_accept(safe: Path, ctrl_c: Callable[[], None]) -> None:
    """Who came and said nothing is let go on the way out."""
    listener = Listener(parse("tcp:0"), tls=tls.context(safe, True))
    with listener, socket.create_connection((listener.address.host, listener.address.port)) as silent:
        ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            listener.accept()
        assert silent.recv(1) == b""


def test_ctrl_c_ends_the_handshake_of_a_connect(safe: Path, ctrl_c: Callable[[], None]) -> None:
    """Where somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            connect(parse(f"tcp:{silent.getsockname()[1]}"), tls=tls.context(safe, False), timeout_s=LONG_S)


def test_ctrl_c_ends_the_question_for_a_name(ctrl_c: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer keeps nobody."""
    del ctrl_c  # for its handler: here the question itself presses
    ended, in_time = threading.Event(), SimpleQueue[bool]()

    def ask(*_: object, **__: object) -> list[object]:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        in_time.put(ended.wait(LONG_S))
        return []

    monkeypatch.setattr(address.socket, "getaddrinfo", ask)
    with pytest.raises(KeyboardInterrupt):
        connect(parse("tcp:lab.example.org:1"), timeout_s=LONG_S)
    ended.set()
    assert in_time.get()


# -- the place of a listener -------------------------------------------------------------------------------------------


def test_a_unix_socket_is_its_owners_alone() -> None:
    """Mode 0600 whatever the umask is."""
    before = os.umask(0)
    try:
        with Listener(parse("unix:x.sock")):
            assert stat.S_IMODE(os.lstat("x.sock").st_mode) == 0o600
    finally:
        os.umask(before)


def test_the_path_goes_with_the_listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a relative one, when the process has changed its folder."""
    listener = Listener(parse("unix:x.sock"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    listener.close()
    assert not (tmp_path / "x.sock").exists()


def test_a_path_that_is_anothers_by_now_stays() -> None:
    """Only our own socket is removed."""
    with Listener(parse("unix:x.sock")):
        os.rename("x.sock", "moved.sock")
        Path("x.sock").write_text("another's")
    assert Path("x.sock").read_text() == "another's"


def test_a_living_listener_keeps_its_place() -> None:
    """The second is refused, and the first never hears of it."""
    with Listener(parse("unix:x.sock")) as first:
        with pytest.raises(UsageError, match=r"unix:x\.sock: somebody listens there"):
            Listener(parse("unix:x.sock"))
        with fails(errno.ETIMEDOUT):
            first.accept(0)
        with connect(first.address, timeout_s=LONG_S), first.accept(LONG_S) as accepted:
            assert accepted.peer_is_me


def test_a_stale_socket_is_taken_over() -> None:
    """Whoever made it is dead: nobody answers there."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("x.sock")
        dead.listen()
    with Listener(parse("unix:x.sock")) as listener, connect(listener.address, timeout_s=LONG_S):
        listener.accept(LONG_S).close()


@pytest.mark.parametrize("what", ["file", "folder", "symlink"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, what: str) -> None:
    """A file, a folder, a symlink, be it to a stale socket."""
    place = tmp_path / "x.sock"
    if what == "file":
        place.write_text("precious")
    elif what == "folder":
        place.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind("dead.sock")
        place.symlink_to("dead.sock")
    before = os.lstat(place)
    with pytest.raises(UsageError, match="no socket"):
        Listener(parse("unix:x.sock"))
    assert os.lstat(place) == before


@pytest.mark.parametrize(
    ("text", "why"),
    [("unix:no/folder/x.sock", "No such file"), ("tcp:{port}", "somebody listens there")],
)
def test_where_nobody_can_listen_is_refused(text: str, why: str) -> None:
    """With the reason, and nothing is left open."""
    with Listener(parse("tcp:0")) as first, pytest.raises(UsageError, match=why):
        Listener(parse(text.format(port=first.address.port)))


def test_port_0_becomes_a_real_one() -> None:
    """The kernel chooses it, and nobody can connect to 0."""
    with Listener(parse("tcp:0")) as listener:
        assert listener.address.port
    with pytest.raises(UsageError, match="port 0 is for who listens"):
        connect(parse("tcp:0"), timeout_s=LONG_S)


@pytest.mark.parametrize("text", ["tcp:0.0.0.0:4444", "tcp:[::]:4444", "tcp:192.0.2.1:4444", "tcp:[2001:db8::1]:4444"])
def test_nothing_goes_beyond_this_machine_without_tls(text: str) -> None:
    """Neither connecting nor listening: the error says why, and what to give."""
    for begin in (lambda: Listener(parse(text)), lambda: connect(parse(text), timeout_s=LONG_S)):
        with pytest.raises(UsageError, match=r"anybody on the way could read.*ca\.pem, cert\.pem and key\.pem"):
            begin()
