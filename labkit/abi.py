"""Which numbers can a guest see? Typed names over guests/include/abi.h; no number is written here.

The header is read as text, so the names exist without a compiler and without the C core.
"""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag
from pathlib import Path

GUEST_IMAGES = Path(__file__).parent / "guest_images"
_DEFINE = re.compile(r"^#define\s+(\w+)\s+(0x[0-9a-fA-F]+|\d+)\b", re.MULTILINE)


def header_numbers(path: Path) -> dict[str, int]:
    """Every `#define NAME literal` of a header, in order."""
    return {name: int(literal, 0) for name, literal in _DEFINE.findall(path.read_text())}


NUMBERS = header_numbers(GUEST_IMAGES / "abi.h")

ABI_VERSION = NUMBERS["ABI_VERSION"]

# memory map
MEMORY_MIN_MIB = NUMBERS["MEMORY_MIN_MIB"]
MEMORY_MAX_MIB = NUMBERS["MEMORY_MAX_MIB"]
VCPUS_MAX = NUMBERS["VCPUS_MAX"]
PAGE_BYTES = NUMBERS["PAGE_BYTES"]
GPA_PAGE_TABLES = NUMBERS["GPA_PAGE_TABLES"]
PAGE_TABLES_BYTES = NUMBERS["PAGE_TABLES_BYTES"]
GPA_MULTIBOOT_INFO = NUMBERS["GPA_MULTIBOOT_INFO"]
MULTIBOOT_INFO_BYTES = NUMBERS["MULTIBOOT_INFO_BYTES"]
GPA_MAILBOX = NUMBERS["GPA_MAILBOX"]
MAILBOX_STRIDE = NUMBERS["MAILBOX_STRIDE"]
GPA_IMAGE = NUMBERS["GPA_IMAGE"]
GPA_BUFFERS = NUMBERS["GPA_BUFFERS"]
BUFFER_STRIDE = NUMBERS["BUFFER_STRIDE"]
GPA_MSIX_BAR = NUMBERS["GPA_MSIX_BAR"]

# ports and mailbox
PORT_CONSOLE = NUMBERS["PORT_CONSOLE"]
PORT_EXIT = NUMBERS["PORT_EXIT"]
PORT_PARK = NUMBERS["PORT_PARK"]
PORT_PCI_ADDRESS = NUMBERS["PORT_PCI_ADDRESS"]
PORT_PCI_DATA = NUMBERS["PORT_PCI_DATA"]
MB_ARGS = NUMBERS["MB_ARGS"]
MB_RESULTS = NUMBERS["MB_RESULTS"]
MB_STATUS = NUMBERS["MB_STATUS"]
MB_SAMPLES = NUMBERS["MB_SAMPLES"]
MB_SAMPLES_MAX = NUMBERS["MB_SAMPLES_MAX"]
MB_SLOTS = NUMBERS["MB_SLOTS"]

# sizes of the transport and of the devices
QUEUE_MAX = NUMBERS["QUEUE_MAX"]
QUEUE_NOTIFY_WIDTH = NUMBERS["QUEUE_NOTIFY_WIDTH"]
VIRTIO_VENDOR = NUMBERS["VIRTIO_VENDOR"]
NO_VECTOR = NUMBERS["NO_VECTOR"]
SECTOR_BYTES = NUMBERS["SECTOR_BYTES"]
BLK_ID_BYTES = NUMBERS["BLK_ID_BYTES"]


class Command(IntEnum):
    """What the agent in the guest can be told to do (CMD_*)."""

    NEGOTIATE = NUMBERS["CMD_NEGOTIATE"]
    SET_STATUS = NUMBERS["CMD_SET_STATUS"]
    DRIVER_OK = NUMBERS["CMD_DRIVER_OK"]
    ADD = NUMBERS["CMD_ADD"]
    PUBLISH = NUMBERS["CMD_PUBLISH"]
    KICK = NUMBERS["CMD_KICK"]
    WAIT = NUMBERS["CMD_WAIT"]
    REQUEST = NUMBERS["CMD_REQUEST"]
    BUS_MASTER = NUMBERS["CMD_BUS_MASTER"]
    PORT_IN = NUMBERS["CMD_PORT_IN"]
    PORT_OUT = NUMBERS["CMD_PORT_OUT"]
    PCI_READ = NUMBERS["CMD_PCI_READ"]
    PCI_WRITE = NUMBERS["CMD_PCI_WRITE"]
    LOAD = NUMBERS["CMD_LOAD"]
    STORE = NUMBERS["CMD_STORE"]
    KICK_LOOP = NUMBERS["CMD_KICK_LOOP"]
    STORM = NUMBERS["CMD_STORM"]
    RESET = NUMBERS["CMD_RESET"]
    FAULT = NUMBERS["CMD_FAULT"]
    ADD_BUFFERS = NUMBERS["CMD_ADD_BUFFERS"]


class AgentStatus(IntEnum):
    """How a step of the agent ended (AGENT_*)."""

    OK = NUMBERS["AGENT_OK"]
    UNKNOWN_COMMAND = NUMBERS["AGENT_UNKNOWN_COMMAND"]
    NO_DEVICE = NUMBERS["AGENT_NO_DEVICE"]
    NO_QUEUE = NUMBERS["AGENT_NO_QUEUE"]
    RING_FULL = NUMBERS["AGENT_RING_FULL"]
    TIMEOUT = NUMBERS["AGENT_TIMEOUT"]
    BAD_ARGUMENT = NUMBERS["AGENT_BAD_ARGUMENT"]
    BAD_USED = NUMBERS["AGENT_BAD_USED"]
    NO_FEATURE = NUMBERS["AGENT_NO_FEATURE"]


