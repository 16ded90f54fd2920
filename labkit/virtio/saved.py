"""What of a virtio device must a saved state hold? What the driver told it, and how far it has come in each ring.

Not the host's side: the notifiers with their eventfds and counts (the rules make new ones, and START signals each queue
once), counters of kicks, who owns what, the image and the cable.
"""

from __future__ import annotations

from typing import Any

from labkit.errors import UsageError
from labkit.native import lib
from labkit.state import FLAG, U8, U16, U32, Many, Shape, State, checked

QUEUE: Shape = {
    "pfn": U32,
    "last_avail": U16,
    "used_idx": U16,
    "vector": U16,
    "decided": FLAG,  # EVENT_IDX: whether to interrupt was asked since the ring was set up, ...
    "decided_at": U16,  # ... and at which used.idx
    "unfinished": FLAG,  # a run was cut short
}


def shape(queues: int) -> Shape:
    """Of a device with that many queues."""
    return {"isr": U8, "broken": FLAG, "guest_features": U32, "queues": Many(queues, QUEUE)}


def save(device: Any, queues: int) -> State:
    """Of a device at rest, under the big lock. UsageError: its own code still holds chains of the guest's."""
    for index in range(queues):
        if device.vq[index].inuse:
            raise UsageError(
                f"queue {index}: the device's own code holds {device.vq[index].inuse} chains; push them first"
            )
    return {
        "isr": int(device.isr),
        "broken": int(device.broken),
        "guest_features": int(device.guest_features),
        "queues": [{name: int(getattr(device.vq[index], name)) for name in QUEUE} for index in range(queues)],
    }


def check(queues: int, vectors: int, offered: int, state: object) -> State:
    """UsageError: no driver can have told a device that, with so many queues and vectors, and those features."""
    found = checked("virtio", shape(queues), state)
    if found["guest_features"] & ~offered:
        raise UsageError(f"saved state: features {found['guest_features']:#x}, and the device offers {offered:#x}")
    for index, queue in enumerate(found["queues"]):
        if queue["vector"] >= vectors and queue["vector"] != lib.NO_VECTOR:
            raise UsageError(f"saved state: queue {index} interrupts by vector {queue['vector']}, of {vectors}")
    return found


def load(device: Any, found: State) -> None:
    """What was checked, into a device that was reset.

    Indices are believed as they are: one that does not fit its ring breaks the device when it looks there, as ever.
    """
    for index, queue in enumerate(found["queues"]):
        if queue["pfn"]:
            lib.lk_queue_set_pfn(device, index, queue["pfn"])
        for name in QUEUE:
            if name != "pfn":
                setattr(device.vq[index], name, queue[name])
    device.guest_features, device.broken = found["guest_features"], found["broken"]
    device.isr = found["isr"]
    lib.lk_intx_update(device)
