"""Which real bugs can be seen here? One file each; `labkit.museum.names()` lists them, `run` plays one."""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module

from labkit.errors import UsageError
from labkit.museum import steps
from labkit.museum.result import Result, played
from labkit.museum.specimen import Specimen
from labkit.virtio.mutations import Mutation

__all__ = ["Result", "Specimen", "find", "mutations", "names", "number_of", "run"]


@cache
def _all() -> dict[str, Specimen]:
    found = []
    for module in pkgutil.iter_modules(__path__):
        specimen = getattr(import_module(f"{__name__}.{module.name}"), "SPECIMEN", None)
        if isinstance(specimen, Specimen):
            found.append(specimen)
    return {specimen.name: specimen for specimen in sorted(found, key=lambda one: one.number)}


def names() -> list[str]:
    """Every specimen, by its number in the list of bugs."""
    return list(_all())


def find(name: str) -> Specimen:
    """One of them. UsageError: there is none of that name."""
    if name not in _all():
        raise UsageError(f"specimen {name!r}: there are {', '.join(_all())}")
    return _all()[name]


def run(name: str, cpu: str = "auto", *, search: bool = True) -> Result:
    """Play a specimen's forced order with its mutation; then every order with it, and every order without.

    search: False leaves it at the forced order. UsageError: there is no such specimen.
    """
    return played(find(name), cpu, search=search)


def mutations(wanted: Sequence[str | Mutation]) -> tuple[Mutation, ...]:
    """What `boot(mutations=...)` names: a specimen's, a step that is left out, as "v6:PAUSE-without-STOP", or either by
    its number, as "#0c6a3f". UsageError: there is none of that name.
    """
    return tuple(one if isinstance(one, Mutation) else _mutation(one) for one in wanted)


def number_of(name: str) -> str:
    """What stands for a mutation where its name would give it away; a machine of that number tells no more."""
    return f"#{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _mutation(name: str) -> Mutation:
    return steps.by_name().get(name) or _by_number().get(name) or find(name).mutation


@cache
def _by_number() -> dict[str, Mutation]:
    known = steps.by_name() | {name: specimen.mutation for name, specimen in _all().items()}
    return {number_of(name): one._replace(name=number_of(name)) for name, one in known.items()}
