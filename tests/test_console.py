"""Does a virtio-console carry text both ways, and why has it no ioeventfd? Real guests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from string import ascii_lowercase
from typing import Any

import pytest
from rings import WRITE, Descriptor

import labkit
from labkit import GuestError, Machine, UsageError
from labkit.abi import BUFFER_STRIDE, NUMBERS
from labkit.native import lib
from labkit.virtio.notifier import Flag

Boot = Callable[..., Machine]
INPUT, OUTPUT = NUMBERS["CONSOLE_INPUT"], NUMBERS["CONSOLE_OUTPUT"]
NO_STATUS = 0xFF


def alphabet(chars: int) -> str:
    """What the spinning guest writes."""
    return (ascii_lowercase * (chars // 26 + 1))[:chars]


def spin(boot: Boot, line: str, **options: Any) -> tuple[Machine, dict[str, int]]:
    """Run the guest that spins to its end; what it reports."""
    vm = boot("console", kernel=labkit.guest_image("spin"), cmdline=line, **options)
    assert vm.wait(timeout_s=60) == 1, vm.console
    vm._board.owner.call(lambda: None)  # its end has been carried out: kicks nobody read yet are counted
    name, *pairs = vm.console.split()
    assert name == "spin"
    return vm, {key: int(value) for key, value in (pair.split("=") for pair in pairs)}


# -- plain buffers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ioeventfd", [False, True])
@pytest.mark.parametrize("irq", ["msix", "poll"])
def test_what_the_guest_writes_is_on_the_terminal(boot: Boot, irq: str, ioeventfd: bool) -> None:
    """Output chains appear in order, by every path, and the device writes nothing back."""
    vm = boot("console", irq=irq, ioeventfd=ioeventfd)
    for text in (b"one ", b"two ", "drei µ".encode()):
        assert vm.guest.exchange(text, queue=OUTPUT) == b""
    assert vm.terminal.output == b"one two drei \xc2\xb5"
    assert vm.terminal.text == repr(vm.terminal) == "one two drei µ"
    assert [event["read_bytes"] for event in vm.trace.events("chain", queue=OUTPUT)] == [4, 4, 7]


def test_a_chain_of_buffers_step_by_step(boot: Boot) -> None:
    """add_buffers, publish, kick, wait: head and slot as for a request, and a status byte that no device wrote."""
    vm = boot("console")
    added = vm.guest.add_buffers(OUTPUT, send_bytes=5)
    vm.memory.write(added.buffer_gpa, b"hello")
    assert vm.guest.publish(OUTPUT) is True
    vm.guest.kick(OUTPUT)
    done = vm.guest.wait(OUTPUT)
    assert (done.reaped, done.head, done.used_len, done.status, done.slot) == (1, added.head, 0, NO_STATUS, added.slot)
    assert vm.terminal.text == "hello"


def test_the_room_to_write_follows_what_is_sent(boot: Boot) -> None:
    """One chain of two descriptors: the second buffer begins where the first ends, and only it is writable."""
    vm = boot("console")
    added = vm.guest.add_buffers(INPUT, send_bytes=100, receive_bytes=28)
    table = vm.proxy.device.vq[INPUT].desc
    first, second = (vm.memory.read(table + 16 * (added.head + n), 16) for n in range(2))
    assert first == Descriptor(added.buffer_gpa, 100, 1, added.head + 1).packed()
    assert second == Descriptor(added.buffer_gpa + 100, 28, WRITE).packed()
    alone = vm.guest.add_buffers(INPUT, receive_bytes=7)
    assert vm.memory.read(table + 16 * alone.head, 16) == Descriptor(alone.buffer_gpa, 7, WRITE).packed()


@pytest.mark.parametrize("sizes", [(0, 0), (BUFFER_STRIDE, 1), (BUFFER_STRIDE + 1, 0), (2**64 - 1, 1), (1, 2**63)])
def test_the_agent_refuses_buffers_that_do_not_fit(boot: Boot, sizes: tuple[int, int]) -> None:
    """Nothing at all, or more than a slot holds, even where the sum wraps around: BAD_ARGUMENT, and all goes on."""
    vm = boot("console")
    with pytest.raises(GuestError, match="BAD_ARGUMENT"):
        vm.guest.add_buffers(OUTPUT, *sizes)
    vm.guest.exchange(b"x" * BUFFER_STRIDE, queue=OUTPUT)
    assert len(vm.terminal.output) == BUFFER_STRIDE


def test_an_exchange_is_checked_before_anything_is_added(boot: Boot) -> None:
    """Nothing to do, too much, a queue that is not there: said at once, and the driver is brought up if it must be."""
    vm = boot("console", bring_up=False)
    for data, receive in ((b"", 0), (b"x", -1), (b"x" * BUFFER_STRIDE, 1)):
        with pytest.raises(UsageError, match="together"):
            vm.guest.exchange(data, receive, queue=OUTPUT)
    with pytest.raises(GuestError, match="NO_QUEUE"):
        vm.guest.exchange(b"x", queue=2)
    vm.reset()
    vm.guest.exchange(b"up", queue=OUTPUT)
    assert vm.terminal.text == "up"


def test_an_exchange_passes_over_what_came_back_before(boot: Boot) -> None:
    """A chain that was added earlier is reaped on the way, and its answer is not taken for this one's."""
    vm = boot("console")
    early = vm.guest.add_buffers(INPUT, receive_bytes=3)
    vm.terminal.send("abcdef")
    assert vm.guest.exchange(receive=10, queue=INPUT) == b"def"
    assert vm.memory.read(early.buffer_gpa, 3) == b"abc"


