"""8: a kick that traps is served by the device, although a backend has the queue."""

from labkit.abi import NUMBERS, Command, Register
from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.acts import hand_over
from labkit.races.invariants import EVERY_KICK_IS_SERVED, ONE_CONSUMER
from labkit.races.scenario import Scenario, Step, added, kick, publish
from labkit.virtio.mutations import Mutation

OUTL = 4  # KVM matches two bytes: four always trap

SPECIMEN = Specimen(
    number=8,
    name="trap-bypasses-owner",
    happened=(
        "A kick that matched no ioeventfd, for it had another width, ran QEMU's own device while vhost had the queue: "
        "two served one ring. Since then it is written to the eventfd, whoever has that."
    ),
    where="QEMU",
    commits=("fcccb271e0",),
    rule="R9",
    mutation=Mutation("trap-bypasses-owner", core=lib.MUTATE_TRAP_BYPASSES),
    scenario=Scenario(
        name="outl-at-a-backend",
        story="A backend has the queue. The guest kicks it twice for one request: with two bytes, and with four.",
        invariants=(ONE_CONSUMER, EVERY_KICK_IS_SERVED),
        guest=(publish(), kick(), Step(Command.PORT_OUT, (NUMBERS["BAR0_FIRST"] + Register.QUEUE_NOTIFY, OUTL, 0))),
        prepare=added,
        begin=hand_over,
        backend=True,
    ),
    invariant=ONE_CONSUMER,
    schedule="vx6",
)
