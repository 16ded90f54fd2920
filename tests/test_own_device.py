"""Can a device be written in Python? By every path of a kick; and what its code gets wrong."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

import labkit
from labkit import Machine, UsageError
from labkit.abi import NUMBERS, BlkStatus, Command, Feature
from labkit.trace.events import Cause
from labkit.virtio.devices.chain import Chain, DeviceQueue
from labkit.virtio.notifier import Situation

Boot = Callable[..., Machine]


class Upper(labkit.Device):
    """Answers what it is sent, in capitals."""

    name = "upper"
    queue_sizes = (64,)

    def handle(self, queue: DeviceQueue) -> None:
        """One answer a chain."""
        for chain in queue:
            queue.push(chain, chain.read().upper())


class Accumulator(labkit.Device):
    """Queue 0 takes numbers, queue 1 gives back their sum."""

    queue_sizes = (32, 32)

    def __init__(self) -> None:
        self.sum = 0

    def reset(self) -> None:
        """A new driver starts at nothing."""
        self.sum = 0

    def config(self) -> bytes:
        """The sum, to be seen without a queue."""
        return struct.pack("<I", self.sum)

    def write_config(self, offset: int, data: bytes) -> None:
        """A write at 0 sets the sum."""
        if offset == 0:
            self.sum = int.from_bytes(data, "little")

    def handle(self, queue: DeviceQueue) -> None:
        """By the index of the queue."""
        for chain in queue:
            if queue.index == 0:
                self.sum += sum(chain.read())
                queue.push(chain)
            else:
                chain.write(struct.pack("<I", self.sum))
                queue.push(chain)


class Failing(labkit.Device):
    """Divides by what it is sent."""

    def handle(self, queue: DeviceQueue) -> None:
        """Fails on zero."""
        for chain in queue:
            queue.push(chain, bytes([self.divide(chain.read()[0])]))

    def divide(self, by: int) -> int:
        """One deeper than handle."""
        return 100 // by


def device_that(work: Callable[[DeviceQueue], object], **attributes: Any) -> labkit.Device:
    """A device whose handle is `work`."""
    return type("Odd", (labkit.Device,), {"handle": lambda _, queue: work(queue), **attributes})()


def over(vm: Machine) -> AbstractContextManager[None]:
    """Inside it a run of a queue that had begun is over to its end: its interrupt, its events."""
    return vm._board.locked()


# -- the main job -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("irq", ["msix", "poll"])
@pytest.mark.parametrize("ioeventfd", [True, False])
def test_a_device_in_python_answers(boot: Boot, irq: str, ioeventfd: bool) -> None:
    """By trap in the vCPU's thread and by eventfd in the iothread: each chain is answered with its used.len."""
    vm = boot(Upper(), ioeventfd=ioeventfd, irq=irq)
    for text in (b"hello", b"again", b"x" * 30000):
        assert vm.guest.exchange(text, len(text) + 5) == text.upper()
    chain = vm.trace.events("chain")[0]
    assert (chain["read_bytes"], chain["written_bytes"]) == (5, 5)
    assert {event.actor for event in vm.trace.events("chain")} == {"iothread" if ioeventfd else "vcpu0"}


@pytest.mark.parametrize("ioeventfd", [True, False])
def test_several_chains_are_one_interrupt(boot: Boot, ioeventfd: bool) -> None:
    """Four chains behind one kick: all are served in one run, with one interrupt at its end."""
    vm = boot(Upper(), ioeventfd=ioeventfd)
    vm.guest.exchange(b"warm", 4)
    with over(vm):
        mark = vm.trace.mark()
    added = [vm.guest.add_buffers(0, 3, 3) for _ in range(4)]
    for one in added:
        vm.memory.write(one.buffer_gpa, b"abc")
    vm.guest.publish()
    vm.guest.kick()
    assert vm.guest.wait(completions=4).used_len == 3
    assert [vm.memory.read(one.buffer_gpa + 3, 3) for one in added] == [b"ABC"] * 4
    with over(vm):
        assert len(vm.trace.events("interrupt", since=mark)) == 1


def test_a_stop_drains_into_the_device(boot: Boot) -> None:
    """R5: a kick that STOP finds is handled in the thread that stops, by the same code."""
    vm = boot(Upper(), ioeventfd=True, irq="poll")
    vm.guest.exchange(b"warm", 4)
    added = vm.guest.add_buffers(0, 3, 3)
    vm.memory.write(added.buffer_gpa, b"abc")
    vm.guest.publish()
    with vm._board.locked():  # the iothread cannot come
        vm.guest.kick()
        vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
    assert vm.guest.wait().used_len == 3
    assert vm.memory.read(added.buffer_gpa + 3, 3) == b"ABC"
    assert [event.actor for event in vm.trace.events("chain")] == ["iothread", "host"]
    assert vm.proxy.queues[0].notifier.drained == 1


