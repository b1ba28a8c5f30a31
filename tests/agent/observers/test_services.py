"""Services that Apprise knows: a real mail server and a real web server get an alert, and nobody sees their address."""

from __future__ import annotations

import base64
import builtins
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.kept_log import KeptLog
from helpers.mail_receiver import MailReceiver
from helpers.webhook_receiver import Receiver
from tailrace import Settings
from tailrace_agent.ipc.curves import Span
from tailrace_agent.observers.alert_picture import picture
from tailrace_agent.observers.services import Message, Service

MESSAGE = Message("warning: loss is NaN", "loss is nan at step 7\nrun 'a' <b>", "warning")


class Sending:
    """A service with a clock that only the test moves."""

    def __init__(self, url: str, *messages: Message) -> None:
        self.log, self.now = KeptLog(), 0.0
        self.told: list[str] = []
        self.service = Service(url, self.log, self.told.append, lambda: self.now)
        for message in messages:
            self.service.put(message.title, lambda message=message: message)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now <= end and self.service.pending:
            self.now = max(self.now, self.service.step(self.now)) + 0.001


def address(receiver: Receiver) -> str:
    return receiver.url.replace("http://", "json://")


def png() -> bytes:
    drawn = picture("loss", [Span(n, 1.0 / (n + 1), 2.0 / (n + 1), 1.5 / (n + 1)) for n in range(50)])
    assert drawn is not None
    return drawn


def test_a_mail_has_the_words_as_words_and_the_picture() -> None:
    with MailReceiver() as mails:
        sending = Sending(mails.url, MESSAGE._replace(picture=png()))
        sending.run(100)
    (mail,) = mails.got
    assert sending.told == []
    assert mail["subject"] == "warning: loss is NaN"
    assert mail["to"] == "ada@example.org"
    body = mail.get_body(("plain",))
    assert body is not None
    assert body.get_content().splitlines()[:2] == ["loss is nan at step 7", "run 'a' <b>"]
    (attached,) = mail.iter_attachments()
    assert (attached.get_content_type(), attached.get_filename()) == ("image/png", "curve.png")
    assert attached.get_content() == png()


def test_a_web_service_gets_the_level_the_words_and_the_picture(receiver: Receiver) -> None:
    Sending(address(receiver), MESSAGE._replace(level="error", picture=png())).run(100)
    (body,) = receiver.got
    assert (body["title"], body["type"]) == ("warning: loss is NaN", "failure")
    assert body["message"].startswith("loss is nan at step 7\nrun 'a'")
    (attached,) = body["attachments"]
    assert base64.b64decode(attached["base64"]) == png()


def test_what_fails_is_tried_again_in_order_for_two_minutes_and_told_once(receiver: Receiver) -> None:
    receiver.answers = [500, 404, 503]
    sending = Sending(address(receiver), MESSAGE, MESSAGE._replace(title="second"))
    sending.run(100)
    assert [body["title"] for body in receiver.got] == ["warning: loss is NaN", "second"]
    assert sending.told == []
    receiver.answers = [500] * 1000
    for n in range(3):
        sending.service.put(f"lost {n}", lambda: MESSAGE)
    sending.run(400)
    assert not sending.service.pending
    (told,) = sending.told
    assert told == (
        "the alert 'lost 0' could not be posted to json://…: the service did not take it, or was not reached. "
        "So it is with further ones, which are on their runs all the same"
    )


@pytest.mark.parametrize("url", ["nosuch://geheim7", "slack://", "mailto://"])
def test_an_address_that_no_service_has_is_given_up_at_once_and_never_shown(url: str) -> None:
    sending = Sending(url, MESSAGE, MESSAGE)
    sending.run(1)
    assert not sending.service.pending
    assert len(sending.told) == 1
    assert "Apprise knows no such address" in sending.told[0]
    assert "geheim7" not in " ".join(sending.told + sending.log.texts)


def test_no_line_shows_an_address(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    sending = Sending("json://ada:geheim7@127.0.0.1:1/geheim7?token=geheim7", MESSAGE)
    sending.run(400)
    out, err = capfd.readouterr()
    assert sending.told
    assert "geheim7" not in " ".join([*sending.told, *sending.log.texts, out, err])


def test_without_apprise_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def no_apprise(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "apprise":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_apprise)
    sending = Sending("json://127.0.0.1:1", MESSAGE)
    sending.run(1)
    assert "pip install 'tailrace[alerts]'" in sending.told[0]


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections, and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["json://{}", "mailto://{}?mode=insecure&from=a@example.org&to=b@example.org"])
def test_a_service_that_says_nothing_is_given_up_with_the_time_out(
    silent: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace_agent.observers.outbox._TIMEOUT", 0.3)
    sending = Sending(scheme.format(silent), MESSAGE)
    sending.service.step(0.0)
    assert sending.service.pending  # to be tried again
    assert "posting failed" in sending.log.texts[0]


def test_the_end_of_the_agent_waits_no_longer_than_it_says(silent: str) -> None:
    sending = Sending(f"json://{silent}", MESSAGE, MESSAGE)
    sending.service.finish(0.3)
    assert sending.service.pending
    assert "alerts not posted" in sending.log.texts[-1]


def test_settings_show_the_schemes_alone() -> None:
    settings = Settings(alert_urls=("slack://geheim7/b/c", "mailto://ada:geheim7@example.org"))
    assert "alert_urls=['slack://…', 'mailto://…']" in repr(settings)
    assert "geheim7" not in repr(settings)
