"""What happens to a job on several nodes, written down or drawn from a seed, and how its run ends then."""

from __future__ import annotations

import random
from collections.abc import Callable

from simulation.cluster import Cluster
from tailrace_agent.runtime.processes import Fate
from tailrace_agent.spool.store import Spool

__all__ = ["SCENARIOS", "delivered", "drawn"]


def delivered(cluster: Cluster) -> int:
    """Rows in the store, as the spools of all sessions count them; each ledger adds up."""
    rows = 0
    for node in cluster.nodes:
        for session in node.sessions:
            spool = Spool(session.dir / "spool.db")
            try:
                for state in spool.runs():
                    metric = spool.counts.ledger(state).of("metric")
                    assert metric.pending == metric.dead == 0, (node.index, metric)
                    assert set(metric.dropped) <= {"after its step's statistics"}, metric.dropped
                    assert metric.accepted == metric.delivered + sum(metric.dropped.values())
                    rows += metric.delivered - metric.merged
            finally:
                spool.close()
    return rows


def well(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    cluster.start(list(range(machines)), ranks)
    cluster.train(5)
    cluster.finish()
    return ("FINISHED",)


def first_joiner_killed(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    first = cluster.start([*range(machines)], ranks, between=0.01)[0]
    first.die(Fate(signal=9))
    cluster.train(2)
    cluster.fall()
    cluster.pass_time(1.0)
    cluster.start([*range(machines)], ranks, attempt=1)
    cluster.train(3)
    cluster.finish()
    return ("FINISHED",)


def first_joiner_killed_for_good(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    first = cluster.start([*range(machines)], ranks, between=0.01)[0]
    cluster.train(2)
    first.die(Fate(signal=9))
    cluster.pass_time(0.2)
    for node in cluster.nodes:
        node.end_launcher(Fate(code=1))
    return ("KILLED", "FAILED")


def agent_of_rank_zero_killed(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    node = cluster.node(0)
    node.arm("open_run", 0, "after")
    node.arm("log_batch", 1, "before")
    node.arm("log_batch", 3, "after")
    node.arm("end_run", 0, "after")
    cluster.start([*range(machines)], ranks)
    cluster.train(5, every=1.0)
    node.kill_agent()
    cluster.train(5, every=1.0)
    cluster.finish()
    return ("FINISHED",)


def wrapper_killed(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    cluster.start([*range(machines)], ranks)
    cluster.train(3)
    cluster.node(0).kill_wrapper()
    cluster.train(3)
    cluster.finish()
    return ("FINISHED",)


def all_of_rank_zeros_node_killed(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    cluster.start([*range(machines)], ranks)
    cluster.train(3)
    node = cluster.node(0)
    node.kill_wrapper()
    for rank in node.living:
        rank.die(Fate(signal=9))
    node.end_launcher(Fate(signal=9))
    cluster.pass_time(1.0)
    for node in cluster.nodes:
        node.end_launcher(Fate(code=1))
    return ("KILLED", "FAILED")


def late_node(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    cluster.start([*range(machines)], ranks, late={machines - 1: 300.0, 0: 60.0})
    cluster.train(3)
    cluster.finish()
    return ("FINISHED",)


def other_world_size(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    """A node is lost, the others go on in fewer, and rank 0 is on another one than before."""
    cluster.start([*range(machines)], ranks)
    cluster.train(3)
    lost = cluster.node(0)
    for rank in lost.living:
        rank.die(Fate(signal=9))
    lost.end_launcher(Fate(signal=9))
    cluster.fall()
    cluster.pass_time(8.0)
    cluster.start([*range(1, machines)][::-1], ranks, attempt=1)
    cluster.train(3, every=1.0)
    cluster.finish()
    return ("FINISHED",)


def lost_node_comes_back(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    """The same, and the agent of the lost node is gone, too: `tailrace sync` there comes when all is over."""
    cluster.start([*range(machines)], ranks)
    cluster.train(3)
    lost = cluster.node(0)
    lost.kill_agent()
    for rank in lost.living:
        rank.die(Fate(signal=9))
    lost.end_launcher(Fate(signal=9))
    lost.restart_at = cluster.clock.now + 300.0
    cluster.fall()
    cluster.start([*range(1, machines)][::-1], ranks, attempt=1)
    cluster.train(3, every=1.0)
    cluster.finish()
    cluster.pass_time(400.0)
    return ("FINISHED",)


def more_nodes(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    """Slurm's requeue: on other machines, and more of them; the first ones are over by then."""
    cluster.start([*range(1, machines)], ranks)
    cluster.train(3)
    cluster.fall()
    for node in cluster.nodes:
        node.end_launcher(Fate(signal=15))
    cluster.pass_time(30.0)
    cluster.start([*range(machines)], ranks, attempt=1)
    cluster.train(3)
    cluster.finish()
    return ("FINISHED",)


def server_away_for_the_whole_start(cluster: Cluster, machines: int, ranks: int) -> tuple[str, ...]:
    cluster.down = True
    cluster.start([*range(machines)], ranks, between=0.05)
    cluster.train(5, every=5.0)
    cluster.node(0).kill_agent()
    cluster.pass_time(60.0)
    cluster.down = False
    cluster.train(5)
    cluster.finish()
    return ("FINISHED",)


SCENARIOS: dict[str, tuple[Callable[..., tuple[str, ...]], bool]] = {
    "all goes well": (well, False),
    "all goes well behind a wrapper": (well, True),
    "the first joiner is killed, and all start anew": (first_joiner_killed, False),
    "the first joiner is killed": (first_joiner_killed_for_good, False),
    "the agent of rank 0's node is killed": (agent_of_rank_zero_killed, False),
    "the wrapper is killed": (wrapper_killed, True),
    "all of rank 0's node is killed": (all_of_rank_zeros_node_killed, True),
    "all start anew on fewer nodes": (other_world_size, False),
    "rank 0's node is lost, and comes back when all is over": (lost_node_comes_back, False),
    "all start anew on more nodes, when the first ones have left": (more_nodes, False),
    "a node is late by minutes": (late_node, False),
    "the server is away for the whole start": (server_away_for_the_whole_start, False),
}


def drawn(cluster: Cluster, rng: random.Random) -> tuple[str, ...]:
    """A job with anything that may happen to it, and how it ends."""
    machines = [*range(rng.randint(2, 5))]
    for attempt in range(rng.randint(1, 3)):
        if attempt:
            _start_anew(cluster, rng, machines)
        _arm(cluster, rng, machines)
        cluster.down = rng.random() < 0.2
        late = {rng.choice(machines): rng.choice((5.0, 90.0))} if rng.random() < 0.2 else {}
        cluster.start(machines, rng.randint(1, 3), attempt, between=rng.choice((0.0, 0.01, 0.5)), late=late)
        for _ in range(rng.randint(0, 4)):
            _happens(cluster, rng)
            cluster.train(rng.randint(1, 4), every=rng.choice((0.02, 0.1, 2.0)))
        cluster.down = False
    if rng.random() < 0.7:
        cluster.finish()
        return ("FINISHED",)
    rng.choice(cluster.living).die(Fate(signal=9))
    cluster.pass_time(rng.random())
    for node in cluster.nodes:
        node.end_launcher(Fate(code=1))
    return ("KILLED", "FAILED")


def _start_anew(cluster: Cluster, rng: random.Random, machines: list[int]) -> None:
    """A rank falls; the launchers of all nodes stop theirs, and go on, on these or other machines."""
    rng.choice(cluster.living).die(Fate(signal=9))
    cluster.pass_time(rng.choice((0.0, 0.3, 5.0)))
    cluster.fall()
    lost = [index for index in machines if rng.random() < 0.2][: len(machines) - 1]
    for index in lost:
        machines.remove(index)
        cluster.node(index).end_launcher(Fate(signal=rng.choice((9, 15))))
    if rng.random() < 0.3:
        machines.append(len(cluster.nodes))
    if rng.random() < 0.5:
        rng.shuffle(machines)
    cluster.pass_time(rng.choice((0.0, 1.0, 20.0)))


def _arm(cluster: Cluster, rng: random.Random, machines: list[int]) -> None:
    for _ in range(rng.choice((0, 0, 1, 3))):
        method = rng.choice(("open_run", "log_batch", "log_batch", "end_run", "find_runs"))
        node, nth = cluster.node(rng.choice(machines)), rng.choice((0, 0, 1, 3))
        node.arm(method, nth, rng.choice(("before", "after", "lost")))


def _happens(cluster: Cluster, rng: random.Random) -> None:
    which = rng.random()
    node = rng.choice(cluster.nodes)
    if which < 0.3:
        node.kill_agent()
    elif which < 0.4:
        node.kill_wrapper()
    elif which < 0.6:
        cluster.down = not cluster.down
