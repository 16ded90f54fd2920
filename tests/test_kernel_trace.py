"""Does the kernel's own trace join the events? Its text is read, its clock is ours, and nothing of ours stays in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rulebook import Boot

import labkit
from labkit.trace import kernel
from labkit.trace.tracepoints import FORMS, KernelEvent, parse

SAMPLE = Path(__file__).parent / "data" / "format1.labkit"
PLACE = "/sys/kernel/tracing"
# A mount that nobody else sees, and that ends with the program.
PRIVATELY = ["unshare", "--mount", "sh", "-c", f'mount -t tracefs tracefs {PLACE} && exec "$0" "$@"']

HEADING = """# tracer: nop
#
# entries-in-buffer/entries-written: 3/3   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
"""
# as Linux 6.18 without a hypervisor below it wrote them
WRITTEN = """\
       vm0-vcpu0-6384    [000] ..... 32675.138441: kvm_pio: pio_read at 0x5a0 size 4 count 1 val 0x8 
       vm0-vcpu0-6384    [001] ..... 32675.139000: kvm_pio: pio_write at 0xc010 size 2 count 1 val 0x0 
          vm0-io-6382    [001] d..1. 32675.139020: kvm_msi_set_irq: dst 0 vec 64 (Fixed|physical|edge)
          vm0-io-6382    [001] d..1. 32675.139021: kvm_apic_accept_irq: apicid 0 vec 64 (Fixed|edge)
       vm0-vcpu0-6384    [000] ..... 32675.139030: kvm_eoi: apicid 0 vector -1
       vm0-vcpu0-6384    [000] ..... 32675.139031: kvm_mmio: mmio write len 4 gpa 0xfee000b0 val 0x0
       vm0-vcpu0-6384    [000] ..... 32675.139040: kvm_userspace_exit: reason KVM_EXIT_IO (2)
"""  # noqa: W291
# in the forms of other kernels: with and without a vCPU's number, a group of threads, IRQ flags of four letters
ELSEWHERE = """\
           <...>-7       [003] .... 5.000001: kvm_exit: reason IO_INSTRUCTION rip 0x1000 info c0100009 0
           <...>-7       (      7) [003] d.... 5.000002: kvm_exit: vcpu 0 reason EPT_MISCONFIG rip 0xfff0 \
info1 0x0000000000000181 info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000 requests 0x0000000000000000
           <...>-7       [003] ..... 5.000003: kvm_entry: vcpu 0, rip 0x1002 intr_info 0x00000000 error_code 0x00000000
           <...>-7       [003] ..... 5.000004: kvm_entry: vcpu 1
           <...>-7       [003] ..... 5.000005: kvm_set_irq: gsi 11 level 1 source 0
           <...>-7       [003] ..... 5.000006: kvm_ack_irq: irqchip IOAPIC pin 11
           <...>-7       [003] ..... 5.000007: kvm_inj_virq: IRQ 0x40
           <...>-7       [003] ..... 5.000008: kvm_fast_mmio: fast mmio at gpa 0xfeb00000
           <...>-7       [003] ..... 5.000009: kvm_hypercall: nr 0x5 a0 0x0 a1 0x0 a2 0x0 a3 0x0
CPU:3 [LOST 12 EVENTS]
           <...>-8       [003] ..... 5.000010: kvm_pio: something that a later kernel says
"""


def test_what_the_kernel_wrote_is_read() -> None:
    """Time, thread, CPU, name, and the fields: numbers as numbers, addresses as the events have them."""
    found = list(parse(HEADING + WRITTEN, {6382: "iothread", 6384: "vcpu0"}))
    assert len(found) == len(WRITTEN.splitlines())
    assert found[1] == KernelEvent(
        32675_139000_000,
        "vcpu0",
        1,
        "kvm_pio",
        {"way": "write", "port": "0xc010", "width_bytes": 2, "count": 1, "value": "0x0"},
        "pio_write at 0xc010 size 2 count 1 val 0x0",
    )
    assert found[2].actor == "iothread"
    assert found[2].values == {
        "destination": 0,
        "vector": 64,
        "delivery": "Fixed",
        "mode": "physical",
        "trigger": "edge",
    }
    assert found[4].values == {"apicid": 0, "vector": -1}
    assert found[6].values == {"reason": "KVM_EXIT_IO", "number": 2}
    assert all(point.values for point in found)


def test_other_kernels_are_read_too() -> None:
    """A thread without a name of ours keeps the kernel's; a text in a new form is kept as it is."""
    found = list(parse(ELSEWHERE, {7: "vcpu0"}))
    assert [point.time_ns for point in found] == [5_000_000_000 + 1000 * n for n in range(1, 11)]
    assert found[0].values == {"reason": "IO_INSTRUCTION", "rip": "0x1000", "info1": "c0100009", "info2": 0}
    assert (found[1].values["vcpu"], found[1].values["reason"]) == (0, "EPT_MISCONFIG")
    assert [found[n].values for n in (2, 3)] == [{"vcpu": 0, "rip": "0x1002"}, {"vcpu": 1}]
    assert all(point.values for point in found[:-1])
    assert (found[-1].actor, found[-1].values) == ("<...>", {})
    assert found[-1].text == "something that a later kernel says"


def test_each_form_is_tried() -> None:
    """Every tracepoint whose text is read has a line above."""
    seen = {point.name for point in parse(WRITTEN + ELSEWHERE, {})}
    assert seen == FORMS.keys()


