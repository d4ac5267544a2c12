"""What of a fork's evidence becomes the weight of its chunk.

    posterior         pi_hat
    excess            max(0, q - m) / (1 - m), q the share k_sem / N, m its mean over the round
    excess-posterior  likewise, with pi_hat for q

A chunk that the teacher's answers resemble no more than they resemble the round's chunks on average
teaches nothing under the excess. So a metric with a floor, such as edit, loses its floor, and the
best chunk keeps weight 1. Where 1 - m < 1e-6 nothing is left to exceed and every weight is 0.
Once all answers agree, excess-posterior orders chunks by the student's own confidence alone.

Axes: F forks. Source: posterior is arXiv 2606.01476; the excess is an extension.
"""

import numpy as np

LEAST_ROOM = 1e-6  # of 1 - m


def weights(how: str, share_F: np.ndarray, hat_F: np.ndarray) -> np.ndarray:
    """Weights (F,), in [0, 1], of a round's forks: `share_F` is k_sem / N, `hat_F` pi_hat."""
    match how:
        case "posterior":
            return hat_F
        case "excess":
            return excess(share_F)
        case "excess-posterior":
            return excess(hat_F)
    raise AssertionError(how)


def excess(values_F: np.ndarray) -> np.ndarray:
    """How far each value in [0, 1] is above the mean of all, in parts of the most possible."""
    if not len(values_F) or values_F.min() == values_F.max():  # their mean may differ by rounding
        return np.zeros(len(values_F))
    mean = values_F.mean()
    if 1 - mean < LEAST_ROOM:
        return np.zeros(len(values_F))
    found: np.ndarray = np.maximum(0.0, values_F - mean) / (1 - mean)
    return found
