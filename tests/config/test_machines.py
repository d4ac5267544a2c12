"""Block runtime as the runner reads it."""

import pytest
from pydantic import ValidationError

from pipeline.config.machines import Machines, cards


def test_small_cells_take_a_share_of_a_card_and_others_whole_ones() -> None:
    found = Machines.model_validate({"device": "cuda", "gpu_share": {"evaluate": 0.5}})
    assert cards(found, "evaluate-vllm") == 0.5
    assert cards(found, "train-omniopd") == 1
    assert cards(Machines.model_validate({"device": "cuda", "data_parallel": 2}), "train-sft") == 2
    assert cards(Machines.model_validate({"gpu_share": {"evaluate": 0.5}}), "evaluate") == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gpu_share": {"score": 0.5}}, "and score is none"),
        ({"gpu_share": {"train": 1.5}}, "less than or equal to 1"),
        ({"gpu_share": {"train": 0}}, "greater than 0"),
        ({"gpu_share": {"train": 0.5}, "tensor_parallel": 2}, "shares none"),
    ],
)
def test_a_share_that_no_card_has_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Machines.model_validate(settings)
