"""The way of a value: `log()`, its channel, what the fast path leaves."""