def test_a_disk_can_be_written_in_python(boot: Boot) -> None:
    """With a disk's identity the guest's own driver reads it: header, data, status byte, as virtio-blk has them."""

    class Disk(labkit.Device):
        pci_device, virtio_type = NUMBERS["VIRTIO_DEVICE_BLK"], NUMBERS["VIRTIO_TYPE_BLK"]

        def handle(self, queue: DeviceQueue) -> None:
            """Each sector is full of its own number."""
            for chain in queue:
                _, _, sector = struct.unpack("<IIQ", chain.read(16))
                chain.write(bytes([sector]) * (chain.capacity - 1))
                queue.push(chain, bytes([BlkStatus.OK]))

    assert boot(Disk()).guest.read(7) == b"\x07" * 512


@pytest.mark.parametrize("ioeventfd", [True, False])
def test_two_queues_and_a_state(boot: Boot, ioeventfd: bool) -> None:
    """Each queue is handled by its index; the state is read by queue and by config space, and a reset clears it."""
    device = Accumulator()
    vm = boot(device, ioeventfd=ioeventfd)
    for numbers in (b"\1\2\3", b"\4"):
        assert vm.guest.exchange(numbers, queue=0) == b""
    assert vm.guest.exchange(receive=8, queue=1) == struct.pack("<I", 10)
    assert vm.guest.port_in(vm.proxy.notify_base + 24, 4) == 10
    vm.guest.port_out(vm.proxy.notify_base + 24, 4, 1000)
    vm.guest.exchange(b"\1", queue=0)
    assert (device.sum, device.error) == (1001, None)
    vm.guest.reset_device()
    assert device.sum == 0


def test_a_kick_of_one_queue_may_answer_in_another(boot: Boot) -> None:
    """self.queues reaches the others, and each that was pushed to gets its own interrupt."""

    class Crossed(labkit.Device):
        queue_sizes = (16, 16)

        def handle(self, queue: DeviceQueue) -> None:
            """What comes in at 0 goes out at 1."""
            if queue.index == 0:
                for chain in queue:
                    answer = self.queues[1].pop()
                    assert answer is not None
                    self.queues[1].push(answer, chain.read()[::-1])
                    queue.push(chain)

    vm = boot(Crossed())
    waiting = vm.guest.add_buffers(1, receive_bytes=8)
    vm.guest.publish(1)
    vm.guest.exchange(b"abc", queue=0)
    assert vm.guest.wait(1).used_len == 3
    assert vm.memory.read(waiting.buffer_gpa, 3) == b"cba"
    assert sorted(event.queue or 0 for event in vm.trace.events("interrupt")) == [0, 1]


def test_features_of_its_own(boot: Boot) -> None:
    """Bits of the device are offered beside the transport's, and the device sees what the driver took."""
    seen: list[int] = []

    def work(queue: DeviceQueue) -> None:
        seen.append(queue.accepted)
        for chain in queue:
            queue.push(chain)

    vm = boot(device_that(work, features=0b101), bring_up=False)
    assert vm.guest.negotiate(features=0b110, driver_ok=True).accepted == 0b100
    vm.guest.exchange(b"x")
    assert seen == [0b100]


def test_a_device_may_go_into_another_machine_afterwards(boot: Boot) -> None:
    """One machine at a time; after close the same object can be booted again."""
    device = Upper()
    vm = boot(device)
    with pytest.raises(UsageError, match="Upper: this device is in a machine already"):
        labkit.boot(device)
    assert vm.guest.exchange(b"a", 1) == b"A"
    vm.close()
    assert device.queues == ()
    assert boot(device).guest.exchange(b"b", 1) == b"B"


def test_the_views_name_it(boot: Boot) -> None:
    """Machine and proxy say the device's name; without one it is that of the class."""
    vm = boot(Upper())
    assert "virtio-upper" in repr(vm)
    assert "virtio-upper" in vm.proxy._repr_html_()
    assert "virtio-accumulator" in repr(boot(Accumulator()))
    assert [repr(queue) for queue in vm.proxy.model.queues] == []
    assert repr(vm.proxy.model.device.queues[0]) == "queue 0 of 64"


