"""Secrets taken out of command lines and texts, before either is written anywhere.

What this module promises:

* What stands after a name that speaks of a password, token, key or credential is replaced by `***`, in every usual
  form: `--password x`, `--password=x`, `db.password=x`, `API_KEY: x`, `Authorization: Bearer x`. `-p x` counts as a
  password, and `-u user:x` holds one. In the query of a URL, so is what a signed link is signed with.
* So is the password of any URI, and what looks like a known kind of key (AWS, GitHub, Hugging Face, OpenAI, Slack,
  JSON web tokens), wherever it stands.
* Nothing else changes. In doubt it masks: `--pad-token "<pad>"` becomes `--pad-token ***`, and so does a port's `-p`.

Pure, and cheap enough for the start of a run: some ten microseconds. The time grows with the length alone: a pattern
that may begin at every character looks no further than a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

__all__ = ["MASK", "mask_arguments", "mask_lines", "mask_text"]

MASK: Final = "***"

_SECRET_WORDS: Final = frozenset({
    "password", "passwd", "passphrase", "passcode", "pass", "pwd", "pw", "secret", "secrets", "token", "credential",
    "credentials", "creds", "bearer", "auth", "authorization", "apikey", "accesskey", "secretkey", "privatekey",
    "authkey", "cookie",
})  # fmt: skip
_SIGNED: Final = frozenset({"sig", "signature"})
"""In queries of signed links (Azure, Amazon, Google); anywhere else they are a deviation, or a function's head."""
_SECRET_ENDINGS: Final = ("password", "passwd", "secret", "token", "apikey", "passphrase")
"""Of words written together: `PGPASSWORD`."""
_SECRET_PAIRS: Final = frozenset(
    (kind, "key") for kind in ("api", "access", "secret", "private", "account", "auth", "ssh", "encryption", "signing")
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_NAME: Final = r"[A-Za-z_+~][A-Za-z0-9_.+~\-]*"
_OPTION = re.compile(rf"--?{_NAME}")
# Not `://` behind the name: that is a URI's scheme, and its password is looked for by itself.
_LEFT = re.compile(rf"(?<![A-Za-z0-9_.+~\-])(?P<name>-{{0,2}}{_NAME})[\"']?\s*[=:](?!//)[^\S\n]*")
_VALUE = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|[^\n]*?(?=(?<!\s)(?:\s+#|\s*$))", re.MULTILINE)
"""A value in a text: up to its closing quote, a comment, or the end of the line."""
_REST = re.compile(r".*", re.DOTALL)
_GIVEN = re.compile(
    rf"(?<![A-Za-z0-9_.+~\-])(?P<name>--?{_NAME})(?P<gap>['\"]?,?[^\S\n]+['\"]?)"
    r"(?P<value>(?<=')[^'\n]+|(?<=\")[^\"\n]+|[^\s'\",]+)"
)
"""An option with its value behind it in a text, also in the list that an error shows."""
_SHORT_OPTION: Final = "-p"
_USER_OPTIONS: Final = ("-u", "--user")
_ATTACHED = re.compile(
    r"(?<![A-Za-z0-9_.+~\-])(?P<head>-p(?=[a-z_\-=]{0,99}[^a-z\s_\-=])|(?:-u|--user=)[^\s:=]{1,99}:(?!//))[^\s'\",=]+"
)
"""`-pS3cret` and `-uada:pw`. (`-path` is an option of its own.)"""
_USERINFO = re.compile(
    r"(?<![A-Za-z0-9+.\-])(?:(?P<head>[A-Za-z][A-Za-z0-9+.\-]*://[^\s:/?#@]*:)(?![0-9]+[/?#]).+"
    r"|(?P<other>https?://)[^\s:/?#@]{20,}(?=@|\Z))"
)
"""A password of a URI, up to a word's last `@`, whatever characters it has; a user name that is so long is a token."""
_WORD = re.compile(r"\S+")
_QUERY = re.compile(rf"(?P<head>[?&;](?P<name>{_NAME})=)[^&\s\"'#]+")
_KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_\-]{20,}"
    r"|hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_\-]{20,}|xox[abeoprs]-[A-Za-z0-9\-]{10,}|dapi[0-9a-f]{32}|AIza[A-Za-z0-9_\-]{35}"
    r"|eyJ[A-Za-z0-9_\-]{8,999}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?"
    r"|(?=[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=]))(?=[A-Z0-9/+]{0,39}[a-z])(?=[a-z0-9/+]{0,39}[A-Z])(?=[A-Za-z/+]{0,39}[0-9])"
    r"[A-Za-z0-9/+]{40}"
    r")"
)
_BEARER = re.compile(r"\b(?P<head>bearer|basic|token)\s+(?P<value>[A-Za-z0-9._~+/=\-]{8,})", re.IGNORECASE)

# In small letters: a line without any of them has nothing that is named as a secret ...
_NAMES: Final = (
    "pass", "pw", "secret", "token", "cred", "bearer", "auth", "key", "cookie", "basic", "sig", "-p", "-u", "user", "://",
)  # fmt: skip
# ... and one without any of these, or without a word of some length, nothing that is a key by itself.
_KEYS: Final = (
    "akia", "asia", "gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_", "glpat-", "hf_", "sk-", "xox", "dapi", "aiza",
    "eyj",
)  # fmt: skip
_SHORTEST_KEY: Final = 15
_SHORTEST_UNNAMED: Final = 40
_PIECE: Final = 32  # lines


def mask_arguments(arguments: Iterable[str]) -> list[str]:
    """A command line as it may be shown: as many arguments as before.

    Example:
        >>> mask_arguments(["train.py", "--lr=0.1", "--api-key", "abc", "db.password=x"])
        ['train.py', '--lr=0.1', '--api-key', '***', 'db.password=***']
    """
    masked = []
    before = ""
    for argument in arguments:
        hidden = _mask_given(before, argument)
        masked.append(hidden if hidden is not None else _mask_argument(argument))
        before = argument if hidden is None and _OPTION.fullmatch(argument) else ""
    return masked


def mask_text(text: str) -> str:
    """A text (a configuration file, a message) as it may be stored, line by line."""
    return _mask_known(_mask_options(_mask_values(text, _VALUE)))


def mask_lines(lines: Sequence[str]) -> list[str]:
    """Lines of which there are many, each as `mask_text` gives it; most are looked at for a moment only."""
    masked: list[str] = []
    for begin in range(0, len(lines), _PIECE):
        piece = lines[begin : begin + _PIECE]
        if _may_hold_secret("\n".join(piece)):
            masked += [mask_text(line) if _may_hold_secret(line) else line for line in piece]
        else:
            masked += piece
    return masked


def _may_hold_secret(text: str) -> bool:
    small = text.lower()
    for name in _NAMES:  # a loop: this is where the time goes
        if name in small:
            return True
    longest = max(map(len, text.split()), default=0)
    return longest >= _SHORTEST_KEY and (longest >= _SHORTEST_UNNAMED or any(key in small for key in _KEYS))


def _mask_argument(argument: str) -> str:
    return _mask_known(_mask_values(argument, _REST))


def _mask_given(option: str, value: str) -> str | None:
    """The value behind an option as it may be shown; None where it is no secret."""
    if not option or value.startswith("--"):  # one dash may well begin a password
        return None
    if option in _USER_OPTIONS:
        user, colon, password = value.partition(":")
        return f"{user}:{MASK}" if colon and password and not password.startswith("//") else None
    return MASK if _is_secret(option) else None


def _mask_options(text: str) -> str:
    """Masks what stands behind a secret's option. What stands behind any other may itself be an option."""
    parts, copied, at = [], 0, 0
    while (found := _GIVEN.search(text, at)) is not None:
        hidden = _mask_given(found["name"], found["value"])
        at = found.end("name") if hidden is None else found.end()
        if hidden is not None:
            parts += [text[copied : found.start("value")], hidden]
            copied = at
    return "".join(parts) + text[copied:]


def _mask_values(text: str, value: re.Pattern[str]) -> str:
    """Masks what is assigned to a secret's name."""
    parts, at = [], 0
    for left in _LEFT.finditer(text):
        # What stands inside a value that is masked already is no name.
        if left.start() < at or not _is_secret(left["name"]):
            continue
        right = value.match(text, left.end())
        if right is None or not right[0]:
            continue
        quote = right[0][0] if right[0][0] in "\"'" and right[0][-1] == right[0][0] else ""
        parts += [text[at : left.end()], quote, MASK, quote]
        at = right.end()
    return "".join(parts) + text[at:]


def _mask_known(text: str) -> str:
    if "://" in text and "@" in text:  # most texts have neither, and each word would be looked at
        text = _WORD.sub(_mask_userinfo, text)
    text = _ATTACHED.sub(rf"\g<head>{MASK}", text)
    text = _QUERY.sub(lambda m: m["head"] + MASK if _is_secret(m["name"], _SIGNED) else m[0], text)
    text = _BEARER.sub(rf"\g<head> {MASK}", text)
    return _KNOWN.sub(MASK, text)


def _mask_userinfo(word: re.Match[str]) -> str:
    before, at, host = word[0].rpartition("@")
    return _USERINFO.sub(lambda m: (m["head"] or m["other"]) + MASK, before) + at + host


def _is_secret(name: str, more: frozenset[str] = frozenset()) -> bool:
    if name == _SHORT_OPTION:
        return True
    words = [word.lower() for word in _WORDS.findall(name)]
    if any(word in _SECRET_WORDS or word in more or word.endswith(_SECRET_ENDINGS) for word in words):
        return True
    return not _SECRET_PAIRS.isdisjoint(pairwise(words))
