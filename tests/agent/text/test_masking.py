"""Secrets in command lines and texts: masked in every usual form, and nothing else is touched."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace_agent.text.masking import MASK, mask_arguments, mask_lines, mask_text

_SECRETS = st.text(string.ascii_letters + string.digits + "_-.~!$^&*()+/=,:;@# ", min_size=4, max_size=40).map(
    lambda text: f"Zq{text}Zq"
)
_NAMES = st.sampled_from(
    [
        "password",
        "db.password",
        "PGPASSWORD",
        "api_key",
        "apiKey",
        "API-KEY",
        "aws_secret_access_key",
        "HF_TOKEN",
        "auth",
    ]
)
_HARMLESS = st.lists(st.sampled_from(["--lr", "0.1", "model.layers=2", "-v", "data/x.csv", "--max_tokens", "512"]))


@given(_HARMLESS, _NAMES, _SECRETS, st.sampled_from(["--{0} {1}", "--{0}={1}", "{0}={1}", "+{0}={1}", "-H {0}: {1}"]))
def test_no_form_of_an_argument_lets_a_secret_through(before: list[str], name: str, secret: str, form: str) -> None:
    given = [part.format(name, secret) for part in form.split(" ", 1)]
    masked = mask_arguments([*before, *given, *before])
    assert len(masked) == len(before) * 2 + len(given)
    assert secret not in " ".join(masked)
    assert MASK in " ".join(masked)
    assert masked[: len(before)] == before


@given(_HARMLESS)
def test_what_is_no_secret_stays_as_it_is(arguments: list[str]) -> None:
    assert mask_arguments(arguments) == arguments
    assert mask_text("\n".join(arguments)) == "\n".join(arguments)


@pytest.mark.slow
@settings(max_examples=30)
@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_arguments_are_taken(arguments: list[str]) -> None:
    assert len(mask_arguments(arguments)) == len(arguments)
    mask_text("\n".join(arguments))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("http://ada:pw@host:5000/x", f"http://ada:{MASK}@host:5000/x"),
        ("http://ada:p@w@host/x", f"http://ada:{MASK}@host/x"),
        ("--uri=postgresql://ada:p/w@host/db", f"--uri=postgresql://ada:{MASK}@host/db"),
        ("https://host/x?y=1&access_token=abc", f"https://host/x?y=1&access_token={MASK}"),
        ("https://host/x?token=abc&y=1", f"https://host/x?token={MASK}"),
        ("AKIAABCDEFGHIJKLMNOP", MASK),
        ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", MASK),
        ("Authorization: Bearer abc.def", f"Authorization: {MASK}"),
        ("curl with Bearer abcdefgh1234", f"curl with Bearer {MASK}"),
        ("3f786850e387550fdab836ed7e6dc881de23001b", "3f786850e387550fdab836ed7e6dc881de23001b"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("--tokenizer=gpt2", "--tokenizer=gpt2"),
        ("--keyboard=de", "--keyboard=de"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("-pS3cret!", f"-p{MASK}"),
        ("-p=x", f"-p={MASK}"),
        ("-uada:pw", f"-uada:{MASK}"),
        ("--user=ada:pw", f"--user=ada:{MASK}"),
        ("https://host/x?sv=2024&sig=a%2Bb%3D&se=1", f"https://host/x?sv=2024&sig={MASK}&se=1"),
        ("s3?X-Amz-Date=1&X-Amz-Signature=0a1b&x=1", f"s3?X-Amz-Date=1&X-Amz-Signature={MASK}&x=1"),
        ("https://host/x?a=1&amp;Signature=0a1b", f"https://host/x?a=1&amp;Signature={MASK}"),
        ("sig=0.5", "sig=0.5"),
        ("signature=(int)", "signature=(int)"),
        ("http://ada:p/w#1@host/x", f"http://ada:{MASK}@host/x"),
        ("https://0123456789abcdefghij@host/x.git", f"https://{MASK}@host/x.git"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("-path", "-path"),
        ("-u", "-u"),
        ("-utests/x", "-utests/x"),
    ],
)
def test_one_argument(argument: str, expected: str) -> None:
    assert mask_arguments([argument]) == [expected]


def test_the_value_after_an_option_may_begin_with_a_dash() -> None:
    assert mask_arguments(["--password", "-x", "--lr", "1"]) == ["--password", MASK, "--lr", "1"]
    assert mask_arguments(["--use-auth", "--lr", "1"]) == ["--use-auth", "--lr", "1"]
    assert mask_arguments(["-p", "x", "-p", "-y"]) == ["-p", MASK, "-p", MASK]


def test_a_user_with_a_password_keeps_the_name() -> None:
    assert mask_arguments(["-u", "ada:pw", "--user", "ada:p:w"]) == ["-u", f"ada:{MASK}", "--user", f"ada:{MASK}"]
    others = ["python", "-u", "train.py", "--user", "ada", "-u", "https://host/x"]
    assert mask_arguments(others) == others


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Command 'mysql -u root --password hunter2' failed", f"Command 'mysql -u root --password {MASK}' failed"),
        ("Command 'mysql -phunter2 db' failed", f"Command 'mysql -p{MASK} db' failed"),
        (
            "Command '['curl', '-u', 'ada:pw', '-p', 'x y']' failed",
            f"Command '['curl', '-u', 'ada:{MASK}', '-p', '{MASK}']' failed",
        ),
        ("cannot reach http://ada:pw@host/x, nor b@c", f"cannot reach http://ada:{MASK}@host/x, nor b@c"),
        ("401 for url: https://host/x?api_key=abc&y=1", f"401 for url: https://host/x?api_key={MASK}"),
        ("'train -v --password hunter2 -q -p hunter3' failed", f"'train -v --password {MASK} -q -p {MASK}' failed"),
        ("the loss - p is 0.5 - diverges", "the loss - p is 0.5 - diverges"),
        ("expected shape [3, -1], got -u and -2", "expected shape [3, -1], got -u and -2"),
    ],
)
def test_a_message_keeps_all_but_its_secrets(message: str, expected: str) -> None:
    assert mask_text(message) == expected


def test_a_message_of_any_length_is_masked_in_no_time() -> None:
    for text in ("token=" + " " * 20_000 + "x", "-p " * 7_000, "http://a:" * 2_000, "-u" + "a" * 20_000, "a=" * 10_000):
        mask_text(text)  # a pattern that goes back and forth would take hours


_PARTS = ("http://a:x/", "=-p", "/-u", "--user=a/", "eyJ-", "eyJaaaaaaaaa.", "sk-", "-a '", "-a ", 'x="', "token='")


@pytest.mark.parametrize("part", ["/", *(pytest.param(part, marks=pytest.mark.faults) for part in _PARTS)])
def test_the_time_for_a_message_grows_with_its_length_alone(part: str) -> None:
    mask_text(part * ((1 << 20) // len(part)))  # one that grows with its square takes many minutes, and is stopped


def test_a_configuration_file_keeps_all_but_its_secrets() -> None:
    text = """
