"""The C core: everything that runs per kick, without Python and without the GIL. See core.h and decl/*.h."""

from labkit.native._core import ffi, lib

__all__ = ["ffi", "lib"]
