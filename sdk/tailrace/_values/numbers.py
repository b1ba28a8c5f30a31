"""What users pass as metric values and params, turned into what can travel: floats and strings.

The hot path encodes a call's values in one go and calls `to_number` for everything that is no plain float, int or
bool. Only when that fails does the slow path, `split`, look at the values one by one. Nothing here imports NumPy or
torch: a value can only be one of theirs if they are imported already.

Thread safety: all functions may be called from any thread at once; none takes a lock or waits for a device.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from tailrace._values.params import FlatParams, flatten_params
from tailrace_agent.ipc.nested import flat_items
from tailrace_agent.text.utf8 import as_utf8

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "KINDS",
    "FlatParams",
    "NotANumber",
    "NotReady",
    "Split",
    "flatten_params",
    "learn_tensors",
    "name_of",
    "split",
    "to_number",
]


class NotANumber(TypeError):
    """A value that is no single number. The message is a short reason that names the type or the shape."""


class NotReady(Exception):
    """A number that is still on its way: reading it now would wait for a device.

    Attributes:
        value: The tensor or array, as passed.
    """

    def __init__(self, value: object) -> None:
        super().__init__(f"{name_of(value)} is on another device")
        self.value = value


class Split(NamedTuple):
    """The values of one `log()` call, sorted by what they are.

    Attributes:
        numbers: What can be logged now.
        deferred: Tensors on another device, for `gpu_values.DeferredValues`.
        bad: `(key, reason)` of everything else.
    """

    numbers: dict[str, float]
    deferred: dict[str, object]
    bad: list[tuple[str, str]]


_NUMERIC_KINDS = frozenset("biuf")
"""NumPy dtype kinds that are real numbers (a timedelta, `m`, has `__float__` too, and a string, `U`, as well)."""

_TIME_KINDS = frozenset("mM")
"""NumPy's timedelta and datetime, whose `item()` would be a bare int."""

_plain: set[type] = {float, int, bool}
"""Types whose every instance is a number that `float()` converts: NumPy's scalar types join when first seen."""

_SCALAR, _ARRAY, _TENSOR = 1, 2, 3
KINDS: dict[type, int] = {}
"""What the hot path in C reads by itself (agent/native/numbers.h): each type once one of it was read here."""


def learn_tensors(tensor: type) -> None:
    """The hot path in C is to look at this class of torch's by itself."""
    KINDS[tensor] = _TENSOR


def to_number(value: object) -> float:
    """The float of a metric value; msgspec's `enc_hook` for the hot path.

    Takes what has `__float__` and is a number: NumPy scalars, arrays and CPU tensors with one element (bfloat16, half
    and `requires_grad` included), `Decimal`, `Fraction`, subclasses of float and int.

    Args:
        value: What the user passed.

    Returns:
        The value; NaN and infinities are values. Integers beyond 2**53 lose precision, as in MLflow.

    Raises:
        NotANumber: A string, None, a complex number, an array of several elements, anything else.
        NotReady: A tensor that is on another device. It was not waited for.

    Example:
        >>> to_number(numpy.float32(0.5))
        0.5
    """
    if type(value) in _plain:
        try:
            return float(value)  # type: ignore[arg-type]
        except OverflowError:
            raise NotANumber("an int too large for a float") from None
    try:
        return _uncommon(value)
    except (NotANumber, NotReady):
        raise
    except Exception as error:  # noqa: BLE001 - what a foreign class raises when it is asked what it is
        raise NotANumber(f"{name_of(value)}: {type(error).__name__}: {error}") from None


def _uncommon(value: object) -> float:
    # A string that holds a number has no `__float__`, but `float()` would take it: "0.5" is a mistake here.
    if value is None or isinstance(value, (str, bytes, bytearray, complex)):
        raise NotANumber(f"{name_of(value)} is no number")
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    if tensor is not None and isinstance(value, tensor):
        # The common case first, for speed; subclasses (a DTensor, say) are looked at closely.
        if type(value) is tensor and value.is_cpu and value.numel() == 1 and not value.is_complex():
            KINDS[tensor] = _TENSOR
            return _convert(value, _item)
        return _from_tensor(value)
    numpy = sys.modules.get("numpy")
    generic = getattr(numpy, "generic", None)
    if generic is not None and isinstance(value, generic):
        return _from_scalar(value)
    if numpy is not None and type(value) is getattr(numpy, "ndarray", None):
        KINDS[type(value)] = _ARRAY
    # Before `__float__`, which an array on a device has as well, and which waits for it.
    if hasattr(value, "shape"):
        return _from_array(value)
    if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
        raise NotANumber(f"{name_of(value)} is no number")
    return _convert(value, float)


