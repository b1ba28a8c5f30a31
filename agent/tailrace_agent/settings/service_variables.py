"""Environment variables that a container platform sets for its services, distinguished from settings.

Kubernetes gives each container the addresses of the services of its namespace. One that is called `tailrace` brings
`TAILRACE_SERVICE_HOST`, `TAILRACE_PORT=tcp://10.0.0.1:9400`, `TAILRACE_PORT_9400_TCP_ADDR`, …, and one that is called
`tailrace-prometheus` even has `TAILRACE_PROMETHEUS_PORT`, which is a setting of ours. Docker's links do the same, with
`TAILRACE_NAME=/trainer/tailrace` and `TAILRACE_ENV_…` besides.

The forms are those of kubernetes.io/docs/concepts/services-networking/service/#environment-variables.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_of_a_service"]

_NAME: Final = re.compile(
    r"TAILRACE(?:_[A-Z0-9_]+)??_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR|PORT_START|PORT_END))?|ENV_[A-Za-z0-9_]+)"
)
# These names may be settings, too: their values decide.
_MAYBE: Final = re.compile(r"TAILRACE(?:_[A-Z0-9_]+)??_(?:PORT|NAME)")
_ADDRESS: Final = re.compile(r"(?:tcp|udp|sctp)://|/[^/]+/[^/]+$")


def is_of_a_service(variable: str, value: str) -> bool:
    """Whether an environment variable is the address of a service.

    Example:
        >>> is_of_a_service("TAILRACE_PORT", "tcp://10.0.0.1:9400"), is_of_a_service("TAILRACE_PROMETHEUS_PORT", "9400")
        (True, False)
    """
    return bool(_NAME.fullmatch(variable) or (_MAYBE.fullmatch(variable) and _ADDRESS.match(value)))
