"""Bytes that are wrong, and C that is watched: what the tests of fuzzing and of the sanitizers share."""