def _from_scalar(value: Any) -> float:
    kind = value.dtype.kind
    if kind in _NUMERIC_KINDS:
        # From now on such a value is known by its type: one look into a set.
        _plain.add(type(value))
        if type(value).__module__ == "numpy":  # a class of its user may convert itself
            KINDS[type(value)] = _SCALAR
        return float(value)
    if kind != "V":  # where bfloat16 and float8 of `ml_dtypes` are
        raise NotANumber(f"{name_of(value)} is no number")
    return _convert(value, float)


def _from_tensor(value: Any) -> float:
    reason = tensor_fault(value)
    if reason is not None:
        raise NotANumber(reason)
    if value.device.type != "cpu":
        raise NotReady(value)
    return _convert(value, _item)


def _item(value: Any) -> float:
    # `float()` of a tensor that requires a gradient warns; `item()` does not.
    return float(value.item())


def _from_array(value: Any) -> float:
    """NumPy arrays, pandas Series of one element, and the arrays of other libraries (JAX, CuPy)."""
    reason = array_fault(value)
    if reason is not None:
        raise NotANumber(reason)
    if is_remote(value):
        raise NotReady(value)
    # NumPy warns where `float()` gets an array that has dimensions. What `item()` gives may be no number: once more.
    return _convert(value, lambda array: to_number(array.item() if hasattr(array, "item") else float(array)))


def _convert(value: Any, how: Callable[[Any], float]) -> float:
    try:
        return how(value)
    except NotANumber as error:
        raise NotANumber(f"{name_of(value)} holds {error}") from None
    except OverflowError:
        raise NotANumber(f"{name_of(value)} is too large for a float") from None
    except Exception as error:  # noqa: BLE001 - a foreign __float__ may raise anything, and must not reach training
        raise NotANumber(f"{name_of(value)}: {type(error).__name__}: {error}") from None


def tensor_fault(value: Any) -> str | None:
    """Why a torch tensor is no metric value, from what is known without its data; None when it may be one."""
    # From the shape and the type alone: a look at the data would wait for the device.
    count = value.numel()
    if count != 1:
        return f"a tensor of shape {tuple(value.shape)}, not one element"
    if value.is_complex():
        return f"a tensor of {value.dtype} is no real number"
    if value.device.type == "meta":
        return "a meta tensor holds no value"
    if hasattr(value, "full_tensor"):
        return "a DTensor is spread over devices: pass its full_tensor() or to_local()"
    return None


def array_fault(value: Any) -> str | None:
    """Why an array-like is no metric value, from its shape; None when it may be one."""
    try:
        shape = tuple(value.shape)
    # `shape` may be a method, or whatever else a library makes of it.
    except TypeError:
        return f"{name_of(value)} has a shape that is no tuple"
    if any(length != 1 for length in shape):
        return f"{name_of(value)} of shape {shape}, not one element"
    if getattr(getattr(value, "dtype", None), "kind", "f") in _TIME_KINDS:
        return f"{name_of(value)} of times is no number"
    return None


def is_remote(value: Any) -> bool:
    """Whether reading this array-like (of JAX or CuPy, say) could wait for a device."""
    if hasattr(value, "copy_to_host_async"):
        ready = getattr(value, "is_ready", None)
        # On a GPU even one that is ready has to be copied; on the CPU `item()` waits for one that is not.
        return not (ready is not None and _on_cpu(value) and ready())
    # Not by its class: that would take an import of CuPy.
    return type(value).__module__.partition(".")[0] == "cupy"


def _on_cpu(value: Any) -> bool:
    try:
        return all(device.platform == "cpu" for device in value.devices())
    except Exception:  # noqa: BLE001 - a tracer inside jit, a deleted array: then nothing is known
        return False


def name_of(value: object) -> str:
    """The type of a value as people name it: `str`, `numpy.ndarray`, `torch.Tensor`."""
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def split(metrics: Mapping[Any, object]) -> Split:
    """The values of a call whose fast encoding failed, sorted one by one.

    Args:
        metrics: What the user passed; nested mappings are flattened, `train/loss`. Keys that are no strings are bad,
            whatever their values.

    Returns:
        Numbers to log now, tensors for the deferred lane, and what is wrong with the rest.

    Example:
        >>> split({"loss": 0.5, "note": "hello"})
        Split(numbers={'loss': 0.5}, deferred={}, bad=[('note', 'str is no number')])
    """
    parts = Split({}, {}, [])
    for key, value in flat_items(metrics):
        if not isinstance(key, str):
            parts.bad.append((_show(key), f"the key is {name_of(key)}, not str"))
            continue
        name = as_utf8(key)
        try:
            parts.numbers[name] = to_number(value)
        except NotReady:
            parts.deferred[name] = value
        except NotANumber as error:
            parts.bad.append((name, str(error)))
    return parts


def _show(key: object) -> str:
    try:
        return repr(key)[:100]
    except Exception:  # noqa: BLE001 - a foreign __repr__ may raise anything
        return f"<{name_of(key)}>"
