"""NVML through pynvml: opened lazily, once in each process, and its errors classified by what they mean for sampling.

```
NvmlError
├── LibraryGone     nothing can be queried: no library, no driver, a version mismatch, not open in this process
├── DeviceLost      this GPU has fallen off the bus or needs a reset; a later `open` may find it again
├── Unsupported     this will never be answered here: not queried again
└── QueryFailed     this time only, for all that is known
```

After a fork the child must initialise NVML for itself, and what the parent opened is the parent's to shut down: `call`
refuses there until `open` has been called, and `close` forgets without a shutdown.

A library that was loaded stays loaded: after a driver update the old one no longer fits the new kernel module, and NVML
is gone until this process ends. pynvml finds it as `libnvidia-ml.so.1`, by the dynamic linker's rules.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Final

from tailrace_agent.errors import TailraceError

__all__ = ["DeviceLost", "LibraryGone", "Nvml", "NvmlError", "QueryFailed", "Unsupported"]


class NvmlError(TailraceError):
    """NVML did not answer.

    Attributes:
        code: NVML's name for why: `GpuIsLost`.
    """

    def __init__(self, code: str, function: str) -> None:
        super().__init__(f"{function}: {code}")
        self.code = code


class LibraryGone(NvmlError):
    """Nothing can be queried, of any GPU."""


class DeviceLost(NvmlError):
    """This GPU cannot be queried."""


class Unsupported(NvmlError):
    """This GPU, driver or user will never have an answer to this."""


class QueryFailed(NvmlError):
    """There is no answer this time."""


_MEANINGS: Final[dict[int, type[NvmlError]]] = {
    1: LibraryGone,  # UNINITIALIZED
    3: Unsupported,  # NOT_SUPPORTED
    4: Unsupported,  # NO_PERMISSION
    9: LibraryGone,  # DRIVER_NOT_LOADED
    12: LibraryGone,  # LIBRARY_NOT_FOUND
    13: Unsupported,  # FUNCTION_NOT_FOUND
    15: DeviceLost,  # GPU_IS_LOST
    16: DeviceLost,  # RESET_REQUIRED
    18: LibraryGone,  # LIB_RM_VERSION_MISMATCH
    25: Unsupported,  # ARGUMENT_VERSION_MISMATCH
    26: Unsupported,  # DEPRECATED
    28: DeviceLost,  # GPU_NOT_FOUND
}
"""By `nvmlReturn_t`, whose numbers are NVML's ABI. What is not here is a `QueryFailed`."""


_PROBE: Final = "nvmlDeviceGetCount"


class Nvml:
    """The library, as this process has it open. Not thread-safe."""

    def __init__(self) -> None:
        self._pynvml: Any = None
        self._pid: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether `open` has worked, in this process."""
        return self._pid == os.getpid()

    def open(self) -> None:
        """Loads and initialises NVML; nothing when that is done.

        Raises:
            LibraryGone: It cannot be, whatever the reason.
        """
        if self.is_open:
            return
        self._pid = None
        try:
            import pynvml
        except ImportError:
            raise LibraryGone("the package nvidia-ml-py is missing", "pynvml") from None
        self._pynvml = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise LibraryGone(_code(error), "nvmlInit") from None
        self._pid = os.getpid()  # not a flag: a forked child has the parent's memory, and no NVML of its own

    def call(self, function: str, *args: object) -> Any:
        """What pynvml's `function` answers.

        Raises:
            NvmlError: It did not, or NVML is not open in this process.
        """
        if not self.is_open:
            raise LibraryGone("not open in this process", function)
        # By name, since an older pynvml lacks some.
        query = getattr(self._pynvml, function, None)
        if query is None:
            raise Unsupported("unknown to this pynvml", function)
        try:
            return query(*args)
        except self._pynvml.NVMLError as error:
            meaning = _MEANINGS.get(error.value, QueryFailed)
            # One function's word is not enough to give up all GPUs: the probe decides.
            if meaning is LibraryGone and function != _PROBE and self._answers():
                meaning = QueryFailed
            raise meaning(_code(error), function) from None
        except self._pynvml.NVMLLibraryMismatchError:  # how pynvml reports some functions that the driver lacks
            raise Unsupported("FunctionNotFound", function) from None

    def close(self) -> None:
        """Shuts NVML down, if this process opened it. Never raises; `open` opens it again."""
        if not self.is_open:
            return
        self._pid = None  # before the call: whatever it does, this process has NVML open no more
        with contextlib.suppress(self._pynvml.NVMLError):  # a library that is gone cannot be shut down either
            self._pynvml.nvmlShutdown()

    def _answers(self) -> bool:
        """Whether NVML works, whatever one of its functions returns."""
        try:
            self.call(_PROBE)
        except NvmlError:
            return False
        return True


def _code(error: Any) -> str:
    """`GpuIsLost`. Not `str(error)`: that calls the library, which may be what is broken."""
    name = type(error).__name__
    return name.removeprefix("NVMLError_") if name != "NVMLError" else f"error {error.value}"