def test_r1_a_device_in_python_traps_unless_it_says_otherwise(boot: Boot) -> None:
    """R1: no ioeventfd by default; the class may turn it on, and whoever boots it has the last word."""
    quick = type("Quick", (Upper,), {"ioeventfd_default": True})
    assert [boot(Upper()).proxy.flags, boot(quick(), ioeventfd=False).proxy.flags] == [0, 0]
    assert boot(quick()).proxy.ioeventfd_started


def test_pause_and_reset_under_load(boot: Boot) -> None:
    """Paused, resumed and reset between requests, with the iothread serving: each exchange is answered."""
    vm = boot(Upper(), ioeventfd=True, vcpus=2)
    for turn in range(10):
        vm.pause()
        vm.resume()
        assert vm.guest.exchange(b"turn %d" % turn, 16) == b"TURN %d" % turn
        if turn % 3 == 0:
            vm.reset()


# -- what its code gets wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ioeventfd", [True, False])
def test_an_exception_breaks_the_device_until_a_reset(boot: Boot, ioeventfd: bool) -> None:
    """The step that waits tells class, method, line and error; the view too; kicks are ignored; a reset mends it."""
    device = Failing()
    vm = boot(device, ioeventfd=ioeventfd)
    assert vm.guest.exchange(b"\x05", 1) == b"\x14"
    line = inspect.getsourcelines(Failing.handle)[1] + 3
    said = f"Failing.handle, line {line}: ZeroDivisionError: "
    with pytest.raises(UsageError, match=said) as caught:
        vm.guest.exchange(b"\0", 1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert device.error is vm.proxy.model.error is caught.value.__cause__
    assert said in repr(vm.proxy)
    with over(vm):
        assert vm.trace.events("broken")[0]["reason"] == "device_code"
    with pytest.raises(UsageError, match=said):
        vm.guest.wait(timeout_s=0.1)
    vm.guest.kick()
    vm.pause()
    assert vm.trace.events("kick_ignored")[-1]["why"] == "broken"
    vm.resume()
    vm.reset()
    assert (device.error, device.failure) == (None, "")
    assert vm.guest.exchange(b"\x0a", 1) == b"\x0a"


def test_the_traceback_begins_in_the_users_code(boot: Boot) -> None:
    """The cause that a cell shows leads from handle to where it failed, and through nothing of labkit's."""
    device = Failing()
    vm = boot(device)
    with pytest.raises(UsageError):
        vm.guest.exchange(b"\0", 1)
    assert device.error is not None
    names, trace = [], device.error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert names == ["handle", "divide"]


def pushed_twice(queue: DeviceQueue) -> None:
    """Gives a chain back that is the guest's already."""
    for chain in queue:
        queue.push(chain)
        queue.push(chain)


def too_much(queue: DeviceQueue) -> None:
    """Writes more than there is room for."""
    for chain in queue:
        chain.write(b"12")
        queue.push(chain, b"345")


def taken_and_forgotten(queue: DeviceQueue) -> None:
    """Takes a chain and gives it never back."""
    queue.pop()


def no_bytes(queue: DeviceQueue) -> None:
    """Answers with something that is not bytes."""
    for chain in queue:
        queue.push(chain, "text")  # type: ignore[arg-type]


def another_thread(queue: DeviceQueue) -> None:
    """Lets another thread do the work."""
    caught: list[Exception] = []

    def work() -> None:
        try:
            queue.pop()
        except UsageError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise caught[0]


def yields(queue: DeviceQueue) -> Iterator[None]:
    """Never runs, for it is a generator."""
    yield queue.push(queue.pop())  # type: ignore[arg-type]


async def awaits(queue: DeviceQueue) -> None:
    """Never runs either."""
    queue.pop()


def leaves_python(_: DeviceQueue) -> None:
    """Wants to end the interpreter."""
    raise SystemExit("enough")


class Unspeakable(Exception):
    """An error whose text is an error."""

    def __str__(self) -> str:
        """Fails."""
        raise ValueError


def unspeakable(_: DeviceQueue) -> None:
    """Raises it."""
    raise Unspeakable


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (pushed_twice, r"UsageError: chain 3 \(2 bytes to read, room for 4\) was pushed already"),
        (too_much, r"UsageError: chain 3 .*: 3 bytes, and there is room for 2"),
        (taken_and_forgotten, "UsageError: 1 chains of queue 0 of 128 taken, not pushed"),
        (no_bytes, "TypeError: "),
        (another_thread, "UsageError: queue 0: chains can be taken only while handle"),
        (yields, "UsageError: it has a yield"),
        (awaits, "UsageError: it has a yield or an async"),
        (leaves_python, "SystemExit: enough"),
        (unspeakable, "Unspeakable: "),
    ],
)
@pytest.mark.parametrize("ioeventfd", [True, False])
def test_a_slip_is_told_where_it_was_made(
    boot: Boot, work: Callable[[DeviceQueue], object], said: str, ioeventfd: bool
) -> None:
    """Each mistake breaks the device, is told to the step that waits, and leaves kernel, machine and reset working."""
    vm = boot(device_that(work), ioeventfd=ioeventfd)
    for _ in range(2):
        with contextlib.suppress(UsageError):  # one that pushed first has been answered
            vm.guest.exchange(b"ab", 4)
        with pytest.raises(UsageError, match=f"Odd.handle, line [0-9]+: {said}"):
            vm.guest.exchange(b"ab", 4)
        vm.reset()


