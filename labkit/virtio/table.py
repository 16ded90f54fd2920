"""What can a row of the rules say? Causes, conditions, steps, and what START and STOP do to one queue."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from labkit.abi import QUEUE_MAX, Feature
from labkit.trace.events import Cause


class Step(Enum):
    """What can follow a cause."""

    START = "start the host notifiers"
    STOP = "stop them"
    CLEAR_PROPERTY = "clear the property"
    TURN_OFF = "keep them off"
    TURN_ON = "allow them again"
    LEND = "lend them: stop at the first backend, and remember"
    TAKE_BACK = "take them back: start at the last, if still wanted"
    MOVE = "move their registrations"
    STORE_STATUS = "store the status"
    STORE_STATUS_AGAIN = "store the status once more"
    DROP_DRIVER_OK = "take DRIVER_OK out of the status"
    NOTE_BUS_MASTER_BUG = "note BUS_MASTER_BUG if bus-master is clear"
    FORGET_BUS_MASTER_BUG = "forget BUS_MASTER_BUG"
    LOOK_FOR_BUS_MASTER_BUG = "note BUS_MASTER_BUG if DRIVER_OK is set and bus-master is clear"
    HELP_BUS_MASTER = "turn bus-master on if the status is exactly ACKNOWLEDGE|DRIVER"
    RESET_VIRTIO = "reset the virtio device"
    RELEASE_VECTORS = "release the MSI-X vectors"
    RESET_MSIX = "reset MSI-X"
    WRITE_CONFIG = "do the config write"
    LOAD = "load config space, vectors and rings"


class When(Enum):
    """A condition of a row."""

    STARTED = "the notifiers are started"
    LIVE = "DRIVER_OK is set, or a kick started the device"
    NO_BUS_MASTER_BUG = "BUS_MASTER_BUG is not noted"


class Part(Enum):
    """What START and STOP do to one queue (hostnotifier.py)."""

    ASSIGN = "create the eventfd and assign it in KVM"
    ATTACH = "let the iothread watch it"
    SIGNAL = "signal it"
    DETACH = "the iothread lets go"
    DEASSIGN = "KVM deassigns it"
    DRAIN = "test-and-clear, and run the queue if a kick was pending"
    CLOSE = "close the eventfd"


Batches = tuple[tuple[Part, ...], ...]  # each batch goes over all queues, with its parts for one after the other


class Row(NamedTuple):
    """A line of a table: the rule, the steps in order; `otherwise` what happens instead if `when` does not hold."""

    rule: int
    steps: tuple[Step, ...] = ()
    when: When | None = None
    otherwise: tuple[Step, ...] = ()


class Revision(NamedTuple):
    """The rules at one time: where they stand, the table, and what is not a row."""

    source: str
    rows: dict[Cause, Row]
    start: Batches = ((Part.ASSIGN, Part.ATTACH),)
    stop: Batches = ((Part.DETACH, Part.DEASSIGN, Part.DRAIN, Part.CLOSE),)
    forwards_traps: bool = False  # a trapped kick is written to the notifier, if there is one
    heeds_bus_master: bool = False  # without it the device leaves its rings alone
    suppresses: bool = False  # a device that serves a queue asks for no kicks meanwhile
    queue_indices: int = QUEUE_MAX  # R12, and what QUEUE_SEL takes
    splits_unaligned: bool = False  # an access that is not aligned comes as smaller ones that are
    offers: Feature = Feature(0)  # beside what every revision offers