def test_an_exchange_nobody_answers_ends(boot: Boot) -> None:
    """A device that does nothing: the time is over, and the guest says so."""
    vm = boot("null")
    with pytest.raises(GuestError, match="did not answer in time"):
        vm.guest.exchange(b"x", timeout_s=0.3)


# -- the keyboard -----------------------------------------------------------------------------------------------------


def test_what_is_typed_reaches_the_guest(boot: Boot) -> None:
    """A buffer that the guest posted is filled when something is typed, by the host, with an interrupt."""
    vm = boot("console")
    added = vm.guest.add_buffers(INPUT, receive_bytes=16)
    vm.guest.publish(INPUT)
    vm.guest.kick(INPUT)
    assert vm.proxy.queues[INPUT].used_idx == 0, "nothing was typed: the buffer waits"
    vm.terminal.send("ls\n")
    done = vm.guest.wait(INPUT)
    assert (done.head, done.used_len) == (added.head, 3)
    assert vm.memory.read(added.buffer_gpa, 3) == b"ls\n"
    assert vm.trace.events("queue_notify", queue=INPUT)[-1]["by"] == "host"
    assert len(vm.trace.events("interrupt", queue=INPUT)) == 1


def test_what_is_typed_ahead_waits(boot: Boot) -> None:
    """Typed before there is a buffer: kept, and handed over in pieces as buffers come; a reset does not lose it."""
    vm = boot("console")
    vm.terminal.send(b"first, second")
    vm.reset()
    assert vm.terminal.waiting == 13
    assert vm.guest.exchange(receive=7, queue=INPUT) == b"first, "
    assert vm.guest.exchange(receive=60000, queue=INPUT) == b"second"
    assert vm.terminal.waiting == 0


def test_the_keyboard_buffer_is_bounded(boot: Boot) -> None:
    """64 KiB wait at most; what does not fit is refused whole, and what waits stays as it is."""
    vm = boot("console")
    most = lib.TERMINAL_INPUT_MAX
    vm.terminal.send(b"a" * (most - 1))
    with pytest.raises(UsageError, match="wait already"):
        vm.terminal.send(b"bc")
    vm.terminal.send(b"b")
    vm.terminal.send(b"")
    assert vm.guest.exchange(receive=most, queue=INPUT) == b"a" * (most - 1) + b"b"


def test_nothing_moves_while_paused(boot: Boot) -> None:
    """Typed while the machine is paused: guest memory stays as it is, and the buffer is filled on resume."""
    vm = boot("console")
    added = vm.guest.add_buffers(INPUT, receive_bytes=8)
    vm.guest.publish(INPUT)
    vm.pause()
    before = vm.memory.read(0, vm.memory.size_bytes)
    vm.terminal.send("late")
    assert vm.memory.read(0, vm.memory.size_bytes) == before
    vm.resume()
    assert vm.guest.wait(INPUT).used_len == 4
    assert vm.memory.read(added.buffer_gpa, 4) == b"late"
    assert vm.trace.events("queue_notify", queue=INPUT)[-1]["by"] == "resume"


def test_nothing_is_written_to_a_guest_whose_driver_is_not_up(boot: Boot) -> None:
    """Without DRIVER_OK a posted buffer is left alone; it is filled by the first kick afterwards."""
    vm = boot("console")
    vm.guest.clear_driver_ok()
    added = vm.guest.add_buffers(INPUT, receive_bytes=8)
    vm.guest.publish(INPUT)
    vm.terminal.send("early")
    assert vm.proxy.queues[INPUT].used_idx == 0
    vm.guest.set_driver_ok()
    vm.guest.kick(INPUT)
    assert vm.guest.wait(INPUT).used_len == 5
    assert vm.memory.read(added.buffer_gpa, 5) == b"early"


# -- what it is -------------------------------------------------------------------------------------------------------


def test_the_console_offers_its_size(boot: Boot) -> None:
    """CONSOLE_F_SIZE, and 80 columns by 24 rows behind the MSI-X registers."""
    vm = boot("console")
    assert "SIZE" in repr(vm.proxy)
    assert [vm.guest.port_in(vm.proxy.notify_base + 24 + at, 2) for at in (0, 2)] == [80, 24]
    vm.guest.port_out(vm.proxy.notify_base + 24, 2, 132)
    assert vm.guest.port_in(vm.proxy.notify_base + 24, 2) == 80, "its config is read-only"
    assert [queue.num for queue in vm.proxy.queues] == [128, 128]
    assert "virtio-console" in repr(vm)