def test_too_much_writes_nothing(boot: Boot) -> None:
    """What did not fit is not written even in part."""
    vm = boot(device_that(too_much))
    added = vm.guest.add_buffers(0, 0, 4)
    vm.memory.write(added.buffer_gpa, b"....")
    vm.guest.publish()
    vm.guest.kick()
    assert vm.memory.read(added.buffer_gpa, 4) == b"12.."


def test_a_chain_is_good_until_handle_returns(boot: Boot) -> None:
    """Kept for later, across a reset or beyond the machine: every use is a UsageError, and touches no memory."""
    kept: list[tuple[DeviceQueue, Chain]] = []

    def work(queue: DeviceQueue) -> None:
        if chain := queue.pop():
            kept.append((queue, chain))

    vm = boot(device_that(work))
    with pytest.raises(UsageError, match="not pushed"):
        vm.guest.exchange(b"ab", 4)
    queue, chain = kept[0]
    uses = (chain.read, lambda: chain.write(b""), lambda: queue.push(chain), queue.pop, lambda: next(iter(queue)))
    for end in (lambda: None, vm.reset, vm.close):
        end()
        for use in uses:
            with pytest.raises(UsageError, match="handle"):
                use()


def test_a_chain_belongs_to_its_queue(boot: Boot) -> None:
    """Pushed into another queue: refused."""

    class Mixed(labkit.Device):
        queue_sizes = (16, 16)

        def handle(self, queue: DeviceQueue) -> None:
            """The wrong way."""
            for chain in queue:
                self.queues[1 - queue.index].push(chain)

    vm = boot(Mixed())
    with pytest.raises(UsageError, match="was taken from queue 0, not from queue 1"):
        vm.guest.exchange(b"x", queue=0)


@pytest.mark.parametrize("method", ["config", "write_config", "reset"])
def test_its_other_methods_are_guarded_too(boot: Boot, method: str) -> None:
    """A failing hook breaks the device and is told; the guest's register access ends as one of nothing would."""
    armed: list[bool] = []

    def hook(*_: object) -> bytes:
        if armed:
            raise LookupError("armed")
        return b"cfg!"

    vm = boot(type("Hooked", (Upper,), {"config": lambda _: b"cfg!", method: hook})())
    at = vm.proxy.notify_base + 24
    assert vm.guest.port_in(at, 4) == int.from_bytes(b"cfg!", "little")
    armed.append(True)
    vm.guest.port_out(at, 1, 1)
    assert vm.guest.port_in(at, 4) == (0xFFFFFFFF if method == "config" else int.from_bytes(b"cfg!", "little"))
    if method == "reset":
        vm.guest.reset_device()
    assert f"Hooked.{method}, line " in repr(vm.proxy)
    armed.clear()
    vm.reset()
    assert vm.guest.exchange(b"x", 1) == b"X"


def test_a_device_that_commands_its_machine_is_told_off(boot: Boot) -> None:
    """handle cannot wait for its own machine to stop; it hears so at once instead of waiting for ever."""
    machines: list[Machine] = []

    def work(queue: DeviceQueue) -> None:
        if queue.pop():
            machines[0].pause()

    for ioeventfd in (True, False):
        machines[:] = [boot(device_that(work), ioeventfd=ioeventfd)]
        with pytest.raises(UsageError, match="cannot wait for the machine to stop"):
            machines[0].guest.exchange(b"x")


@pytest.mark.parametrize("ioeventfd", [True, False])
def test_an_interrupt_gets_out_while_handle_does_not_return(boot: Boot, ioeventfd: bool) -> None:
    """The cell waits in short looks, without the lock: it can be interrupted, and the machine goes on afterwards."""
    entered, leave = threading.Event(), threading.Event()

    def work(queue: DeviceQueue) -> None:
        for chain in queue:
            entered.set()
            leave.wait()
            queue.push(chain)

    vm = boot(device_that(work), ioeventfd=ioeventfd)

    def interrupt() -> None:
        entered.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        vm.guest.exchange(b"x")
    thread.join()
    leave.set()
    vm.reset()
    vm.guest.exchange(b"x")


