"""One run from its start to MLflow, with the tailrace that is installed: `python smoke.py [c | python]`.

Run it outside of a checkout, or that is what it tests. The argument says which hot path has to be there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_STEPS = 1000


def main(hot_path: str | None) -> None:
    """Logs a run into a new SQLite store, and reads it back through MLflow."""
    with tempfile.TemporaryDirectory(prefix="tailrace-smoke-") as folder:
        os.environ["TAILRACE_DIR"] = str(Path(folder, "state"))
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        os.chdir(folder)
        import tailrace as sdk
        from tailrace_agent.ipc import native

        found = "python" if native.Log is None else "c"
        if hot_path is not None:
            _expect("the hot path", found, hot_path, native.why_not)
        with sdk.start_run(run_name="smoke") as run:
            sdk.log_params({"lr": 0.1})
            for step in range(_STEPS):
                sdk.log(step=step, loss=1 / (step + 1))
            sdk.log_text("any notes", "notes.txt")
        # The one beside this interpreter: another tailrace may be on the PATH.
        command = Path(sys.executable).with_name("tailrace")
        # On a busy machine MLflow takes longer to create its tables than the end of a run waits.
        subprocess.run([command, "sync", "--wait", "--timeout", "300"], check=True, timeout=330)
        _read_back(run.run_id)
        subprocess.run([command, "doctor"], check=True, stdout=subprocess.DEVNULL, timeout=60)
        print(f"smoke: {Path(sdk.__file__).parent}, log() in {found}: {_STEPS} steps read back")


def _read_back(run_id: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    stored = client.get_run(run_id)
    history = client.get_metric_history(run_id, "loss")
    _expect("the status", stored.info.status, "FINISHED")
    _expect("the params", stored.data.params, {"lr": "0.1"})
    _expect("the artifacts", "notes.txt" in {file.path for file in client.list_artifacts(run_id)}, True)
    _expect("the steps", sorted(metric.step for metric in history), list(range(_STEPS)))
    _expect("the values", {metric.value for metric in history}, {1 / (step + 1) for step in range(_STEPS)})


def _expect(what: str, found: object, wanted: object, why: object = None) -> None:
    if found != wanted:
        sys.exit(f"smoke: {what}: {found!r}, not {wanted!r}" + (f" ({why})" if why else ""))


if __name__ == "__main__":
    main(*(sys.argv[1:] or [None]))
