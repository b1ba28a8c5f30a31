"""What does `import tailrace` add to the start of a program?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

from bench import Bench
from figures import Figure, Samples, interleave, judged, shown, timed

_HEAVY = frozenset(
    {"asyncio", "click", "importlib.metadata", "matplotlib", "mlflow", "multiprocessing", "numpy", "pandas", "PIL"}
    | {"platformdirs", "psutil", "pynvml", "requests", "rich", "sklearn", "sqlalchemy", "structlog", "tomllib", "torch"}
)


def _runs(bench: Bench, statement: str) -> Callable[[], float]:
    def run() -> float:
        command = [sys.executable, "-c", statement]
        return timed(lambda: subprocess.run(command, check=True, env=bench.environment(), cwd=bench.dir))

    return run


def _modules(bench: Bench, statement: str) -> set[str]:
    command = [sys.executable, "-c", f"{statement}\nimport sys, json\nprint(json.dumps(list(sys.modules)))"]
    done = subprocess.run(command, check=True, env=bench.environment(), cwd=bench.dir, capture_output=True)
    return set(json.loads(done.stdout))


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    arms = {"bare": _runs(bench, "pass"), "tailrace": _runs(bench, "import tailrace")}
    # Warms up the disk's cache and the .pyc files.
    interleave(3, arms)
    found = interleave(bench.scale(50, 10), arms)
    bare = Samples(found["bare"])
    yield judged(
        "import tailrace, over bare Python",
        Samples(ours - theirs for ours, theirs in zip(found["tailrace"], found["bare"], strict=True)),
        most=0.080,
        note=f"bare: {bare.median * 1e3:.1f} ms; wall time of whole interpreters",
    )
    added = _modules(bench, "import tailrace") - _modules(bench, "pass")
    heavy = sorted(name for name in added if name in _HEAVY or name.split(".")[0] in _HEAVY)
    yield Figure(
        "… heavy modules loaded",
        "none",
        ", ".join(heavy) or "none",
        not heavy,
        f"{len(added)} modules in all",
        data={"heavy": heavy, "modules": sorted(added)},
    )
    mlflow = interleave(bench.scale(5, 1), {"mlflow": _runs(bench, "import mlflow")})["mlflow"]
    yield shown("beside it: import mlflow", Samples(seconds - bare.median for seconds in mlflow))
