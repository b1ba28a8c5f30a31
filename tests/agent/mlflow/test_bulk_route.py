"""`mlflow.bulk_route`: a route is asked for when it is worth it, believed when it answers as it does, and given up."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tailrace_agent.bulk.columns import as_columns, decode
from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.bulk_route import BulkRoute
from tailrace_agent.mlflow.run_store import AT_ONCE
from tailrace_agent.rest.requests import answered

POINTS = [Point("loss", float(step), 1, step) for step in range(3)]
OFFER = (200, {"points": 50_000})
TAKEN = (200, {"stored": 3})
ABSENT = [
    (404, "<html>not found</html>"),
    (404, {"detail": "Not Found"}),
    (404, {"error_code": "ENDPOINT_NOT_FOUND", "message": "no bulk route for these tables"}),
    (405, ""),
    (403, "Permission denied"),
    (415, "unsupported"),
    (500, "<html>an error of the route</html>"),
]


class Server:
    """Answers from a list, by method."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"GET": OFFER, "POST": TAKEN}
        self.requests: list[tuple[str, Any]] = []
        self.now = 100.0
        self.route = BulkRoute(self.receive, answered, lambda: self.now)

    def receive(self, path: str, method: str, **content: Any) -> requests.Response:
        self.requests.append((method, content.get("data")))
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code = answer[0]
        response._content = (answer[1] if isinstance(answer[1], str) else json.dumps(answer[1])).encode()
        return response

    @property
    def questions(self) -> int:
        return sum(method == "GET" for method, _ in self.requests)


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_few_points_are_not_worth_a_question(server: Server) -> None:
    assert server.route.at_once(999) == 0
    assert not server.route.send("run", POINTS)
    assert server.requests == []


def test_many_points_are_and_it_is_asked_once(server: Server) -> None:
    assert server.route.at_once(1000) == AT_ONCE
    assert server.route.at_once(5000) == server.route.at_once(0) == AT_ONCE
    assert server.questions == 1


def test_so_are_a_few_points_again_and_again(server: Server) -> None:
    found = [server.route.at_once(5) for _ in range(20)]
    assert found[0] == 0
    assert found[-1] == AT_ONCE
    assert server.questions == 1


def test_with_nothing_waiting_nobody_is_asked(server: Server) -> None:
    assert {server.route.at_once(0) for _ in range(100)} == {0}
    assert server.requests == []


def test_points_go_as_columns(server: Server) -> None:
    server.route.at_once(1000)
    assert server.route.send("run", POINTS)
    assert decode(server.requests[-1][1]) == [as_columns("run", POINTS)]


def test_a_server_that_takes_fewer_gets_fewer(server: Server) -> None:
    server.answers["GET"] = (200, {"points": 3000})
    assert server.route.at_once(9000) == 3000


@pytest.mark.parametrize(
    "answer",
    [
        *ABSENT,
        (200, "<html>log in</html>"),
        (200, {}),
        (200, {"points": "many"}),
        (200, []),
        (401, ""),
        (302, ""),
        OSError(),
    ],
)
def test_a_server_without_it_is_asked_again_minutes_later(server: Server, answer: Any) -> None:
    server.answers["GET"] = answer
    assert server.route.at_once(1000) == server.route.at_once(1000) == 0
    assert server.questions == 1
    server.answers["GET"] = OFFER
    server.now += 299
    assert server.route.at_once(1000) == 0
    server.now += 2
    assert server.route.at_once(1000) == AT_ONCE


@pytest.mark.parametrize("answer", ABSENT)
def test_a_server_that_has_it_no_more_has_stored_nothing(server: Server, answer: Any) -> None:
    server.route.at_once(1000)
    server.answers["POST"] = answer
    assert not server.route.send("run", POINTS)
    assert server.route.at_once(1000) == 0
    assert server.questions == 1


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}),
        (200, {"stored": 2}),
        (200, {"stored": "3"}),
        (200, "<html>log in</html>"),
        (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}),
        (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "a bad name"}),
        (503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "locked"}),
        (500, {"error_code": "INTERNAL_ERROR", "message": "?"}),
        (413, ""),
        (401, ""),
        (429, ""),
        (502, "<html>bad gateway</html>"),
        OSError("reset"),
    ],
)
def test_what_is_about_the_points_or_about_the_server_is_raised_and_the_route_stays(
    server: Server, answer: Any
) -> None:
    server.route.at_once(1000)
    server.answers["POST"] = answer
    with pytest.raises(Exception, match=r"."):
        server.route.send("run", POINTS)
    assert server.route.at_once(0) == AT_ONCE
