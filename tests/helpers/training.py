"""What the tests of training share: small data, small models, and a tracker that keeps nothing but a list."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

FEATURES = 4
CLASSES = 3


def blobs(samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three clouds that a line can tell apart; inputs of shape (samples, 4), classes of shape (samples,)."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(CLASSES, (samples,), generator=generator)
    centres = torch.eye(CLASSES, FEATURES) * 4
    return centres[classes] + torch.randn(samples, FEATURES, generator=generator), classes


def loader(samples: int = 48, batch: int = 8, *, seed: int = 0, **arguments: Any) -> DataLoader[Any]:
    """A loader of blobs."""
    return DataLoader(TensorDataset(*blobs(samples, seed)), batch, **arguments)


def classifier() -> nn.Module:
    """A small model with the same weights every time."""
    generator_state = torch.get_rng_state()
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, CLASSES))
    torch.set_rng_state(generator_state)
    return model


class ListTracker:
    """All that `TrackerLike` asks for, and nothing more; it keeps what it is given."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.logged: list[tuple[int | None, dict[str, Any]]] = []
        self.params: dict[str, Any] = {}
        self.tags: dict[str, Any] = {}
        self.files: list[str] = []
        self.errors: list[BaseException] = []

    @contextlib.contextmanager
    def start_run(
        self, *, run_name: str | None = None, nested: bool = False, tags: Mapping[str, Any] | None = None
    ) -> Iterator[None]:
        self.runs.append(run_name or "unnamed")
        try:
            yield None
        except BaseException as error:
            self.errors.append(error)
            raise

    def end_run(self, status: Any = "FINISHED") -> None:
        self.runs.append(status)

    def log(self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, **values: Any) -> None:
        self.logged.append((step, {**(metrics or {}), **values}))

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.params.update(params)

    def log_config(self, config: Any) -> None:
        self.params.update(config)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self.tags.update(tags)

    def log_figure(self, figure: Any, artifact_file: str) -> None:
        self.files.append(artifact_file)

    def log_artifact(self, local_path: Any, artifact_path: str | None = None) -> None:
        name = str(local_path).rpartition("/")[2]
        self.files.append(f"{artifact_path}/{name}" if artifact_path else name)

    def of(self, key: str) -> list[tuple[int | None, Any]]:
        """`(step, value)` of each call with that metric."""
        return [(step, values[key]) for step, values in self.logged if key in values]
