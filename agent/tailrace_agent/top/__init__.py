"""`tailrace top`: the runs of this machine, or of a store, as they are right now, in a terminal.

Nearly all of it is pure: what is known of runs (`rows`), what a person has chosen (`view`) and a size make one frame of
lines (`frame`), which `--once` prints and `app` puts on the screen. `local` and `stored` find out what is known.
"""
