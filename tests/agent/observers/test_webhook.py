"""The webhook: alerts are posted in their order, given up in time, and never with the URL in a line."""

from __future__ import annotations

import pytest

from faults.lies import LIES
from faults.proxy import Proxy
from helpers.kept_log import KeptLog
from helpers.webhook_receiver import Receiver
from tailrace import SettingsError
from tailrace_agent.observers.webhook import Webhook
from tailrace_agent.settings.sources import check_setting


class Posting:
    """A webhook with a clock that only the test moves."""

    def __init__(self, url: str) -> None:
        self.log, self.now = KeptLog(), 0.0
        self.told: list[str] = []
        self.webhook = Webhook(url, self.log, self.told.append, lambda: self.now)
        self.webhook.put("first", lambda: {"n": 1})
        self.webhook.put("second", lambda: {"n": 2})

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now <= end and self.webhook.pending:
            self.now = max(self.now, self.webhook.step(self.now))
            self.now += 0.001


def test_a_failure_that_may_pass_is_tried_again_in_order(receiver: Receiver) -> None:
    receiver.answers = [500, 429, 503]
    posting = Posting(receiver.url)
    posting.run(100)
    assert receiver.got == [{"n": 1}, {"n": 2}]
    assert not posting.webhook.pending


@pytest.mark.parametrize("status", [302, 400, 404])
def test_a_refusal_costs_one_alert_and_a_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    posting = Posting(receiver.url)
    posting.run(100)
    assert receiver.got == [{"n": 2}]
    assert f"HTTP {status}" in posting.log.texts[0]
    host = receiver.url.removesuffix("/services/geheim7")
    assert posting.told == [f"the alert 'first' could not be posted to {host}/…: HTTP {status}"]


@pytest.mark.parametrize("url", ["http://a..b/geheim7", f"http://{'a' * 64}.b/geheim7", "http://[::1/geheim7"])
def test_an_address_that_cannot_be_is_no_setting_and_is_given_up_at_once(url: str) -> None:
    with pytest.raises(SettingsError, match="alert_webhook"):
        check_setting("alert_webhook", url, str)
    posting = Posting(url)
    posting.run(1)
    assert not posting.webhook.pending
    assert len(posting.told) == 2
    assert "geheim7" not in " ".join(posting.told + posting.log.texts)


def test_a_receiver_that_drips_its_headers_is_given_up_with_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace_agent.observers.outbox._TIMEOUT", 0.2)
    with Proxy(9) as proxy, proxy.faulty(LIES["drips its headers"]) as seen:
        posting = Posting(proxy.url)
        posting.now = posting.webhook.step(posting.now)
        assert posting.webhook.pending
        assert "ConnectionError" in posting.log.texts[0] or "ReadTimeout" in posting.log.texts[0]
    assert len(seen) == 1


def test_a_server_that_is_away_is_given_up_and_no_line_shows_the_url() -> None:
    posting = Posting("http://127.0.0.1:1/services/geheim7?token=geheim7")
    posting.run(500)
    assert not posting.webhook.pending
    assert 120 <= posting.now < 200
    posting.webhook.put("last", dict)
    posting.webhook.finish(1.0)
    assert any("ConnectionError" in line for line in posting.log.texts)
    assert any("alert not posted" in line and "first" in line for line in posting.log.texts)
    assert posting.told[1] == "the alert 'second' could not be posted to http://127.0.0.1:1/…: ConnectionError"
    assert "geheim7" not in "".join([*posting.log.texts, *posting.told])


def test_where_too_many_wait_the_oldest_is_given_up_and_reported_and_not_the_one_being_posted(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace_agent.observers.outbox._MOST", 2)
    posting = Posting(receiver.url)

    def first() -> dict[str, int]:  # it is being posted, and meanwhile others come
        for n in (3, 4):
            posting.webhook.put(f"number {n}", lambda n=n: {"n": n})
        return {"n": 1}

    posting.webhook.finish(5.0)
    receiver.got.clear()
    posting.webhook.put("number 1", first)
    posting.webhook.put("number 2", lambda: {"n": 2})
    posting.run(100)
    assert receiver.got == [{"n": 1}, {"n": 3}, {"n": 4}]
    (reported,) = posting.told
    assert "the alert 'number 2' could not be posted to" in reported
    assert "2 newer ones wait" in reported


def test_an_end_while_a_refused_alert_is_being_given_up_costs_no_other_one(receiver: Receiver) -> None:
    receiver.answers = [400]
    posting = Posting(receiver.url)
    warn = posting.log.warning

    def end(event: str, **fields: object) -> None:  # between the answer and what becomes of it
        warn(event, **fields)
        posting.webhook.finish(5.0)

    posting.log.warning = end  # type: ignore[method-assign]
    posting.run(100)
    assert receiver.got == [{"n": 2}]
    assert ["'first'" in line for line in posting.told] == [True]
    assert not posting.webhook.pending
