"""The C core: everything that runs per kick, without Python and without the GIL. See core.h and decl/*.h.

Where it was not built, `import labkit` works all the same: rules, errors and recordings need no core. What does need it
gets a HostError as soon as it calls the core or counts with one of its numbers.
"""

from __future__ import annotations

from typing import NoReturn

from labkit.installation import missing

__all__ = ["BUILT", "HAS_KVM", "WHERE", "ffi", "lib"]


class NotBuilt:
    """In the place of `ffi` and `lib`, and of every name in them."""

    def __getattr__(self, name: str) -> NotBuilt:
        """A name can be looked up and kept; but not those by which Python asks what an object can do."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """HostError: the core is not there, with the reason and the mend."""
        raise missing("core", WHERE)

    __index__ = __int__ = __call__


try:
    from labkit.native._core import __file__ as WHERE  # the file, or what Python says of its absence
    from labkit.native._core import ffi, lib
except ImportError as error:
    WHERE = str(error)
    ffi = lib = NotBuilt()
BUILT = not isinstance(lib, NotBuilt)
HAS_KVM = BUILT and hasattr(lib, "lk_kvm_run")  # else built without the KVM back end