@pytest.mark.slow
def test_a_step_behind_a_handle_that_does_not_return_says_so(boot: Boot) -> None:
    """By trap the vCPU itself is in handle: the step's time is over, and the error names what it waits for."""
    leave = threading.Event()

    def work(_: DeviceQueue) -> None:
        leave.wait()

    vm = boot(device_that(work))
    try:
        with pytest.raises(UsageError, match=r"KICK: Odd\.handle has not returned"):
            vm.guest._step(Command.KICK, 0, 1, timeout_s=0.0)
    finally:
        leave.set()
    vm.reset()
    assert vm.state == "running"


# -- what is no device ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"queue_sizes": ()}, "1 to 64 queues"),
        ({"queue_sizes": (64,) * 65}, "1 to 64 queues"),
        ({"queue_sizes": (63,)}, "power of two"),
        ({"queue_sizes": (2048,)}, "power of two"),
        ({"queue_sizes": (True,)}, "power of two"),
        ({"queue_sizes": 64}, "power of two"),
        ({"features": Feature.INDIRECT_DESC}, "Odd.features"),
        ({"features": -1}, "Odd.features"),
        ({"vectors": 33}, "Odd.vectors"),
        ({"pci_device": 0x10000}, "Odd.pci_device"),
        ({"virtio_type": "net"}, "Odd.virtio_type"),
        ({"config": lambda _: b"x" * 233}, "at most 232"),
        ({"config": lambda _: "text"}, "it returns bytes"),
        ({"config": lambda _: 1 // 0}, "Odd.config, line .*ZeroDivisionError"),
        ({"config": lambda: b""}, "Odd.config, line .*TypeError"),
        ({"handle": labkit.Device.handle}, "has no handle"),
        ({"error": property(lambda _: None)}, "the lab sets"),
    ],
)
@pytest.mark.usefixtures("leaves_nothing")
def test_what_cannot_be_a_device_is_refused_at_boot(attributes: dict[str, Any], said: str) -> None:
    """A UsageError that names the class and what it must be; nothing is left, and the object may be mended."""
    device = type("Odd", (Upper,), attributes)()
    with pytest.raises(UsageError, match=said):
        labkit.boot(device)
    assert device.queues == ()


@pytest.mark.parametrize(
    ("device", "options"),
    [(Upper, {}), (None, {}), (7, {}), (["blk"], {}), (Upper(), {"disk": "x.img"}), (Upper(), {"queues": 2})],
)
@pytest.mark.usefixtures("leaves_nothing")
def test_a_device_is_a_name_or_an_object(device: Any, options: dict[str, Any]) -> None:
    """The class itself, nothing at all, or options that are the device's own business: a UsageError."""
    with pytest.raises(UsageError, match=r"of your|your own"):
        labkit.boot(device, **options)


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.kvm
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("fails", [False, True])
def test_a_forgotten_machine_is_collected_and_so_is_its_device(fails: bool) -> None:
    """Nobody holds machine or device any more: threads, files and memory go, and no callback keeps either alive."""
    device = Failing()
    gone = weakref.ref(device)
    vm = labkit.boot(device, ioeventfd=True)
    try:
        vm.guest.exchange(b"\0" if fails else b"\1", 1)
    except UsageError:
        assert fails
    del vm
    gc.collect()
    assert device.queues == (), "the machine is closed while the device lives on"
    del device
    gc.collect()
    assert gone() is None


def test_the_device_hears_of_the_end(boot: Boot) -> None:
    """close() is called once, when the machine has gone; an error in it is kept, and nothing is left open."""
    heard: list[str] = []

    class Closing(Upper):
        def close(self) -> None:
            """Fails, too."""
            heard.append("close")
            raise OSError("no")

    device = Closing()
    vm = boot(device)
    vm.close()
    vm.close()
    assert (heard, device.failure.partition(": ")[2]) == (["close"], "OSError: no")


@pytest.mark.kvm
def test_the_interpreter_ends_with_such_a_machine_open() -> None:
    """A program that forgets to close exits cleanly, whichever thread has run Python."""
    code = """if True:
        import labkit
        class Echo(labkit.Device):
            def handle(self, queue):
                for chain in queue:
                    queue.push(chain, chain.read())
        machines = [labkit.boot(Echo(), ioeventfd=on) for on in (True, False)]
        print(*[vm.guest.exchange(b"hi", 2).decode() for vm in machines])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi hi\n", "")
