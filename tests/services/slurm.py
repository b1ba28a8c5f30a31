"""A Slurm of the tests' own: a controller and two nodes on this machine, with Debian's programs, nothing kept."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers.serving import free_port
from services.missing import missing

__all__ = ["slurm"]

_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPort={ports[0]}
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 State=UNKNOWN
PartitionName=all Nodes=n[0-1] Default=YES State=UP OverSubscribe=FORCE
"""
_DEADLINE = 60.0


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """While the block lasts; the variables by which `srun` and `sbatch` find it."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "srun", "munge"))):
        missing("Slurm is missing; on Debian: apt install slurmctld slurmd slurm-client munge")
    if os.getuid() != 0:
        missing("Slurm's daemons run as root")
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode:
        missing("munge does not run; on Debian: service munge start")
    for name in ("state", "spool-n0", "spool-n1"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    ports = [free_port() for _ in range(3)]
    conf.write_text(_CONF.format(folder=folder, host=socket.gethostname(), ports=ports))
    environ = {"SLURM_CONF": str(conf)}
    try:
        subprocess.run(["slurmctld", "-f", str(conf)], check=True, timeout=_DEADLINE)
        for node in ("n0", "n1"):
            subprocess.run(["slurmd", "-N", node, "-f", str(conf)], check=True, timeout=_DEADLINE)
        deadline = time.monotonic() + _DEADLINE
        while (
            b"idle"
            not in subprocess.run(
                ["sinfo", "-h", "-o", "%T"], env=os.environ | environ, capture_output=True, check=False
            ).stdout
        ):
            if time.monotonic() > deadline:
                missing("Slurm's nodes do not come up here")
            time.sleep(0.2)
        yield environ
    finally:
        for pid in folder.glob("*.pid"):
            with suppress(OSError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGTERM)
