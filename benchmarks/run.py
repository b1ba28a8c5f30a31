"""Runs the benchmarks and compares with the targets: `make bench`, or `python benchmarks/run.py --help`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import Bench
from figures import Figure

_QUESTIONS = (
    "tight_loop",
    "between_steps",
    "versus_mlflow",
    "import_time",
    "start_away",
    "artifact",
    "console",
    "delivery_rate",
    "server",
    "lag",
    "memory",
    "monitor",
    "scale",
    "ranks",
    "large_run",
    "reading",
    "trainer",
    "search",
    "frameworks",
    "gpu",
    "rivals",
)
_VERDICTS = {True: "[green]met[/]", False: "[bold red]MISSED[/]", None: "[dim]-[/]"}


def main() -> int:
    """Exit status: 0 when every target is met, 1 when one is missed or unclear, 2 when one could not be measured."""
    options = _options()
    if options.list:
        for name in _QUESTIONS:
            print(f"{name:15} {(importlib.import_module(name).__doc__ or '').splitlines()[0]}")
        return 0
    rivals = None
    if options.rivals:
        import rivals as others

        rivals, failed = others.install()
        for package in failed:
            print(f"{package} could not be installed and is left out")
    machine = _machine()
    if machine["load"] > 0.3 * machine["cores"]:
        print(f"The machine is busy (load {machine['load']:.1f}): these figures are not for quoting.")
    with Bench(quick=options.quick, rivals=rivals, points=options.points) as bench:
        figures = [figure for name in options.only or _QUESTIONS for figure in _ask(bench, name)]
    machine["load_after"] = os.getloadavg()[0]
    _show(figures, machine, quick=options.quick)
    if options.json:
        report = {"machine": machine, "quick": options.quick, "figures": [asdict(figure) for figure in figures]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if any(figure.measured == "error" for figure in figures):
        return 2
    return int(any(figure.met is False or figure.unclear for figure in figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=_QUESTIONS, metavar="NAME", help="these questions alone")
    parser.add_argument("--quick", action="store_true", help="few repetitions: shows that it works, proves nothing")
    parser.add_argument("--rivals", action="store_true", help="install other trackers into a venv, measure them too")
    parser.add_argument("--points", type=int, metavar="N", help="how many the large run has (100000000: half an hour)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures with their spread")
    parser.add_argument("--list", action="store_true", help="list the questions")
    return parser.parse_args()


def _ask(bench: Bench, name: str) -> list[Figure]:
    """A question's figures; one that fails is reported and does not keep the others from being asked."""
    began = time.monotonic()
    print(f"{name} …", flush=True)
    figures: list[Figure] = []
    try:
        for figure in importlib.import_module(name).measure(bench):
            figures.append(figure)
            print(f"  {figure.what}: {figure.measured}{f' ({figure.note})' if figure.note else ''}", flush=True)
    except Exception as error:  # noqa: BLE001 - whatever happened, the other figures are wanted
        print(f"\n{error}", file=sys.stderr)
        figures.append(Figure(name, "", "error", False, str(error).strip().splitlines()[-1]))
    for figure in figures:
        figure.question = name
    print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return figures


def _machine() -> dict[str, Any]:
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "mlflow": version("mlflow"),
        "tailrace": version("tailrace"),
        "load": os.getloadavg()[0],
        "at": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _show(figures: list[Figure], machine: dict[str, Any], *, quick: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    # In a file rich would take 80 columns, and cut the table.
    wide = Console() if sys.stdout.isatty() else Console(width=200)
    title = "Figures (quick: not for quoting)" if quick else "Figures"
    table = Table(title=title, title_justify="left", show_lines=False)
    table.add_column("what", ratio=5)
    table.add_column("target", no_wrap=True)
    table.add_column("measured  [p10 … p90]", ratio=4)
    table.add_column("verdict", no_wrap=True)
    table.add_column("beside it", ratio=6, style="dim")
    for before, figure in zip([None, *figures], figures, strict=False):
        if before is not None and before.question != figure.question:
            table.add_section()
        verdict = "[yellow]unclear[/]" if figure.unclear else _VERDICTS[figure.met]
        table.add_row(figure.what, figure.target, figure.measured.replace("[", r"\["), verdict, figure.note)
    wide.print(table)
    judged = [figure for figure in figures if figure.met is not None]
    missed = [figure for figure in judged if not figure.met or figure.unclear]
    wide.print(", ".join(f"{key} {value}" for key, value in machine.items()), style="dim", highlight=False)
    wide.print(f"{len(judged) - len(missed)} of {len(judged)} targets met.")


if __name__ == "__main__":
    sys.exit(main())
