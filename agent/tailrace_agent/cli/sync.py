"""`tailrace sync`: delivers what is left of sessions, in the foreground."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import click

from tailrace_agent.cli._app import App, Code, as_json, count, json_option, leave, quieten_mlflow, uri_option
from tailrace_agent.errors import SessionError

if TYPE_CHECKING:
    from tailrace_agent.cli._deliver import Patience, Result
    from tailrace_agent.cli._progress import Progress
    from tailrace_agent.ipc.session import Session
    from tailrace_agent.ipc.survey import Unreadable
    from tailrace_agent.settings.settings import Settings

__all__ = ["command", "deliver", "report"]


@click.command("sync")
@click.argument("sessions", nargs=-1, metavar="[SESSION]...")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Give up after so long in all. By default it goes on, but not for more than a minute without any progress.",
)
@uri_option("Send it there instead: for runs whose store was refused, has moved, or is lost.")
@click.option("--force", is_flag=True, help="Also sessions of another host, if you know that they are dead.")
@click.option("--wait", is_flag=True, help="Also wait for live agents: the last line of a CI job.")
@json_option
@click.pass_obj
def command(
    app: App,
    sessions: tuple[str, ...],
    timeout: float | None,
    tracking_uri: str | None,
    force: bool,
    wait: bool,
    json_: bool,
) -> None:
    """Deliver what is left of sessions: after a crash, a reboot, or days without a server.

    Without SESSION: every session for which `tailrace status` ends with 1. What nobody delivers is delivered; where a
    live agent is held up, it is watched for a while, and what holds it up is said. SESSION is an id from `tailrace
    status`, or the end of it after the last dash. Where a live agent is at work, its progress is shown until it has
    delivered what was there at the call.

    --wait takes in every session of this machine that is not finished: after it, nothing is on its way any more.

    --tracking-uri changes the destination for good, once the program has ended. Where that store knows the run already
    (it has moved), the run goes on there; otherwise it begins anew with what is left.

    --force takes over a session of another host from a shared home directory. What is still in that host's shared
    memory is not reachable from here.

    Exit codes: 0 all is delivered; 1 something is left, or there are dead letters from before; 3 a store cannot be
    reached, or refuses; 4 no such session.
    """
    quieten_mlflow()
    from tailrace_agent.cli._deliver import Patience
    from tailrace_agent.cli._look import find_session
    from tailrace_agent.cli._progress import Progress
    from tailrace_agent.ipc.session import Session
    from tailrace_agent.ipc.survey import Unreadable, survey

    settings = app.settings()
    there = list(survey(settings))
    results, mended = _mend([each for each in there if isinstance(each, Unreadable)], settings, sessions, force=force)
    unreadable = [result.session for result in results]
    wanted = [text for text in sessions if not any(name.endswith(text) for name in unreadable)]
    if sessions:
        chosen = [find_session(settings, text) for text in wanted]
    else:
        readable = [each for each in there if isinstance(each, Session)]
        chosen = [each for each in [*readable, *mended] if _is_left(each, force=force, wait=wait)]
    with Progress(quiet=json_) as progress:
        for result in results:
            report(result, progress)
        for session in chosen:
            result = _try(session, settings, progress, Patience(timeout), tracking_uri, force=force, wait=wait)
            report(result, progress)
            results.append(result)
    if json_:
        as_json({"sessions": results})
    elif not results:
        click.echo(f"nothing is left over: all is delivered{'' if wait else ', or on its way'}")
    # The largest: a store that is away (3) outweighs what is left (1).
    leave(max((result.code for result in results), default=Code.FINE))


def _try(session: Session, *args: Any, **options: Any) -> Result:
    """As `deliver`, whatever is wrong with the session: others come after it."""
    from tailrace_agent.cli._deliver import Result
    from tailrace_agent.ipc.finished import set_aside
    from tailrace_agent.ipc.stored import UNREADABLE
    from tailrace_agent.ipc.survey import mend_for

    try:
        result = deliver(session, *args, **options)
        if lost := [str(found) for found in set_aside(session)]:
            result.reasons, result.code = [*result.reasons, *lost], max(result.code, Code.WRONG)
        return result
    except (SessionError, sqlite3.Error, OSError, *UNREADABLE) as error:
        mend = mend_for(session.dir)
        reasons = [str(error), *([f"→ {mend}"] if mend else [])]
        return Result(session=session.id, outcome="skipped", reasons=reasons, code=Code.WRONG)


def _mend(
    unreadable: list[Unreadable], settings: Settings, names: tuple[str, ...], *, force: bool
) -> tuple[list[Result], list[Session]]:
    """Makes sessions of what has lost its `session.json`; what is left unreadable, and those sessions."""
    from tailrace_agent.cli._deliver import Result
    from tailrace_agent.files.ownership import is_private
    from tailrace_agent.ipc.survey import mended, shared_of

    left, whole = [], []
    for found in unreadable:
        if names and not any(found.name.endswith(name) for name in names):
            continue
        reasons = [f"it {found.problem}", f"→ {found.mend}"]
        # Its shared memory is here, so it is of this host; without it only the user can know that.
        if found.ours and (force or is_private(shared_of(found.path, settings))):
            try:
                whole.append(mended(found, settings))
                continue
            except OSError as error:
                reasons = [f"it {found.problem}, and cannot be written anew: {error}"]
        left.append(Result(session=found.name, outcome="skipped", reasons=reasons, code=Code.WRONG))
    return left, whole


def deliver(
    session: Session,
    settings: Settings,
    progress: Progress,
    patience: Patience,
    tracking_uri: str | None = None,
    *,
    force: bool = False,
    wait: bool = False,
) -> Result:
    """Delivers one session, or waits for the agent that does. `tracking_uri` moves its runs there first."""
    from tailrace_agent.cli._credentials import known_credentials
    from tailrace_agent.cli._deliver import Foreground, Result
    from tailrace_agent.cli._holding import relieve, take_over
    from tailrace_agent.cli._look import look
    from tailrace_agent.cli._watching import wait_for_agent

    progress.begin(f"{session.id.rpartition('-')[2]} {session.info.program}")
    if session.elsewhere and not force:
        host = session.info.hostname
        reason = f"it belongs to the host {host}; run `tailrace sync` there, or add --force if nothing of it lives"
        return Result(session=session.id, outcome="skipped", reasons=[reason], code=Code.WRONG)
    if (session.dir / "finished").exists():
        dead = look(session).dead
        return Result(session=session.id, outcome="delivered", dead=dead, code=Code.WRONG if dead else Code.FINE)
    lock = relieve(session) if tracking_uri is not None or _locked_out(session) else take_over(session)
    if lock is None and tracking_uri is not None:
        reason = "it is live: its destination can be changed when its program has ended"
        return Result(session=session.id, outcome="skipped", reasons=[reason], code=Code.BUSY)
    # The agent may leave, or die, while it is watched: then the rest is ours to deliver.
    while lock is None:
        result = wait_for_agent(session, progress.tick, patience, wait=wait)
        if result is not None:
            return result
        lock = take_over(session)
    credentials = known_credentials(settings, tracking_uri)
    if tracking_uri is not None:
        from tailrace_agent.cli._move import move

        credentials.update(move(session, lock, tracking_uri, credentials, progress.print_line))
    return Foreground(session, lock, credentials).run(progress.tick, patience)


def report(result: Result, progress: Progress) -> None:
    """What became of one session, in a line or a few."""
    name, delivered = result.session, count(result.delivered, "entry", "entries")
    if result.outcome == "delivered":
        dead = f"; {count(result.dead, 'dead letter')} (`tailrace dead list`)" if result.dead else ""
        dead += f"; {result.dropped:,} dropped (`tailrace status`)" if result.dropped else ""
        left = "but something was lost before" if result.reasons else "nothing is left"
        progress.print_line(f"{name}: {delivered} delivered, {left}{dead}", "yellow" if result.reasons else "green")
        for reason in result.reasons:
            progress.print_line(reason, "yellow", indent=2)
        if result.reasons:
            mend = f"`tailrace clean --discard-undelivered` deletes it, and {name}, when you have looked"
            progress.print_line(mend, "dim", indent=2)
        return
    words = {
        "left": "not all is delivered",
        "unreachable": "the store cannot be reached",
        "refused": "the store cannot be used",
        "skipped": "left alone",
    }
    left = "" if result.outcome == "skipped" else f" ({delivered} delivered, {result.pending:,} left)"
    progress.print_line(f"{name}: {words[result.outcome]}{left}", "yellow")
    for reason in result.reasons:
        progress.print_line(reason, "yellow", indent=2)
    if result.outcome in ("refused", "unreachable"):
        mend = f"to send it elsewhere: tailrace sync {name.rpartition('-')[2]} --tracking-uri URI"
        progress.print_line(mend, "dim", indent=2)


def _is_left(session: Session, *, force: bool, wait: bool) -> bool:
    """Whether the session is to be dealt with where none was named."""
    from tailrace_agent.cli._look import glance

    wanted = force if session.elsewhere else wait
    view = glance(session)
    return view.needs_you or (wanted and view.state != "finished")


def _locked_out(session: Session) -> bool:
    """Whether an agent that has outlived its programs lacks what this command may have: a password, trust, or room."""
    from tailrace_agent.cli._look import look, statuses
    from tailrace_agent.ipc import status

    view = look(session)
    if view.state != "live" or view.trainer_alive:
        return False
    agent = status.read(session.shared / "agent.status", status.AgentStatus)
    stuck = agent is not None and agent.problem is not None
    return stuck or any(run.lacks for run in statuses(session))
