"""Images, captured by a copy at the call, converted and compressed later.

Names and formats are MLflow's (`MlflowClient.log_image`): with a key, a PNG and a WebP thumbnail of at most 256
pixels, whose names carry the key, step and time, so that its UI finds them.
"""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from tailrace._artifacts.captured import BadArtifact, BadArtifactType, Frozen, Part, named

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["capture", "capture_cell", "freeze_image", "is_image", "pair"]

LOGGED_IMAGES: Final = "mlflow.loggedImages"
"""The tag by which MLflow's UI knows that there are images."""
THUMBNAIL: Final = 256
"""Pixels of the longer side of a thumbnail."""

# The key becomes a part of a file's name, and MLflow's UI splits that at `+`.
_KEY: Final = re.compile(r"[a-zA-Z0-9_\-./ ]+")
_ARRAY_KINDS: Final = "biuf"


def freeze_image(
    image: Any,
    artifact_file: str | None = None,
    key: str | None = None,
    step: int | None = None,
    timestamp: int | None = None,
) -> Frozen:
    """An image, either as a file or as one of a series.

    Args:
        image: A NumPy array (H x W, or H x W x 1, 3 or 4; bool, integers of 0 to 255, floats of 0 to 1), a
            `PIL.Image.Image` or an `mlflow.Image`.
        artifact_file: Where in the run's artifacts (`"dogs/first.png"`); then nothing of what follows.
        key: The series; letters, digits, `_`, `-`, `.`, `/` and spaces.
        step: Training step, 0 when None.
        timestamp: Milliseconds since the epoch, now when None.

    Raises:
        BadArtifact: Both or neither of `artifact_file` and `key`; a wrong key, type, dtype or shape.

    Example:
        >>> freeze_image(array, key="samples", step=3).tags
        {'mlflow.loggedImages': 'True'}
    """
    if artifact_file is not None and any(given is not None for given in (key, step, timestamp)):
        raise BadArtifactType(
            "The `artifact_file` parameter cannot be used in conjunction with `key`, `step`, or `timestamp`: log_image "
            "takes either a file's name, or the image's key"
        )
    if artifact_file is not None:
        name = named(artifact_file)
        picture = capture(image)
        return Frozen((Part(name, lambda path: picture().save(path)),), {}, _remark(image))
    if key is None:
        raise BadArtifactType("Invalid arguments: Please specify exactly one of `artifact_file` or `key`")
    _check_key(key)
    stem = _series_name(key, step or 0, timestamp or time.time_ns() // 1_000_000)
    files = pair(capture(image), f"{stem}.png", f"{stem}+compressed.webp")
    return Frozen(files, {LOGGED_IMAGES: "True"}, _remark(image))


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise BadArtifact(f"the key of an image may hold letters, digits, '_', '-', '.', '/' and ' ', not {key!r}")


def _series_name(key: str, step: int, timestamp: int) -> str:
    import uuid

    # MLflow's own pattern: its UI reads key, step and time from the name alone.
    return f"images/{key.replace('/', '~')}+step+{step}+timestamp+{timestamp}+{uuid.uuid4()}"


def pair(picture: Callable[[], Any], full: str, thumbnail: str) -> tuple[Part, Part]:
    """The two files that MLflow's UI wants of one image."""
    return (
        Part(full, lambda path: picture().save(path)),
        Part(thumbnail, lambda path: _shrink(picture()).save(path)),
    )


def is_image(value: object) -> bool:
    """Whether MLflow would take this cell of a table for an image (Pillow's, or its own)."""
    return (
        # MLflow's own test; by their classes Pillow would have to be imported.
        callable(getattr(value, "save", None)) and callable(getattr(value, "resize", None)) and hasattr(value, "size")
    )


def capture(image: Any) -> Callable[[], Any]:
    """A copy of an image, and how to get it as Pillow's; converted once, when first needed.

    Raises:
        BadArtifact: It is no image.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(image, numpy.ndarray):
        _check_array(image)
        return _Converted(image.copy())
    if callable(getattr(image, "to_pil", None)):
        image = image.to_pil()
    pillow = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(image, pillow.Image):
        raise BadArtifactType(
            f"Unsupported image object type: {type(image).__name__}. It must be a numpy.ndarray, PIL.Image.Image or "
            "mlflow.Image"
        )
    try:
        # This loads a file that Pillow has only opened, which may be cut short.
        copy = image.copy()
    except OSError as error:
        raise BadArtifact(f"log_image cannot load this image: {error}") from error
    return lambda: copy


def capture_cell(image: Any) -> Callable[[], Any]:
    """The same of a cell that `is_image`: there MLflow takes images of other libraries, too, which save themselves."""
    pillow = sys.modules.get("PIL.Image")
    if callable(getattr(image, "to_pil", None)) or (pillow is not None and isinstance(image, pillow.Image)):
        return capture(image)
    copy = image.copy() if callable(getattr(image, "copy", None)) else image
    return lambda: copy


def _check_array(array: Any) -> None:
    if array.dtype.kind not in _ARRAY_KINDS:
        raise BadArtifactType(f"Invalid array data type: {array.dtype}. An image must be of bool, integers or floats")
    if array.ndim not in (2, 3):
        raise BadArtifact(f"`image` must be a 2D or 3D array, not of shape {array.shape}")
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        raise BadArtifact(f"Invalid channel length: {array.shape[2]}. Must be 1, 3 or 4, not of shape {array.shape}")
    if not array.size:
        raise BadArtifact(f"an image of shape {array.shape} is empty")
    # Most images are of bytes, which fit as they are.
    if array.dtype.kind in "iu" and array.dtype != "uint8" and (array.min() < 0 or array.max() > 255):
        raise BadArtifact(
            f"Integer pixel values out of acceptable range 0 to 255: these are {array.min()} to {array.max()}"
        )


def _remark(image: Any) -> str | None:
    """Of an array of floats beyond 0 to 1, that it will be stretched."""
    kind = getattr(getattr(image, "dtype", None), "kind", None)
    if kind != "f" or (image.min() >= 0 and image.max() <= 1):
        return None
    return f"Float pixel values out of acceptable range 0 to 1: {image.min()} to {image.max()} is stretched to fit"


class _Converted:
    """An array as a Pillow image. Parts of one call are written one after the other, so this needs no lock."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._image: Any = None

    def __call__(self) -> Any:
        if self._image is None:
            import PIL.Image

            # The array is given up: two of an image at a time are enough.
            array, self._array = self._array, None
            self._image = PIL.Image.fromarray(
                _as_bytes(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)
            )
        return self._image


def _as_bytes(array: Any) -> Any:
    """Pixels of 0 to 255."""
    if array.dtype.kind in "iu":
        return array.astype("uint8")
    low, high = array.min(), array.max()
    if low < 0 or high > 1:
        # As MLflow does: floats beyond 0 to 1 are stretched to fit.
        array = (array - low) / (high - low)
    return (array * 255).astype("uint8")


def _shrink(image: Any) -> Any:
    width, height = image.size
    if width > height:
        # At least 1: a strip of 2000 x 3 pixels would have no height.
        return image.resize((THUMBNAIL, max(1, int(height * (THUMBNAIL / width)))))
    return image.resize((max(1, int(width * (THUMBNAIL / height))), THUMBNAIL))
