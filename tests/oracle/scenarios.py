"""What is done on both machines? Scenarios: steps of the guest's driver in the words of steps.py, and acts of the host.

The host acts by `stop`, `cont`, `system_reset` and `resize` (of the disk); `start STEP` tells the guest a step and does
not wait for it, `finish` does. Each scenario has a machine of its own, with BAR0 placed and nothing else done.
"""

from __future__ import annotations

from typing import NamedTuple

RESIZE, RESIZED_BYTES = "resize", 32 << 20
HOST_ACTS = ("stop", "cont", "system_reset", RESIZE)
START, FINISH = "start ", "finish"


class Scenario(NamedTuple):
    """A name, what it is about, and what is done in order, on a device with the property `ioeventfd` or without.

    Under `load` the runs of the queue are not compared. With `kvm_only` QEMU itself does otherwise where it emulates.
    """

    name: str
    title: str
    actions: tuple[str, ...]
    load: bool = False
    ioeventfd: bool = True
    kvm_only: bool = False


BAR0 = 0xC000  # where both firmwares put it
NEGOTIATE = "negotiate:poll:0"  # reset, COMMAND = 7, STATUS 1 and 3, no features, rings
PLACE_BAR0 = f"pci_write:0x10:4:{BAR0 | 1:#x}"  # a firmware's work, and QEMU's leaves it to us

UP = "driver_ok:on"
DOWN = "driver_ok:off"
REQUEST = "request:0:read:0:512"  # add, publish, kick, wait
ADD = "add:0:read:0:512"
PUBLISH = "publish:0"
KICK = "kick:0:1"
WAIT = "wait:0:1"
WANT_INTERRUPTS = "store:0x200800:2:0"  # avail.flags
USED = "load:0x201002:2"  # used.idx: the requests that were completed
STATUS = "port_in:bar0+18:1"
PFN_ZERO = "port_out:bar0+8:4:0"
NO_MASTER, MASTER = "bus_master:off", "bus_master:on"
IO_OFF, IO_ON = "pci_write:4:2:6", "pci_write:4:2:7"  # PCI COMMAND
MOVE_BAR0, KICK_MOVED = "pci_write:0x10:4:0xd001", "port_out:0xd010:2:0"
COMMAND = "pci_read:4:2"
PENDING = (ADD, PUBLISH, KICK)  # a request and its kick, without waiting
STORM = "storm:0:{requests}:4:read:512:1:0x10000000000"
ABSENT_QUEUES = (1, 63, 64, 1023, 1024, 0xFFFF)


def _out(offset: int, width: int, value: int) -> str:
    return f"port_out:bar0+{offset}:{width}:{value:#x}"


def _in(offset: int, width: int) -> str:
    return f"port_in:bar0+{offset}:{width}"


def _kick(value: int, width: int = 2) -> str:
    return _out(16, width, value)


def _status(value: int) -> str:
    return _out(18, 1, value)


NO_BUS_MASTER = (NEGOTIATE, _status(0), "pci_write:4:2:3", _status(1))
RING = ("port_out:bar0+14:2:0", "port_out:bar0+8:4:0x200")  # QUEUE_SEL, QUEUE_PFN, as the driver has it

STATUS_SCENARIOS = (
    Scenario("driver_ok", "DRIVER_OK is set", (NEGOTIATE, UP, REQUEST)),
    Scenario("driver_ok_twice", "DRIVER_OK is set twice", (NEGOTIATE, UP, UP, REQUEST)),
    Scenario("driver_ok_cleared", "DRIVER_OK is cleared", (NEGOTIATE, UP, REQUEST, DOWN, DOWN)),
    Scenario("driver_ok_again", "DRIVER_OK is cleared and set again", (NEGOTIATE, UP, DOWN, UP, REQUEST)),
    Scenario("request_before", "a request is in the ring before DRIVER_OK", (NEGOTIATE, ADD, PUBLISH, UP, WAIT)),
    Scenario(
        "failed", "FAILED is set, with DRIVER_OK and without", (NEGOTIATE, UP, "set_status:0x87", "set_status:0x83")
    ),
    Scenario(
        "status_zero",
        "STATUS = 0, and a driver comes again",
        (NEGOTIATE, UP, REQUEST, "set_status:0", COMMAND, NEGOTIATE, UP, REQUEST),
    ),
    Scenario("status_zero_idle", "STATUS = 0 before DRIVER_OK", (NEGOTIATE, "set_status:0", "set_status:0")),
    Scenario(
        "pfn_zero",
        "QUEUE_PFN = 0",
        (NEGOTIATE, UP, REQUEST, PFN_ZERO, STATUS, COMMAND, _kick(0), NEGOTIATE),
    ),
    Scenario(
        "pfn_zero_absent",
        "QUEUE_PFN = 0 of a queue that does not exist",
        (NEGOTIATE, UP, "port_out:bar0+14:2:5", PFN_ZERO, STATUS),
    ),
    Scenario("pfn_zero_idle", "QUEUE_PFN = 0 before DRIVER_OK", (NEGOTIATE, PFN_ZERO, STATUS)),
    Scenario(
        "pfn_again",
        "QUEUE_PFN is written again while started",
        (NEGOTIATE, UP, "port_out:bar0+8:4:0x200", STATUS, REQUEST),
    ),
    Scenario(
        "status_wide",
        "STATUS is written and read with 2 and 4 bytes",
        (NEGOTIATE, _out(18, 2, 0xFF07), _in(18, 2), _out(18, 4, 0xFFFFFF03), _in(18, 4)),
        kvm_only=True,
    ),
    Scenario(
        "queue_sel",
        "QUEUE_SEL of queues that do not exist",
        (NEGOTIATE, *(action for queue in ABSENT_QUEUES for action in (_out(14, 2, queue), _in(14, 2), _in(12, 2)))),
    ),
    Scenario(
        "isr",
        "ISR after a request that may interrupt",
        (NEGOTIATE, WANT_INTERRUPTS, UP, REQUEST, _in(19, 1), _in(19, 1)),
    ),
    Scenario("resize", "the disk is resized", (NEGOTIATE, UP, _in(20, 4), RESIZE, _in(20, 4), _in(19, 1), _in(19, 1))),
    Scenario("resize_early", "the disk is resized before DRIVER_OK", (NEGOTIATE, RESIZE, _in(20, 4), _in(19, 1))),
)

