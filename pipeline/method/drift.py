"""How far the student may move within a round before a token has to be corrected for it."""

from typing import Any

from pipeline.core.errors import refuse


def several_steps(arm: Any) -> bool:
    """Whether a round of rollouts takes more than one optimizer step, of an arm's settings."""
    responses = arm.rollout.prompts_per_round * arm.rollout.samples_per_prompt
    return bool(arm.train.epochs * responses > arm.train.batch_size)


def check(where: str, arm: Any, reader: str, why: str) -> None:
    """Refuse several steps without a correction. `reader`, a setting, wants one; `why` says it."""
    if not arm.train.corrects and several_steps(arm):
        refuse(
            f"{where}train.importance_ratio",
            arm.train.importance_ratio,
            f"ratio with {reader} and several optimizer steps a round",
            f"{why} once the student has moved. Set train.importance_ratio: ratio, or raise "
            "train.batch_size to all responses of a round.",
        )
