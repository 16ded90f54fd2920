"""5: notifiers that are there already, and are not said to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from labkit.errors import UsageError
from labkit.museum.mixed import MixedIntoEngine
from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.invariants import EFFECTIVE, EVERY_KICK_IS_SERVED
from labkit.races.scenario import Scenario, driver_ok, kick, publish
from labkit.trace.events import Cause
from labkit.virtio.devices.base import Device
from labkit.virtio.mutations import Mutation

if TYPE_CHECKING:
    from labkit.machine import Machine
    from labkit.virtio.devices.chain import DeviceQueue


class DataPlane(Device):
    """It gives back what it is given, in whichever thread; who handles its kicks may have something to do before."""

    ioeventfd_default = True
    before: Callable[[], object] = staticmethod(lambda: None)

    def handle(self, queue: DeviceQueue) -> None:
        """A kick."""
        self.before()
        for chain in queue:
            queue.push(chain)


class SaysStartedLast(MixedIntoEngine):
    """Between the start and the note that it was done others may have the lock; and who handles a kick starts."""

    def __init__(self, transport: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(transport, *arguments, **options)
        device = getattr(transport.model, "device", None)
        if not isinstance(device, DataPlane):
            raise UsageError(
                f"reentrant-start is the bug of a device that starts itself: boot({__name__}.DataPlane(), ...), "
                f"not {transport.model.name!r}"
            )
        device.before = self._handles

    def _start(self, rule: int, cause: Cause) -> None:
        was_started = self.started
        super()._start(rule, cause)
        if self.started and not was_started:
            self.started = False
            machine = self._device.machine
            lib.lk_lock_release(machine)
            lib.lk_lock_take(machine)
            self.started = True

    def _handles(self) -> None:
        if not self.started:
            super()._start(self.rules.rows[Cause.DRIVER_OK].rule, Cause.KICK)


def _rings_only(vm: Machine) -> None:
    vm.guest.negotiate()
    vm.guest.add_buffers(send_bytes=1)


SPECIMEN = Specimen(
    number=5,
    name="reentrant-start",
    happened=(
        "`started` was set after the poller was attached, and its eventfd is born with a kick in it: the handler "
        "found nothing started, and started it once more. Poller and starter had locks of their own; here the big "
        "lock is let go of at that place."
    ),
    where="QEMU",
    commits=("8caf907f07", "9a4b6a63ae"),
    rule="R3",
    mutation=Mutation("reentrant-start", engine=SaysStartedLast),
    scenario=Scenario(
        name="attach-and-fire",
        story="The driver comes up and kicks, and the iothread is woken by the start itself.",
        invariants=(EFFECTIVE, EVERY_KICK_IS_SERVED),
        guest=(driver_ok(True), publish(), kick()),
        device=DataPlane,
        boot={"bring_up": False},
        prepare=_rings_only,
    ),
    invariant=EFFECTIVE,
    schedule="vx5 i",
)
