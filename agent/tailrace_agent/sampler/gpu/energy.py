"""Joules of one GPU: from the driver's counter where there is one, else from its power.

The counter (Volta and later) is in millijoules since the driver was loaded. It is exact, and covers what happened
between two readings. Without one, power is taken to run straight from one reading to the next.
"""

from __future__ import annotations

__all__ = ["EnergyMeter"]


class EnergyMeter:
    """Adds up what one GPU has used since the first reading.

    Attributes:
        joules: The sum; None until two readings have shown something, since what was not measured is not zero.

    Example:
        >>> meter = EnergyMeter()
        >>> meter.read(10.0, None, 100.0), meter.read(12.0, None, 300.0)
        (None, None)
        >>> meter.joules
        400.0
    """

    def __init__(self) -> None:
        self.joules: float | None = None
        self._counter: int | None = None
        self._at: float | None = None
        self._watts: float | None = None

    def read(self, now: float, millijoules: int | None, watts: float | None) -> None:
        """Adds what was used since the last reading.

        A counter that has fallen (its driver was loaded again) does not measure that time; the power does.

        Args:
            now: Monotonic seconds.
            millijoules: The driver's counter; None when it was not read.
            watts: Power at `now`; None when it was not read.
        """
        used = self._since(millijoules)
        if used is None and self._at is not None and self._watts is not None and watts is not None:
            used = (self._watts + watts) / 2 * (now - self._at)
        if used is not None:
            self.joules = (self.joules or 0.0) + used
        # Also None: the power may have been added for that time, and the counter would add it once more.
        self._counter, self._at, self._watts = millijoules, now, watts

    def pause(self) -> None:
        """From now to the next reading the power is not known; the counter, if it goes on, still knows."""
        self._at = self._watts = None

    def total(self, millijoules: int | None) -> float | None:
        """The sum up to a counter that was read just now, which the meter does not keep."""
        used = self._since(millijoules)
        return self.joules if used is None else (self.joules or 0.0) + used

    def _since(self, millijoules: int | None) -> float | None:
        if millijoules is None or self._counter is None or millijoules < self._counter:
            return None
        return (millijoules - self._counter) / 1000
