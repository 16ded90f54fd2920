"""How does a device of the user's own run? The C core calls back; what its code gets wrong breaks that device alone.

The callback comes in the thread that serves the kick, which has the big lock and takes the GIL. Lock order: big lock,
then GIL; nobody waits for the big lock with the GIL held, for cffi lets go of it around every call into the core.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any

from labkit.abi import NUMBERS, QUEUE_MAX
from labkit.errors import UsageError
from labkit.native import ffi, lib
from labkit.state import Blob, Shape, State
from labkit.virtio.devices.base import Device
from labkit.virtio.devices.chain import DeviceQueue

QUEUE_SIZES = tuple(1 << bit for bit in range(1, NUMBERS["QUEUE_SIZE_MAX"].bit_length()))
NUMBERS_OF_A_DEVICE = {  # the largest of each
    **dict.fromkeys(("pci_device", "virtio_type", "pci_class"), 0xFFFF),
    "vectors": NUMBERS["MSIX_VECTORS_MAX"],
    "features": (1 << NUMBERS["FEATURE_NOTIFY_ON_EMPTY"]) - 1,  # those below the transport's
}
SAVED_MAX_BYTES = 1 << 20  # of its own state
CONFIG_MAX_BYTES = 256 - NUMBERS["REG_CONFIG_MSIX"]  # a PC's I/O BAR has at most 256 ports


class PythonDevice(Device):
    """The lab's side of a `Device` of the user's own: what the machine asks of a model, each call guarded."""

    def __init__(self, device: Device) -> None:
        """UsageError: it is in a machine already, or something about it cannot be a device."""
        if device.queues:
            raise UsageError(f"{_class(device)}: this device is in a machine already; close that, or make another")
        self.device = device
        self._native: Any = None
        self._handle: Any = None
        self._queues: tuple[DeviceQueue, ...] = ()
        self._check()

    def _check(self) -> None:
        device = self.device
        if getattr(device.handle, "__func__", None) is Device.handle:
            raise UsageError(f"{_class(device)} has no handle(self, queue): what does it do when a queue is kicked?")
        try:
            self._tell(None, "")
        except Exception as error:
            raise UsageError(f"{_class(device)}: the lab sets its queues, error and failure, and it cannot") from error
        for name, most in NUMBERS_OF_A_DEVICE.items():
            _check_number(device, name, most)
        self.name = str(device.name) or _class(device).lower()
        self.queue_sizes = _queue_sizes(device)
        self.vectors = device.vectors or min(len(self.queue_sizes) + 1, NUMBERS["MSIX_VECTORS_MAX"])
        self.ioeventfd_default = bool(device.ioeventfd_default)
        self._offered, self._header = self._call("host_features"), self._call("pci_header")
        self.config()
        if self.error is not None:
            raise UsageError(self.failure) from self.error

    # -- what the machine asks -----------------------------------------------------------------------------------------

    def host_features(self) -> int:
        """As at boot."""
        return int(self._offered)

    def pci_header(self) -> dict[str, tuple[int, int]]:
        """As at boot."""
        return dict(self._header)

    def feature_names(self, bits: int) -> str:
        """As the device names them."""
        return self.device.feature_names(bits)

    def config(self) -> bytes:
        """Empty, and so all ones for the guest, if the device's code fails."""
        config = self._call("config")
        good = isinstance(config, bytes) and len(config) <= CONFIG_MAX_BYTES
        if not good and self.error is None:
            self._fails("config", 0, UsageError(f"{config!r}: it returns bytes, at most {CONFIG_MAX_BYTES}"))
        return bytes(config) if good else b""

    def write_config(self, offset: int, data: bytes) -> None:
        """The guest wrote to config space."""
        self._call("write_config", offset, data)

    def reset(self) -> None:
        """Whole again; then the device's own part of it."""
        self._tell(None, "")
        self._call("reset")

    def attach(self, native: Any) -> None:
        """The C core can call from here on. The handle refers to this object, never to the machine."""
        self._tell(None, "")
        self._native, self._handle = native, ffi.new_handle(self)
        native.python = self._handle
        self._queues = tuple(DeviceQueue(native, index) for index in range(len(self.queue_sizes)))
        self.device.queues = self._queues
        self._call("attach", native)

    def close(self) -> None:
        """Nothing calls any more; the device may go into another machine."""
        if self._native is not None:
            self._native.python = ffi.NULL
        self._native = self._handle = None
        self._queues = self.device.queues = ()
        self._call("close")

    # -- saved and loaded ----------------------------------------------------------------------------------------------

    def state_shape(self) -> Shape:
        """What its own code tells, which only that code understands."""
        return {"own": Blob(SAVED_MAX_BYTES)}

    def save_state(self) -> State:
        """The same. UsageError: its code fails, or tells something else."""
        own = self._ask("save")
        if not isinstance(own, bytes) or len(own) > SAVED_MAX_BYTES:
            raise UsageError(f"{_class(self.device)}.save returned {_said(own)}: bytes, at most {SAVED_MAX_BYTES}")
        return {"own": own}

    def check_state(self, state: State) -> None:
        """UsageError: its code cannot load that. It tries, and goes back to what it is; if it cannot, it is broken."""
        before = self.save_state()
        try:
            self._ask("load", state["own"])
        finally:
            self._call("load", before["own"])

    def load_state(self, state: State) -> None:
        """What it could load a moment ago."""
        self._call("load", state["own"])

    # -- a kick --------------------------------------------------------------------------------------------------------

    def serve(self, index: int) -> bool:
        """Run `handle` once. True if it must be called again for what is left in the ring."""
        if index >= len(self._queues):
            return False  # a ring of a queue that is not there
        for queue in self._queues:
            queue._enter()
        self._check_done(index, self._call("handle", self._queues[index], index=index))
        return [queue._leave() for queue in self._queues][index]

    def _check_done(self, index: int, result: object) -> None:
        """What handle may leave behind: nothing."""
        unpushed = next((queue for queue in self._queues if queue._unpushed), None)
        if isinstance(result, Generator | Coroutine):
            result.close()
            self._fails(
                "handle", index, UsageError("it has a yield or an async and did not run: it is called, no more")
            )
        elif unpushed is not None and not self._native.broken:
            self._fails("handle", index, UsageError(f"{unpushed._unpushed} chains of {unpushed!r} taken, not pushed"))

    # -- the device's code, guarded ------------------------------------------------------------------------------------

    def _call(self, method: str, *arguments: object, index: int = 0) -> Any:
        """What the method returns; None if it fails, and then the device is broken until it is reset, and says why."""
        self.inside = f"{_class(self.device)}.{method}"
        try:
            return getattr(self.device, method)(*arguments)
        except BaseException as error:  # noqa: BLE001 - it is told to whoever uses the device
            self._fails(method, index, error)
            return None
        finally:
            self.inside = ""

    def _ask(self, method: str, *arguments: object) -> Any:
        """What the method returns. UsageError: it fails, and where; the device is as whole as it was."""
        self.inside = f"{_class(self.device)}.{method}"
        try:
            return getattr(self.device, method)(*arguments)
        except BaseException as error:
            raise UsageError(self._where(method, error)) from error
        finally:
            self.inside = ""

    def _where(self, method: str, error: BaseException) -> str:
        trace = _own_trace(error)
        line = trace.tb_lineno if trace is not None else _first_line(getattr(self.device, method))
        return f"{_class(self.device)}.{method}, line {line}: {type(error).__name__}: {_text(error)}"

    def _fails(self, method: str, index: int, error: BaseException) -> None:
        where = self._where(method, error)
        self._tell(error.with_traceback(_own_trace(error)), where)
        if self._native is not None:
            lib.lk_python_fail(self._native, index)

    def _tell(self, error: BaseException | None, failure: str) -> None:
        for model in (self, self.device):
            model.error, model.failure = error, failure