class Irq(IntEnum):
    """How the guest learns of completions (IRQ_*)."""

    POLL = NUMBERS["IRQ_POLL"]
    MSIX = NUMBERS["IRQ_MSIX"]
    INTX = NUMBERS["IRQ_INTX"]


class Fault(IntEnum):
    """Ways in which the agent can break on purpose (FAULT_*)."""

    TRIPLE = NUMBERS["FAULT_TRIPLE"]
    SPIN = NUMBERS["FAULT_SPIN"]
    HALT = NUMBERS["FAULT_HALT"]
    NO_MEMORY = NUMBERS["FAULT_NO_MEMORY"]


class Register(IntEnum):
    """Offsets of the legacy virtio-pci registers in BAR0 (REG_*)."""

    HOST_FEATURES = NUMBERS["REG_HOST_FEATURES"]
    GUEST_FEATURES = NUMBERS["REG_GUEST_FEATURES"]
    QUEUE_PFN = NUMBERS["REG_QUEUE_PFN"]
    QUEUE_NUM = NUMBERS["REG_QUEUE_NUM"]
    QUEUE_SEL = NUMBERS["REG_QUEUE_SEL"]
    QUEUE_NOTIFY = NUMBERS["REG_QUEUE_NOTIFY"]
    STATUS = NUMBERS["REG_STATUS"]
    ISR = NUMBERS["REG_ISR"]
    MSI_CONFIG_VECTOR = NUMBERS["REG_MSI_CONFIG_VECTOR"]
    MSI_QUEUE_VECTOR = NUMBERS["REG_MSI_QUEUE_VECTOR"]


CONFIG_NO_MSIX = NUMBERS["REG_CONFIG_NO_MSIX"]
CONFIG_MSIX = NUMBERS["REG_CONFIG_MSIX"]


class Status(IntFlag):
    """Bits of the STATUS register (STATUS_*)."""

    ACKNOWLEDGE = NUMBERS["STATUS_ACKNOWLEDGE"]
    DRIVER = NUMBERS["STATUS_DRIVER"]
    DRIVER_OK = NUMBERS["STATUS_DRIVER_OK"]
    FAILED = NUMBERS["STATUS_FAILED"]


class PciCommand(IntFlag):
    """Bits of the PCI COMMAND register (PCI_COMMAND_*)."""

    IO = NUMBERS["PCI_COMMAND_IO"]
    MEMORY = NUMBERS["PCI_COMMAND_MEMORY"]
    MASTER = NUMBERS["PCI_COMMAND_MASTER"]
    INTX_DISABLE = NUMBERS["PCI_COMMAND_INTX_DISABLE"]


class Feature(IntFlag):
    """Transport features, as bits (FEATURE_*)."""

    NOTIFY_ON_EMPTY = 1 << NUMBERS["FEATURE_NOTIFY_ON_EMPTY"]
    INDIRECT_DESC = 1 << NUMBERS["FEATURE_INDIRECT_DESC"]
    EVENT_IDX = 1 << NUMBERS["FEATURE_EVENT_IDX"]
    BAD_FEATURE = 1 << NUMBERS["FEATURE_BAD_FEATURE"]


class BlkFeature(IntFlag):
    """Features of virtio-blk, as bits (BLK_F_*)."""

    SEG_MAX = 1 << NUMBERS["BLK_F_SEG_MAX"]
    GEOMETRY = 1 << NUMBERS["BLK_F_GEOMETRY"]
    RO = 1 << NUMBERS["BLK_F_RO"]
    BLK_SIZE = 1 << NUMBERS["BLK_F_BLK_SIZE"]
    FLUSH = 1 << NUMBERS["BLK_F_FLUSH"]


class NetFeature(IntFlag):
    """Features of virtio-net, as bits (NET_F_*)."""

    MAC = 1 << NUMBERS["NET_F_MAC"]
    STATUS = 1 << NUMBERS["NET_F_STATUS"]
    CTRL_VQ = 1 << NUMBERS["NET_F_CTRL_VQ"]
    CTRL_RX = 1 << NUMBERS["NET_F_CTRL_RX"]


class ConsoleFeature(IntFlag):
    """Features of virtio-console, as bits (CONSOLE_F_*)."""

    SIZE = 1 << NUMBERS["CONSOLE_F_SIZE"]


class BlkType(IntEnum):
    """Types of a virtio-blk request (BLK_T_*)."""

    IN = NUMBERS["BLK_T_IN"]
    OUT = NUMBERS["BLK_T_OUT"]
    FLUSH = NUMBERS["BLK_T_FLUSH"]
    GET_ID = NUMBERS["BLK_T_GET_ID"]


class BlkStatus(IntEnum):
    """The status byte of a virtio-blk request (BLK_S_*)."""

    OK = NUMBERS["BLK_S_OK"]
    IOERR = NUMBERS["BLK_S_IOERR"]
    UNSUPP = NUMBERS["BLK_S_UNSUPP"]
