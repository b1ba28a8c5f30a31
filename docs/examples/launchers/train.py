"""A program of several processes, which are one run whoever starts them: torchrun, srun, mpirun, Kubernetes."""

from __future__ import annotations

import os
import time

import tailrace as sdk

STEPS = int(os.environ.get("STEPS", "100"))

with sdk.start_run(run_name="launched", params={"lr": 0.1}):  # in every process
    for step in range(STEPS):
        began = time.perf_counter()
        loss = 1.0 / (step + 1)  # here stands the step of the training
        time.sleep(0.01)
        # Rank 0's loss goes to MLflow; of the batch times the mean and the extremes of all, and who is the slowest.
        sdk.log({"train/loss": loss, "train/batch_time_seconds": time.perf_counter() - began}, step=step)
