"""Say before a run that this processor multiplies bfloat16 without instructions for it.

torch 2.13 then falls back on plain loops: of the products of a layer of SmolLM2-135M (1,200 tokens,
576 x 1,536) on a processor with AVX2 alone, those of the forward pass took 6 times as long as in
float32, those of the weights' gradients 5 times and those of the inputs' gradients 51 times.
"""

from pipeline.config.machines import Machines
from pipeline.config.models import PretrainModel


def line(models: dict[str, PretrainModel], runtime: Machines) -> str | None:
    """What to tell of the models that a CPU without bfloat16 products would run in bfloat16."""
    coarse = [name for name, model in models.items() if model.dtype == "bfloat16"]
    if not coarse or runtime.device != "cpu" or multiplies_bfloat16():
        return None
    return (
        f"pretrain.models: {', '.join(coarse)}: found dtype: bfloat16, and this processor has no "
        "products of it: passes take several times as long as in float32, training up to 50 times. "
        "Set dtype: float32, or run on another machine or device."
    )


def multiplies_bfloat16() -> bool:
    """Whether oneDNN, which torch uses on a CPU, has matrix products of bfloat16 here."""
    import torch  # a second or two, taken only where a model is bfloat16

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