lr = 0.1  # the rate
password = "x y"  # of the database
"api_key": "abc",
uri: postgresql://ada:pw@host/db
token: ab#c
empty_secret =
next: 1
"""
    assert (
        mask_text(text)
        == f"""
lr = 0.1  # the rate
password = "{MASK}"  # of the database
"api_key": "{MASK}",
uri: postgresql://ada:{MASK}@host/db
token: {MASK}
empty_secret =
next: 1
"""
    )


@given(st.lists(st.one_of(st.text(max_size=60), _HARMLESS.map(" ".join), st.tuples(_NAMES, _SECRETS).map("=".join))))
def test_many_lines_are_masked_as_each_of_them(lines: list[str]) -> None:
    assert mask_lines(lines) == [mask_text(line) for line in lines]


@pytest.mark.parametrize(
    "secret",
    [
        *("AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1" * 18, "hf_" + "Ab" * 17, "sk-" + "x9" * 20, "xoxb-1234567890-abc"),
        *("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "dapi" + "0a" * 16, "eyJhbGciOiJI.eyJzdWIiOiIx.c2ln"),
        *("http://ada:pw@host", "-pS3cret", "bearer abcdefgh1"),
    ],
)
def test_no_known_secret_is_missed_among_many_lines(secret: str) -> None:
    lines = ["epoch 1"] * 50 + [f"a {secret} b"] + ["epoch 2"] * 50
    assert mask_text(lines[50]) != lines[50]
    assert mask_lines(lines) == [mask_text(line) for line in lines]
