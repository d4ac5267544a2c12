"""What kind of machine a cell wants, by its group: a GPU, nothing but the network, or any.

A cell that loads a model is of kind gpu whatever runtime.device says.
"""

from typing import Literal, get_args

Kind = Literal["gpu", "api", "cpu"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# stages, or groups of one, that load a model
GPU = {"pretrain", "rollout", "forks-student", "teach", "prior-teacher", "train", "evaluate"}
GPU |= {"steps"}


def kind(group: str) -> Kind:
    """Of a cell of this group."""
    stage = group.partition("-")[0]
    if stage != "steps" and "hosted" in group:  # it waits for replies and loads a tokenizer
        return "api"
    return "gpu" if GPU & {stage, group} else "cpu"
