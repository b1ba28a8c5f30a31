"""`python -m tailrace.training`: what `tailrace train` starts."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from tailrace_agent.errors import SettingsError, TailraceError

if TYPE_CHECKING:
    from tailrace.training.result import TrainingResult

__all__ = ["main"]

_OVERRIDE: Final = "training.model.parameters.max_depth=5"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line, trains, and prints the result. Returns the exit code."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m tailrace.training", description="Trains what a file says.")
    parser.add_argument("config", help="a YAML, TOML or JSON file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values in place of the file's")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    given = parser.parse_intermixed_args(arguments)  # overrides may stand behind options
    code = 1
    try:
        result, code = _trained(given.config, given.overrides), 0
    except KeyboardInterrupt:
        return 130
    except (TailraceError, ImportError) as error:
        result = _failed(str(error))
        code = 2 if isinstance(error, SettingsError) else 1
    except Exception as error:  # noqa: BLE001 - a model may raise anything; the run is FAILED, and this says why
        result = _failed(f"{type(error).__name__}: {error}")
    _show(result, as_json=given.json)
    return code


def _trained(config: str, overrides: list[str]) -> TrainingResult:
    from tailrace.config import read_override
    from tailrace.training.configured.from_config import train_from_config

    return train_from_config(config, overrides=dict(read_override(each, _OVERRIDE) for each in overrides))


def _failed(error: str) -> TrainingResult:
    from tailrace.training.result import TrainingResult

    return TrainingResult(success=False, error=" ".join(error.split()))


def _show(result: TrainingResult, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(asdict(result)), indent=2).decode())  # noqa: T201 - its output
        return
    if not result.success:
        print(f"tailrace: {result.error}", file=sys.stderr)  # noqa: T201
        return
    for name, value in result.items():
        print(f"{name:<24} {value:.5g}")  # noqa: T201
    if result.model_version is not None:
        print(f"{'model_version':<24} {result.model_version}")  # noqa: T201
    if result.run_id is not None:
        print(f"{'run_id':<24} {result.run_id}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