def test_it_is_said_what_is_missing(boot: Boot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No mount: how to make one. A recording, or a CPU that is not KVM's: why there is nothing to watch."""
    with pytest.raises(labkit.UsageError, match="recording"):
        labkit.replay(SAMPLE).trace.kernel()
    vm = boot()
    if vm.cpu != "kvm":
        with pytest.raises(labkit.UsageError, match="KVM knows nothing"):
            vm.trace.kernel()
        return
    (tmp_path / "mounts").write_text("proc /proc proc rw 0 0\n")
    monkeypatch.setattr(kernel, "MOUNTS", tmp_path / "mounts")
    with pytest.raises(labkit.HostError, match=r"tracefs: ENOENT .*mount -t tracefs"), vm.trace.kernel():
        raise AssertionError("not reached")


# -- against the kernel that is here -----------------------------------------------------------------------------------


def watch(script: str) -> dict:
    """Run a script that prints JSON where tracefs is mounted; `vm` is a machine on KVM."""
    before = "import json, os, labkit\nfrom pathlib import Path\nvm, out = labkit.boot(cpu='kvm'), {}\n"
    left = f"[place.name for place in Path('{PLACE}/instances').glob(f'labkit-{{os.getpid()}}-*')]"
    whole = f"{before}{script}\nout['left'] = {left}\nprint(json.dumps(out))\n"
    try:
        found = subprocess.run([*PRIVATELY, sys.executable, "-c", whole], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if "mount:" in found.stderr or "unshare:" in found.stderr:
        pytest.skip(f"tracefs cannot be mounted here: {found.stderr.strip()}")
    assert found.returncode == 0, found.stderr
    result: dict = json.loads(found.stdout)
    assert result["left"] == [], "an instance was left in the kernel"
    return result


@pytest.mark.kvm
def test_a_kick_by_ioeventfd_is_seen_when_it_is_made() -> None:
    """The guest's outw is a kvm_pio of its thread, before the iothread takes the kick; no other thread is seen."""
    found = watch("""
with vm.trace.kernel() as kernel:
    vm.guest.read(0)
    vm.hand_over()
    vm.guest.read(1)
port = vm.trace.events('assign')[0]['port']
out['kicks'] = [p.time_ns for p in kernel if p.name == 'kvm_pio' and p.values['port'] == port]
out['taken'] = [e.time_ns for e in vm.trace.events('kick_eventfd') if e['kicks']]
out['actors'] = sorted({p.actor for p in kernel})
out['order'] = [p.time_ns for p in kernel]
out['lost'] = kernel.lost
out['shown'] = repr(kernel), repr(kernel[0]), kernel._repr_html_()
out['rows'] = len(vm.trace.frame(kernel=kernel)), len(vm.trace.events()), len(kernel), len(kernel.frame())
""")
    assert len(found["kicks"]) == len(found["taken"]) == 2
    for kick_ns, taken_ns in zip(found["kicks"], found["taken"], strict=True):
        assert kick_ns <= taken_ns + 1000  # the kernel rounds to microseconds
    assert set(found["actors"]) <= {"vcpu0", "iothread", "backend", "owner"}
    assert {"vcpu0", "backend"} <= set(found["actors"])  # one that was started later, too
    assert found["order"] == sorted(found["order"])
    plain, first, table = found["shown"]
    assert plain == f"<trace of the kernel: {len(found['order'])} events>"
    assert " kvm_" in first
    assert "kvm_userspace_exit</td>" in table and "vcpu0</td>" in table
    together, events, points, alone = found["rows"]
    assert (together, alone, found["lost"]) == (events + points, points, 0)


@pytest.mark.kvm
def test_whatever_goes_wrong_the_instance_is_removed() -> None:
    """An error inside, a tracepoint that does not exist, a second start, a machine that is closed, no right to it."""
    found = watch("""
def said(work):
    try:
        work()
    except labkit.LabkitError as error:
        return type(error).__name__, str(error)
def inside():
    with vm.trace.kernel('kvm_pio') as kernel:
        raise labkit.UsageError('mine')
out['inside'] = said(inside)
out['point'] = said(vm.trace.kernel('kvm_pio', '../enable').start)
twice = vm.trace.kernel()
twice.start()
out['twice'] = said(twice.start)
twice.stop()
twice.stop()
vm.close()
out['closed'] = said(vm.trace.kernel().start)
vm = labkit.boot(cpu='kvm')
os.seteuid(65534)
out['right'] = said(vm.trace.kernel().start)
os.seteuid(0)
""")
    assert found["inside"] == ["UsageError", "mine"]
    assert found["point"][0] == "UsageError" and "'../enable'" in found["point"][1] and "kvm_exit" in found["point"][1]
    assert found["twice"][0] == "UsageError" and "already" in found["twice"][1]
    assert found["closed"][0] == "UsageError" and "closed" in found["closed"][1]
    assert found["right"][0] == "HostError" and "EACCES" in found["right"][1] and "root" in found["right"][1]


@pytest.mark.kvm
def test_what_does_not_fit_is_counted() -> None:
    """The kernel keeps the newest; how many it lost is told."""
    found = watch("""
from labkit.trace import kernel as module
module.BUFFER_KIB = 4
with vm.trace.kernel() as kernel:
    vm.guest.storm(2000)
out['lost'], out['kept'] = kernel.lost, len(kernel)
""")
    assert found["lost"] > 0
    assert found["kept"] > 0
