"""Which real bugs can be seen here? One file each; `labkit.museum.names()` lists them, `run` plays one."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module

from labkit.errors import UsageError
from labkit.museum.specimen import Specimen
from labkit.virtio.mutations import Mutation

__all__ = ["Specimen", "find", "mutations", "names"]


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


def mutations(wanted: Sequence[str]) -> tuple[Mutation, ...]:
    """What `boot(mutations=...)` names. UsageError: there is none of that name."""
    return tuple(find(name).mutation for name in wanted)