@ffi.def_extern()  # type: ignore[untyped-decorator]
def lk_python_handle(python: Any, queue: int) -> int:
    """Called by native/pydevice.c under the big lock."""
    return int(ffi.from_handle(python).serve(queue))


def _own_trace(error: BaseException) -> TracebackType | None:
    """From the user's code on."""
    return error.__traceback__.tb_next if error.__traceback__ is not None else None


def _said(value: object) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__


def _first_line(method: Any) -> int | str:
    code = getattr(method, "__code__", None)
    return code.co_firstlineno if code is not None else "?"


def _class(device: Device) -> str:
    return type(device).__name__


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error that cannot even say what it is
        return "(its text cannot be had)"


def _check_number(device: Device, name: str, most: int) -> None:
    value = getattr(device, name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise UsageError(f"{_class(device)}.{name} = {value!r}: a whole number from 0 to {most:#x}")


def _queue_sizes(device: Device) -> tuple[int, ...]:
    try:
        sizes = tuple(device.queue_sizes)
    except TypeError:
        sizes = ()
    if not 1 <= len(sizes) <= QUEUE_MAX or any(type(size) is not int or size not in QUEUE_SIZES for size in sizes):
        raise UsageError(
            f"{_class(device)}.queue_sizes = {device.queue_sizes!r}: 1 to {QUEUE_MAX} queues, "
            f"each of a power of two from {QUEUE_SIZES[0]} to {QUEUE_SIZES[-1]} descriptors"
        )
    return sizes
