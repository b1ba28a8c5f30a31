"""Checks of the machine: directories, shared memory, locks, processes, clock. Each has a finding and the mend."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from tailrace_agent.cli._app import duration, own_version, size
from tailrace_agent.hosts.spawn import can_spawn
from tailrace_agent.ipc import native
from tailrace_agent.ipc.session import make_sessions_root, sessions_root, shared_root
from tailrace_agent.runtime import interpreter
from tailrace_agent.settings.settings import Settings, state_dir
from tailrace_agent.spool.store import Spool

__all__ = ["Check", "clock", "copies", "file_system", "processes", "program", "shared_memory", "state"]

_NETWORK: Final = ("nfs", "lustre", "cifs", "smb", "gpfs", "beegfs", "ceph", "afs", "fuse.sshfs", "glusterfs", "9p")
_LITTLE: Final = 64 << 20  # bytes
_SOME: Final = 1 << 30  # bytes
_SLOW_COMMIT: Final = 0.2  # seconds; a commit waits for the disk each 0.4 s
_EPOCH: Final = 1735689600  # 2025-01-01: before tailrace
_FICLONE: Final = 0x40049409  # of linux/fs.h; Python has no name for it
_TRY_LOCK: Final = """
import fcntl
try:
    fcntl.lockf(open(sys.argv[1], "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("held")
"""


class Check(msgspec.Struct, kw_only=True):
    """What a check found, and what to do about it."""

    name: str
    result: Literal["ok", "warn", "fail"]
    text: str
    mend: str | None = None


def program() -> Check:
    """What runs here."""
    import sqlite3

    python = ".".join(map(str, sys.version_info[:3]))
    return Check(
        name="program", result="ok", text=f"tailrace {own_version()}, Python {python}, SQLite {sqlite3.sqlite_version}"
    )


def hot_path() -> Check:
    """Whether `log()` is the one in C."""
    name, reason = "hot path", native.why_not
    if reason is None:
        return Check(name=name, result="ok", text="log() is compiled")
    text = f"log() is not compiled, and takes two to five times as long ({reason})"
    mend = "install a C compiler and Python's headers, then tailrace again; or a wheel that was built for this Python"
    return Check(name=name, result="warn", text=text, mend=mend)


def state(settings: Settings) -> list[Check]:
    """The state directory: writable, on what, with how much room, and whether a spool works there."""
    root = sessions_root(settings)
    mend = "set TAILRACE_DIR (or --dir) to a directory that you can write to, on a local disk"
    try:
        make_sessions_root(settings)
        # A real spool, since what SQLite needs of a file system shows only with SQLite.
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=state_dir(settings)) as probe:
            spool = Spool(Path(probe, "spool.db"))
            began = time.monotonic()
            spool.ingest([], [(1, "metric", "accepted", 1)], sync=True)
            took = time.monotonic() - began
            spool.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return [Check(name="state directory", result="fail", text=f"{root} cannot be used: {error}", mend=mend)]
    kind, free = file_system(root), shutil.disk_usage(root).free
    text = f"{root} ({kind}, {size(free)} free), a spool commits to disk in {1000 * took:.1f} ms"
    found = Check(name="state directory", result="ok", text=text)
    if free < _SOME:
        found.result = "fail" if free < _LITTLE else "warn"
        found.mend = "free some space, or set TAILRACE_DIR to a larger disk: what waits for MLflow is kept there"
    elif took > _SLOW_COMMIT:
        found.result, found.mend = "warn", "a slow disk: metrics are safe from a power cut that much later"
    checks = [found]
    if any(kind.startswith(network) for network in _NETWORK):
        checks.append(
            Check(
                name="network file system",
                result="warn",
                text=f"the state directory is on {kind}. It works: each spool has one owner and locks exclusively, and "
                "the locks that say who lives are in shared memory",
                mend="a local TAILRACE_DIR is faster, and does not depend on the network",
            )
        )
    return checks


def shared_memory(settings: Settings) -> list[Check]:
    """Where the rings go: room, kind, and whether both kinds of lock work there."""
    where = shared_root(settings)
    name = "shared memory"
    try:
        with tempfile.NamedTemporaryFile(prefix="tailrace-doctor-", dir=where) as probe:
            locks = _locks(Path(probe.name))
    except OSError as error:
        text = f"{where} cannot be written to: {error.strerror}"
        return [
            Check(name=name, result="fail", text=text, mend="set TAILRACE_RING_DIR to a tmpfs that you can write to")
        ]
    kind, free = file_system(where), shutil.disk_usage(where).free
    found = Check(name=name, result="ok", text=f"{where} ({kind}, {size(free)} free)")
    if kind not in ("tmpfs", "ramfs"):
        found.result = "warn"
        found.mend = "rings on a disk can make log() wait for it: mount a tmpfs at /dev/shm, or set TAILRACE_RING_DIR"
    # A ring takes a sixteenth of what is free, and is not made smaller than 64 KiB: see `Session.new_ring`.
    elif free // 16 < settings.ring_bytes:
        found.result = "fail" if free // 16 < 64 << 10 else "warn"
        ring = size(max(64 << 10, free // 16))
        found.text += f": a ring gets {ring} instead of {size(settings.ring_bytes)}"
        found.mend = "in a container, give it more: docker run --shm-size=1g"
    return [found, locks]


def processes(settings: Settings) -> Check:
    """Whether an agent process can be started."""
    name = "agent"
    if settings.agent != "process":
        return Check(name=name, result="ok", text=f"the setting agent is {settings.agent!r}: no process is needed")
    mend = "delivery falls back to a thread of the trainer; set TAILRACE_AGENT=thread to silence the warning"
    if not can_spawn():
        return Check(name=name, result="warn", text="this interpreter cannot start itself", mend=mend)
    began = time.monotonic()
    try:
        subprocess.run(
            interpreter.command(""), env=interpreter.environment(), check=True, capture_output=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Check(name=name, result="warn", text=f"no process can be started: {error}", mend=mend)
    took = 1000 * (time.monotonic() - began)
    return Check(name=name, result="ok", text=f"a process of its own can be started ({took:.0f} ms)")


def copies(settings: Settings) -> Check:
    """Whether artifacts can be snapshotted without copying."""
    here = Path.cwd()
    with suppress(OSError), tempfile.NamedTemporaryFile(prefix=".tailrace-doctor-", dir=here) as source:
        source.write(b"tailrace" * 1024)
        source.flush()
        with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=state_dir(settings)) as target:
            try:
                fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
                return Check(name="artifacts", result="ok", text="snapshots cost nothing here (reflink)")
            except OSError:
                text = f"no reflink from {here} to the state directory: snapshots are real copies"
                return Check(name="artifacts", result="ok", text=text)
    return Check(name="artifacts", result="ok", text=f"{here} is not writable; snapshots are real copies")


def clock(settings: Settings) -> Check:
    """Whether the clock can be believed, and agrees with the state directory's file server."""
    mend = "set the clock (timedatectl set-ntp true): MLflow's charts use the time of each call"
    if time.time() < _EPOCH:
        return Check(name="clock", result="fail", text=f"it says {time.strftime('%Y-%m-%d')}", mend=mend)
    with suppress(OSError), tempfile.NamedTemporaryFile(prefix=".doctor-", dir=state_dir(settings)) as probe:
        os.utime(probe.fileno())
        skew = abs(os.fstat(probe.fileno()).st_mtime - time.time())  # a file server stamps by its own clock
        if skew > 2:
            text = f"it differs by {duration(skew)} from that of the state directory's file server"
            return Check(name="clock", result="warn", text=text, mend=mend)
    return Check(name="clock", result="ok", text=time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def file_system(path: Path) -> str:
    """The type of the file system that a path is on."""
    import psutil

    path = path.resolve()
    best, kind = 0, "unknown file system"
    for partition in psutil.disk_partitions(all=True):
        mounted = Path(partition.mountpoint)
        if path.is_relative_to(mounted) and len(mounted.parts) >= best:  # of equals the later mount lies on top
            best, kind = len(mounted.parts), partition.fstype
    return kind


def _locks(probe: Path) -> Check:
    """`flock` between two descriptors of one process, record locks between two processes."""
    with probe.open("r+b") as first, probe.open("r+b") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flocks = False
        except OSError:
            flocks = True
    with probe.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        # In another process: within one, record locks never hold each other off.
        tried = subprocess.run(
            interpreter.command(_TRY_LOCK, str(probe)),
            env=interpreter.environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    if flocks and "held" in tried.stdout:
        return Check(name="locks", result="ok", text=f"flock and record locks work in {probe.parent}")
    text = f"{'record locks do' if flocks else 'flock does'} not work in {probe.parent}: who lives cannot be told"
    return Check(name="locks", result="fail", text=text, mend="set TAILRACE_RING_DIR to a local tmpfs")
