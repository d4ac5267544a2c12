"""Block alarms of params.yaml: what stops a run. No part of a cell; pipeline/training/collapse.py
says what each reads."""

from pipeline.config.params import NonNegative, Params, Share


class Alarms(Params):
    """Bounds of the signs of collapse; null: no alarm."""

    least_tokens: NonNegative | None = None  # of a response, mean
    most_tokens: NonNegative | None = None
    most_repeated: Share | None = None  # of a response's stretches of four tokens
    least_entropy: NonNegative | None = None  # nats a token
    most_weights_at_0: Share | None = None  # of a round's chunks
    most_weights_at_1: Share | None = None
    least_effective_chunks: NonNegative | None = None
    most_drift: NonNegative | None = None  # nats a token, of an optimizer step
