"A wrong clock for every Python process that has this folder on its path: CLOCK_SHIFT seconds off, from CLOCK_AFTER seconds after the process began."
import datetime
import os
import time

SHIFT, AFTER = float(os.environ.get("CLOCK_SHIFT", "0")), float(os.environ.get("CLOCK_AFTER", "0"))
real_time, real_ns, began = time.time, time.time_ns, time.monotonic()


def shift() -> float:
    "How wrong the clock is now."
    return SHIFT if time.monotonic() - began >= AFTER else 0.0


class WrongDatetime(datetime.datetime):
    "A datetime whose now is wrong."

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=shift())

    @classmethod
    def utcnow(cls):
        return super().now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(seconds=shift())


if SHIFT:
    time.time = lambda: real_time() + shift()
    time.time_ns = lambda: real_ns() + int(shift() * 1e9)
    datetime.datetime = WrongDatetime