KICK_SCENARIOS = (
    Scenario("kick_idle", "a kick with nothing in the ring", (NEGOTIATE, UP, KICK)),
    Scenario("kick_early", "a kick before DRIVER_OK, with nothing in the ring", (NEGOTIATE, KICK, KICK, UP, REQUEST)),
    Scenario(
        "request_early", "a request and its kick before DRIVER_OK", (NEGOTIATE, REQUEST, STATUS, REQUEST, UP, REQUEST)
    ),
    Scenario(
        "early_then_status",
        "a kick before DRIVER_OK, then STATUS = 3 again",
        (NEGOTIATE, REQUEST, "set_status:3", REQUEST),
    ),
    Scenario(
        "request_late", "a request and its kick after DRIVER_OK was cleared", (NEGOTIATE, UP, DOWN, REQUEST, STATUS)
    ),
    Scenario(
        "kick_after_reset",
        "a request and its kick after STATUS = 0",
        (NEGOTIATE, UP, "set_status:0", *PENDING, USED, STATUS),
    ),
    Scenario(
        "kick_without_ring",
        "a kick before the ring is there",
        (NEGOTIATE, _status(0), _status(3), KICK, _status(7), KICK),
    ),
    Scenario(
        "absent_queues",
        "kicks of queues that do not exist",
        (NEGOTIATE, UP, *(_kick(queue) for queue in ABSENT_QUEUES), REQUEST),
    ),
    Scenario(
        "absent_queues_early",
        "kicks of queues that do not exist, before DRIVER_OK",
        (NEGOTIATE, *(_kick(queue) for queue in ABSENT_QUEUES), UP),
    ),
    Scenario("kick_1_byte", "a kick of 1 byte", (NEGOTIATE, UP, _kick(0, 1), ADD, PUBLISH, _kick(0, 1), WAIT)),
    Scenario(
        "kick_4_bytes",
        "a kick of 4 bytes",
        (NEGOTIATE, UP, _kick(0, 4), ADD, PUBLISH, _kick(0, 4), WAIT, _kick(0x10000, 4), _kick(0xFFFFFFFF, 4)),
    ),
    Scenario(
        "kick_beside",
        "writes that start beside QUEUE_NOTIFY and cover it",
        (NEGOTIATE, UP, ADD, PUBLISH, _out(14, 4, 0), _out(15, 2, 0), _out(17, 1, 0), KICK, WAIT),
        kvm_only=True,
    ),
    Scenario(
        "kick_1_byte_early", "a kick of 1 byte before DRIVER_OK", (NEGOTIATE, ADD, PUBLISH, _kick(0, 1), WAIT, UP)
    ),
)

