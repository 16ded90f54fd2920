"""What does a line of the kernel's trace say? Each in the form of Documentation/trace/ftrace.rst, and KVM's own text.

vm0-vcpu0-6384    [000] ..... 32675.138441: kvm_pio: pio_write at 0xc010 size 2 count 1 val 0x0
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from labkit.trace.events import Value

LINE = re.compile(
    r"\s*(?P<comm>.+)-(?P<thread>\d+)\s+(?:\([\s\d-]+\)\s+)?\[(?P<cpu>\d+)\]\s+(?:\S+\s+)?"
    r"(?P<s>\d+)\.(?P<us>\d{6}): (?P<name>\w+): ?(?P<text>.*)"
)
HEX, NUMBER = r"0x[0-9a-f]+", r"-?\d+"
# what is read out of a text: name → its pattern; a kernel that says it another way is shown as it says it
FORMS: dict[str, re.Pattern[str]] = {
    "kvm_pio": re.compile(
        rf"pio_(?P<way>read|write) at (?P<port>{HEX}) size (?P<width_bytes>{NUMBER}) "
        rf"count (?P<count>{NUMBER}) val (?P<value>{HEX})"
    ),
    "kvm_mmio": re.compile(
        rf"mmio (?P<way>[\w-]+) len (?P<width_bytes>{NUMBER}) gpa (?P<gpa>{HEX}) val (?P<value>{HEX})"
    ),
    "kvm_fast_mmio": re.compile(rf"fast mmio at gpa (?P<gpa>{HEX})"),
    "kvm_exit": re.compile(
        rf"(?:vcpu (?P<vcpu>{NUMBER}) )?reason (?P<reason>.+?) rip (?P<rip>{HEX}) "
        r"info1? (?P<info1>\w+) (?:info2 )?(?P<info2>\w+)"
    ),
    "kvm_entry": re.compile(rf"vcpu (?P<vcpu>{NUMBER})(?:, rip (?P<rip>{HEX}))?"),
    "kvm_userspace_exit": re.compile(rf"reason (?P<reason>\w+) \((?P<number>{NUMBER})\)"),
    "kvm_eoi": re.compile(rf"apicid (?P<apicid>[0-9a-f]+) vector (?P<vector>{NUMBER})"),
    "kvm_apic_accept_irq": re.compile(
        rf"apicid (?P<apicid>[0-9a-f]+) vec (?P<vector>{NUMBER}) \((?P<delivery>\w+)\|(?P<trigger>\w+)\)"
    ),
    "kvm_msi_set_irq": re.compile(
        rf"dst (?P<destination>[0-9a-f]+) vec (?P<vector>{NUMBER}) \((?P<delivery>\w+)\|(?P<mode>\w+)\|(?P<trigger>\w+)"
    ),
    "kvm_set_irq": re.compile(rf"gsi (?P<gsi>{NUMBER}) level (?P<level>{NUMBER}) source (?P<source>{NUMBER})"),
    "kvm_ack_irq": re.compile(rf"irqchip (?P<irqchip>.+) pin (?P<pin>{NUMBER})"),
    "kvm_inj_virq": re.compile(rf"(?:\w+ )?(?P<vector>{HEX})"),
    "kvm_hypercall": re.compile(rf"nr (?P<number>{HEX})"),
}


class KernelEvent(NamedTuple):
    """One tracepoint. `time_ns` is CLOCK_MONOTONIC, to the microsecond; `host_cpu` is a CPU of the host.

    `actor` is the thread, as an Event names it. `values` is what is known of `text`, which is the kernel's own.
    """

    time_ns: int
    actor: str
    host_cpu: int
    name: str
    values: dict[str, Value]
    text: str

    def __repr__(self) -> str:
        return f"{self.actor:<9} {self.name} {self.text}"


def parse(trace: str, actors: Mapping[int, str]) -> Iterator[KernelEvent]:
    """The records of a `trace` file; headings, and what is no record, are passed over. `actors` by thread number."""
    for line in trace.splitlines():
        found = LINE.fullmatch(line)
        if found is not None:
            time_ns = int(found["s"]) * 10**9 + int(found["us"]) * 1000
            actor = actors.get(int(found["thread"]), found["comm"].strip())
            text = found["text"].strip()
            yield KernelEvent(time_ns, actor, int(found["cpu"]), found["name"], _values(found["name"], text), text)


def _values(name: str, text: str) -> dict[str, Value]:
    form = FORMS.get(name)
    found = form.match(text) if form else None
    return {key: _value(said) for key, said in found.groupdict().items() if said is not None} if found else {}


def _value(said: str) -> Value:
    return int(said) if re.fullmatch(NUMBER, said) else said
