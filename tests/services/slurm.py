"""A Slurm of the tests' own: a controller and two nodes on this machine, with Debian's programs, nothing kept."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers.sdk_tools import eventually
from helpers.serving import free_port
from services.missing import missing

__all__ = ["slurm"]

_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}/socket
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
    if not all(map(shutil.which, ("slurmctld", "slurmd", "srun", "munged"))):
        missing("Slurm is missing; on Debian: apt install slurmctld slurmd slurm-client munge")
    if os.getuid() != 0:
        missing("Slurm's daemons run as root")
    for name in ("state", "spool-n0", "spool-n1"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    ports = [free_port() for _ in range(3)]
    with _munge() as munge:
        conf.write_text(_CONF.format(folder=folder, munge=munge, host=socket.gethostname(), ports=ports))
        with _daemons(folder, conf):
            yield {"SLURM_CONF": str(conf)}


@contextmanager
def _munge() -> Iterator[str]:
    """The service by which Slurm's daemons know each other; its folder, of a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="munge-") as folder:
        key = Path(folder, "key")
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        files = [f"--{kind}-file={folder}/{kind}" for kind in ("key", "log", "pid", "seed")]
        # --force: the folder is nobody else's, who could not use the socket then.
        daemon = subprocess.Popen(
            ["munged", "--force", "--foreground", f"--socket={folder}/socket", *files],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            eventually(lambda: daemon.poll() is not None or Path(folder, "socket").exists())
            if daemon.poll() is not None:
                missing(f"munged does not run here: {Path(folder, 'log').read_text()}")
            yield folder
        finally:
            daemon.terminate()
            daemon.wait(_DEADLINE)


@contextmanager
def _daemons(folder: Path, conf: Path) -> Iterator[None]:
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
        yield
    finally:
        for pid in folder.glob("*.pid"):
            with suppress(OSError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGTERM)
