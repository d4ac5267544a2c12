"""whole: one fork, at a response's first token; its chunk is the response (up to chunk_tokens).

What a teacher writes from there is its own answer to the prompt.
"""

from pipeline.method.schedulers import Response


def positions(response: Response) -> list[int]:
    """0 alone; nothing where no chunk may start there."""
    return [0] if len(response.entropies_T) and response.eligible(0) else []
