"""The store plug-in: MLflow's own calls, and those of all that log through MLflow, go the way of `tailrace.log`.

Two ways in: `tailrace.install()`, which leaves the tracking URI as it is, and a tracking URI that begins with
`tailrace+`. Either way MLflow makes its store, and a subclass of that store's class takes its place: what a program
logs goes to the ring, what it creates and reads goes to the store.

Invariants
----------
1. A call that returned outlives its process. What MLflow would refuse at the call is refused at the call, by MLflow's
   own functions.
2. Who reads finds what this process has logged: a run's own values lie over what the store answers, histories and
   searches wait for the delivery.
3. Everything else is MLflow's: a method that does not concern a run's values is not touched.
4. Where tailrace cannot track, or is off, every call is MLflow's own.
"""

from tailrace.store.placing import install

__all__ = ["install"]
