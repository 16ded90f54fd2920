"""How long does a machine stand still to be saved, and how fast does it go back? Pause, snapshot and restore."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import labkit
from labkit import abi
from labkit.bench.bare import bare_eventfd, notify_port, paused
from labkit.bench.floors import Floor, floor_of
from labkit.bench.life import NS_PER_US, SETTLE_S, ran
from labkit.bench.row import Effort, Samples, interleaved
from labkit.machine import Machine
from labkit.native import ffi, lib
from labkit.threads import Thread

Figure = Callable[[], float]
FOR_EVER = 0xFFFFFFFF


def pause_resume(effort: Effort) -> Samples:
    """vm.pause() and vm.resume(), us, at DRIVER_OK: the notifier stops and starts (R10)."""
    with labkit.boot("blk", cpu=effort.cpu) as vm, _bare_stop(vm) as floor:

        def value() -> float:
            time.sleep(SETTLE_S)
            return _us(vm.pause, vm.resume)

        return interleaved(value, floor, effort.repetitions)


def snapshot(effort: Effort) -> Samples:
    """vm.snapshot() of a running machine, us; its guest is parked."""
    with labkit.boot("blk", cpu=effort.cpu) as vm:
        memory = vm._board.memory  # the bench measures what lies behind the public names
        copy = bytearray(memory.size_bytes)

        def value() -> float:
            return _us(vm.snapshot)

        def floor() -> float:
            return _us(lambda: os.preadv(memory.fd, [copy], 0))

        return interleaved(value, floor, effort.repetitions)


def restore(effort: Effort) -> Samples:
    """vm.restore(), us, of a paused machine whose guest has read a sector since the snapshot."""
    with labkit.boot("blk", cpu=effort.cpu) as vm, floor_of(vm) as bare:
        bare_us = _bare_restore(vm, bare)
        with paused(vm):
            saved = vm.snapshot()

        def value() -> float:
            vm.guest.read(0)
            with paused(vm):
                return _us(lambda: vm.restore(saved))

        def floor() -> float:
            with paused(vm):
                return bare_us()

        return interleaved(value, floor, effort.repetitions)


def restore_running(effort: Effort) -> Samples:
    """The same of a running machine, us: by R10 its notifier stops and starts."""
    with labkit.boot("blk", cpu=effort.cpu) as vm, floor_of(vm) as bare, _bare_stop(vm) as stop_us:
        bare_us, saved = _bare_restore(vm, bare), vm.snapshot()

        def value() -> float:
            vm.guest.read(0)
            time.sleep(SETTLE_S)
            return _us(lambda: vm.restore(saved))

        def floor() -> float:
            with paused(vm):
                us = bare_us()
            return us + stop_us()

        return interleaved(value, floor, effort.repetitions)


# -- floors ------------------------------------------------------------------------------------------------------------


@contextmanager
def _bare_stop(vm: Machine) -> Iterator[Figure]:
    """us of what nobody can do without who stops a notifier and starts it."""
    if vm.cpu != "kvm":
        with _another_thread() as ask_ns:
            yield lambda: (ask_ns() + ask_ns()) / NS_PER_US
        return
    board = vm._board

    def us() -> float:
        with paused(vm), bare_eventfd(board) as (fd, _):
            kick = (notify_port(board), abi.QUEUE_NOTIFY_WIDTH, 0, fd)
            time.sleep(SETTLE_S)
            return _us(partial(board.cpu.deassign, *kick), partial(board.cpu.assign, *kick))

    yield us


@contextmanager
def _another_thread() -> Iterator[Callable[[], int]]:
    """ns of a question to a thread that sleeps, and its answer."""
    question, ends = ffi.new("char[1]"), socket.socketpair()
    with ends[1] as theirs:
        thread = Thread(lambda: lib.lk_bare_answer(theirs.fileno(), question, 1, FOR_EVER), "bare-answer")
        with ends[0] as ours:
            yield lambda: ran(lib.lk_bare_ask_ns(ours.fileno(), question, 1), "a bare question")
        thread.join()


def _bare_restore(vm: Machine, bare: Floor) -> Figure:
    """us, while it is paused: as many pages copied as a read writes, and the vCPU's state set."""
    size = _pages_of_a_read(vm) * abi.PAGE_BYTES
    before, after = ffi.new("char[]", size), ffi.new("char[]", size)

    def us() -> float:
        copied_ns: int = lib.lk_bare_copy_ns(after, before, size)
        return (copied_ns + ran(bare.load_ns(), "a bare load")) / NS_PER_US

    return us


def _pages_of_a_read(vm: Machine) -> int:
    """How many a guest writes that reads a sector, and its device. No snapshot is known to be like memory then."""
    board = vm._board
    vm.snapshot()
    vm.guest.read(0)
    with paused(vm):
        board.like = None
        return len(board.owner.call(board.dirty.take))


def _us(*works: Callable[[], object]) -> float:
    start_ns = time.perf_counter_ns()
    for work in works:
        work()
    return (time.perf_counter_ns() - start_ns) / NS_PER_US