def test_only_a_console_has_a_terminal(boot: Boot) -> None:
    """On another device, after close, or with nobody there, the error says what to do."""
    with pytest.raises(UsageError, match=r'boot\("console"\)'):
        _ = boot("null").terminal
    with pytest.raises(UsageError, match="has no such thing"):
        labkit.boot("console", disk="disk.img")
    vm, _ = spin(boot, "chars=1")
    terminal = vm.terminal
    with pytest.raises(UsageError, match="gone"):
        terminal.send("anybody?")
    assert terminal.text == "a", "what it wrote is still there"
    vm.close()
    for use in (lambda: vm.terminal, lambda: terminal.output, lambda: terminal.send("x")):
        with pytest.raises(UsageError, match="closed"):
            use()


def test_the_terminal_is_the_hosts(boot: Boot) -> None:
    """No reset clears what was written; a guest that begins again writes after it."""
    vm = boot("console")
    vm.guest.exchange(b"before ", queue=OUTPUT)
    vm.guest.reset_device()
    vm.reset()
    vm.guest.exchange(b"after", queue=OUTPUT)
    assert vm.terminal.text == "before after"


# -- R1 ---------------------------------------------------------------------------------------------------------------


def test_r1_a_console_has_no_ioeventfd(boot: Boot) -> None:
    """R1: off by default; whoever boots it against the rule gets what they ask for."""
    assert Flag.USE_IOEVENTFD not in boot("console").proxy.flags
    assert Flag.USE_IOEVENTFD in boot("console", ioeventfd=True).proxy.flags


def test_r1_by_trap_the_answer_is_there_at_once(boot: Boot) -> None:
    """R1: a driver that spins after its kick never has to: every character is taken before the kick returns."""
    vm, told = spin(boot, "chars=60")
    assert (told["chars"], told["looks"], told["at_once"]) == (60, 60, 60)
    assert vm.terminal.text == alphabet(60)
    notifier = vm.proxy.queues[OUTPUT].notifier
    assert (notifier.trapped, notifier.signalled) == (60, 0)


def test_r1_by_eventfd_all_arrives_but_later(boot: Boot) -> None:
    """Against R1: the iothread has to come first, so the driver looks again and again; no character is lost."""
    vm, told = spin(boot, "chars=60", ioeventfd=True)
    assert vm.terminal.text == alphabet(60)
    assert told["looks"] >= told["chars"] == 60
    notifier = vm.proxy.queues[OUTPUT].notifier
    assert (notifier.trapped, notifier.signalled, notifier.synthetic) == (0, 60, 1)


@pytest.mark.parametrize("ioeventfd", [False, True])
def test_r1_a_kick_returns_before_its_eventfd_is_served(boot: Boot, ioeventfd: bool) -> None:
    """Against R1: while the iothread cannot come, a driver that spins looks in vain; after a trap it need not.

    By eventfd the kick needs no lock, so it returns while this thread has it; by trap it returns with the work done.
    """
    vm = boot("console", ioeventfd=ioeventfd, irq="poll")
    queue = vm.proxy.queues[OUTPUT]
    vm.guest.add_buffers(OUTPUT, send_bytes=1)
    vm.guest.publish(OUTPUT)
    with vm._board.locked() if ioeventfd else nullcontext():
        vm.guest.kick(OUTPUT)
        assert queue.used_idx == (0 if ioeventfd else 1)
    assert vm.guest.wait(OUTPUT).reaped == 1


@pytest.mark.parametrize(("line", "requests"), [("chars=70 width=32", 3), ("chars=0", 0)])
def test_the_spinning_guest_writes_as_wide_as_told(boot: Boot, line: str, requests: int) -> None:
    """Several characters a request, the last one shorter, or none at all."""
    vm, told = spin(boot, line)
    assert (told["requests"], told["at_once"]) == (requests, requests)
    assert vm.terminal.text == alphabet(told["chars"])


def test_the_spinning_guest_says_what_it_lacks(boot: Boot) -> None:
    """On a device with one queue, or told nonsense: a line that says so, and another exit code."""
    for device, line, problem in (("blk", "", "no console"), ("console", "width=70000", "width")):
        vm = boot(device, kernel=labkit.guest_image("spin"), cmdline=line)
        assert vm.wait(timeout_s=60) == 3
        assert vm.console == f"spin failed={problem}\n"


def test_guest_images_have_names() -> None:
    """A guest that was not built is named, with those that were."""
    assert labkit.guest_image("spin").name == "spin.elf"
    with pytest.raises(UsageError, match="agent, journal, ping, spin, storm"):
        labkit.guest_image("spun")
