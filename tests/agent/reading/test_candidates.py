"""What a person may have meant: several runs of one name, names that are near."""

from __future__ import annotations

from tailrace_agent.reading.candidates import (
    MOST,
    Candidate,
    fits_several,
    nearest,
    newest_first,
    newest_taken,
    shortest_ids,
)

NOW = 1_000_000.0


def candidate(run_id: str, name: str, minutes: float, store: str = "", **params: str) -> Candidate:
    return Candidate(run_id, name, "FINISHED", NOW - 60 * minutes, params, store)


RUNS = [
    candidate("aaaaaaaa11", "base", 60, lr="0.1", seed="7", only="\x1b[31m"),
    candidate("aaaaaaaa22", "base", 3, lr="0.2", seed="7"),
]


def test_candidates_are_told_by_age_and_by_the_params_in_which_they_differ() -> None:
    told = newest_taken("base", RUNS, "sqlite:///x.db", now=NOW)
    assert told == (
        "'base' names 2 runs of sqlite:///x.db. Taken: aaaaaaaa2 (FINISHED, 3 min ago, lr=0.2), the newest. "
        "Others: aaaaaaaa1 (FINISHED, 60 min ago, lr=0.1, only='\\x1b[31m'). An id chooses one of them"
    )
    assert newest_first(RUNS)[0].params["lr"] == "0.2"


def test_names_and_stores_are_told_where_they_tell_apart() -> None:
    several = [*RUNS, candidate("bb", "basement", 1, "http://there", lr="x" * 100)]
    told = fits_several("base", several, "this machine", now=NOW)
    assert told.startswith("'base' fits 3 runs of this machine: bb 'basement' (FINISHED, 60 s ago, lr=xxx")
    assert "in http://there)" in told
    assert told.endswith("give more of an id")
    assert len(told) < 400


def test_of_many_runs_a_few_are_shown() -> None:
    many = [candidate(f"{number:032}", "base", number) for number in range(MOST + 1)]
    told = fits_several("base", many, "x", now=NOW)
    assert "more than 100 runs" in told
    assert told.count("FINISHED") == 5
    assert "; …; give more" in told


def test_ids_are_as_short_as_they_can_be_told_apart() -> None:
    assert shortest_ids(["abcdefghij", "abcdefghik"]) == {"abcdefghij": "abcdefghij", "abcdefghik": "abcdefghik"}
    assert shortest_ids(["a" * 32, "b" * 32]) == {"a" * 32: "a" * 8, "b" * 32: "b" * 8}
    assert shortest_ids([]) == {}


def test_the_nearest_name_is_found_whole_or_behind_a_slash() -> None:
    keys = ["lr", "train/loss", "val/loss", "Accuracy"]
    assert nearest("accurac", keys) == "; did you mean 'Accuracy'?"
    assert nearest("val_loss", keys) == "; did you mean 'val/loss'?"
    assert nearest("lss", keys) == "; did you mean 'train/loss' or 'val/loss'?"
    assert nearest("unheard of", keys) == nearest("loss*", keys) == nearest("", keys) == nearest("x", []) == ""
