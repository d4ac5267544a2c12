"""How numbers with an interval are written: so that no limit looks like 0 or 1 that is not."""

PLACES, MOST_PLACES = 3, 8  # decimal places of a number; where that says too little, at most


def interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{number(value, low, high, sign)} {bracket(low, high, sign)}"


def number(value: float, low: float, high: float, sign: str = "") -> str:
    """A value as its interval is written."""
    return f"{value:{sign}.{_places(low, high)}f}"


def bracket(low: float, high: float, sign: str = "") -> str:
    places = _places(low, high)
    return f"[{low:{sign}.{places}f}, {high:{sign}.{places}f}]"


def _places(*limits: float) -> int:
    """The decimal places at which no limit looks like 0 or 1 unless it is: .0004 is not 0.000."""
    off = [abs(limit - round(limit)) for limit in limits]
    tried = range(PLACES, MOST_PLACES + 1)
    told = (n for n in tried if all(round(x, n) > 0 for x in off if x > 0.1**MOST_PLACES))
    return next(told, PLACES)