PCI_SCENARIOS = (
    Scenario(
        "bus_master_off",
        "bus-master is cleared and set again",
        (NEGOTIATE, UP, REQUEST, NO_MASTER, STATUS, MASTER, STATUS, REQUEST, STATUS, UP, REQUEST),
    ),
    Scenario(
        "bus_master_off_pending",
        "a request is kicked while bus-master is clear",
        (NEGOTIATE, UP, NO_MASTER, *PENDING, USED, MASTER, USED, KICK, WAIT, STATUS),
    ),
    Scenario(
        "bus_master_off_early",
        "bus-master is cleared before DRIVER_OK",
        (NEGOTIATE, NO_MASTER, NO_MASTER, MASTER, UP, REQUEST),
    ),
    Scenario(
        "bus_master_off_then_ok",
        "bus-master is cleared, then DRIVER_OK is set",
        (NEGOTIATE, UP, NO_MASTER, UP, *PENDING, USED, MASTER, USED, KICK, WAIT),
    ),
    Scenario(
        "status_3",
        "STATUS = 3 with bus-master clear",
        (*NO_BUS_MASTER, COMMAND, _status(3), COMMAND, _status(7), STATUS),
    ),
    Scenario(
        "bus_master_never",
        "DRIVER_OK without bus-master, and STATUS never 3",
        (*NO_BUS_MASTER, *RING, _status(7), STATUS, COMMAND, *PENDING, USED, MASTER, STATUS, USED, KICK, WAIT),
    ),
    Scenario(
        "bus_master_never_off",
        "bus-master is cleared once more, DRIVER_OK without it",
        (*NO_BUS_MASTER, *RING, _status(7), NO_MASTER, STATUS, MASTER, STATUS, REQUEST),
    ),
    Scenario(
        "bar0_moved",
        "BAR0 is moved while started",
        (NEGOTIATE, UP, MOVE_BAR0, *PENDING, USED, KICK_MOVED, WAIT, "port_in:0xd012:1"),
    ),
    Scenario(
        "bar0_moved_idle",
        "BAR0 is moved before DRIVER_OK",
        (
            NEGOTIATE,
            MOVE_BAR0,
            "port_out:0xd012:1:7",
            STATUS,
            ADD,
            PUBLISH,
            KICK_MOVED,
            WAIT,
        ),
    ),
    Scenario(
        "io_off",
        "I/O decode is switched off and on, a request pending",
        (NEGOTIATE, UP, ADD, PUBLISH, IO_OFF, STATUS, KICK, IO_ON, STATUS, USED, KICK, WAIT),
    ),
    Scenario(
        "io_off_early",
        "I/O decode is switched off and on before DRIVER_OK",
        (NEGOTIATE, IO_OFF, STATUS, IO_ON, STATUS, UP, REQUEST),
    ),
    Scenario(
        "command_zero",
        "COMMAND = 0, then 7",
        (NEGOTIATE, UP, "pci_write:4:2:0", STATUS, KICK, IO_ON, STATUS, REQUEST),
    ),
)

HOST_SCENARIOS = (
    Scenario("stop_cont", "stop and cont", (NEGOTIATE, UP, REQUEST, "stop", "stop", "cont", "cont", REQUEST)),
    Scenario("stop_cont_idle", "stop and cont before DRIVER_OK", (NEGOTIATE, "stop", "cont", UP, REQUEST)),
    Scenario("stop_cont_zero", "stop and cont after STATUS = 0", (NEGOTIATE, "set_status:0", "stop", "cont", STATUS)),
    Scenario(
        "stop_cont_pending",
        "stop and cont with a request that was not kicked",
        (NEGOTIATE, UP, ADD, PUBLISH, "stop", "cont", WAIT),
    ),
    Scenario(
        "stop_cont_early",
        "stop and cont, started by a kick without DRIVER_OK",
        (NEGOTIATE, REQUEST, "stop", "cont", REQUEST, UP),
    ),
    Scenario(
        "stop_cont_no_master",
        "stop and cont with bus-master clear",
        (NEGOTIATE, UP, NO_MASTER, "stop", "cont", MASTER, REQUEST),
    ),
    Scenario(
        "stop_cont_io_off",
        "stop and cont with I/O decode off",
        (NEGOTIATE, UP, IO_OFF, "stop", "cont", IO_ON, REQUEST),
    ),
    Scenario(
        "stop_load",
        "stop and cont under load",
        (NEGOTIATE, UP, START + STORM, "stop", "cont", "stop", "cont", FINISH),
        load=True,
    ),
    Scenario(
        "reset", "system reset", (NEGOTIATE, UP, REQUEST, "system_reset", PLACE_BAR0, NEGOTIATE, COMMAND, UP, REQUEST)
    ),
    Scenario(
        "reset_stopped",
        "system reset while stopped",
        (NEGOTIATE, UP, "stop", "system_reset", "cont", PLACE_BAR0, NEGOTIATE, UP, REQUEST),
    ),
    Scenario(
        "reset_load",
        "system reset under load",
        (NEGOTIATE, UP, START + STORM, "system_reset", PLACE_BAR0, NEGOTIATE, UP, REQUEST),
        load=True,
    ),
)

WITHOUT_SCENARIOS = (
    Scenario("without", "ioeventfd=off: a request", (NEGOTIATE, UP, REQUEST, DOWN, REQUEST), ioeventfd=False),
    Scenario("without_early", "ioeventfd=off: a kick before DRIVER_OK", (NEGOTIATE, REQUEST, UP), ioeventfd=False),
    Scenario(
        "without_stop_cont",
        "ioeventfd=off: stop and cont, a request pending",
        (NEGOTIATE, UP, ADD, PUBLISH, "stop", "cont", USED, KICK, WAIT),
        ioeventfd=False,
    ),
    Scenario(
        "without_bus_master",
        "ioeventfd=off: a request is kicked while bus-master is clear",
        (NEGOTIATE, UP, NO_MASTER, *PENDING, USED, MASTER, KICK, WAIT, STATUS),
        ioeventfd=False,
    ),
)

SCENARIOS = (*STATUS_SCENARIOS, *KICK_SCENARIOS, *PCI_SCENARIOS, *HOST_SCENARIOS, *WITHOUT_SCENARIOS)
