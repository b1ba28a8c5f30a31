"""Other people's words in messages: one line of what can be seen, cut to a length."""

from __future__ import annotations

from tailrace_agent.text.quoting import plain, printable, quoted, visible


def test_a_text_becomes_one_line_of_what_can_be_seen() -> None:
    assert plain("  two\n\tlines \x1b[2K ") == "two lines \\x1b[2K"
    assert printable("a\nb\x9b\u202e\udce9") == "a\\nb\\x9b\\u202e\\udce9"
    assert printable("läuft 🎈") == "läuft 🎈"


def test_a_text_is_cut_to_its_length_and_the_cut_is_seen() -> None:
    assert plain("x" * 10, 10) == "x" * 10
    assert plain("x" * 11, 10) == "x" * 9 + "…"
    assert len(plain("\x00" * 10_000_000, 100)) == 100
    assert plain("a" + " " * 10_000_000, 10) == "a…", "what lies behind the blanks was not looked at"


def test_a_name_is_quoted_and_tells_how_long_it_was() -> None:
    assert quoted("it's") == '"it\'s"'
    assert quoted("x" * 12, 12) == repr("x" * 12)
    assert quoted("x" * 13, 12) == f"{'x' * 12!r}… (13 characters)"
    assert quoted(None) == "'None'"


def test_line_breaks_stay_where_lines_are_wanted() -> None:
    assert visible("a\x1b\nb\r\n") == "a\\x1b\nb\\r\n"
