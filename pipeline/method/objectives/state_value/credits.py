"""Credits of a response's stretches, of the values of its states. See the objective for both."""

from typing import Any

import numpy as np

ROUNDING = 1e-12  # of a mean of equal values


def beginnings(rows: list[dict[str, Any]], first: dict[str, float]) -> dict[str, float]:
    """What the prompt's other responses are worth, by rollout_id; nothing of one without others.

    `rows` have rollout_id, prompt_id and reward; `first` is the value at a response's first fork.
    """
    worth: dict[str, dict[str, float]] = {}
    for row in rows:
        own = first.get(row["rollout_id"], float(row["reward"]))
        worth.setdefault(row["prompt_id"], {})[row["rollout_id"]] = own
    return {
        name: (sum(group.values()) - own) / (len(group) - 1)
        for group in worth.values()
        for name, own in group.items()
        if len(group) > 1
    }


def credits_of(
    total: int, states: list[tuple[int, float]], reward: float, beginning: float | None
) -> np.ndarray:
    """Credit (T,) of each token: the change of value over its stretch."""
    starts = [0, *(position for position, _ in states), total]
    values = [*(value for _, value in states), reward]
    values = [values[0] if beginning is None else beginning, *values]
    found = np.repeat(np.diff(values), np.diff(starts))
    return np.where(np.abs(found) < ROUNDING, 0.0, found)
