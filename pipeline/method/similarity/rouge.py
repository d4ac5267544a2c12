"""rouge1: F1 of unigram overlap, rouge-score without stemming; texts without a word give 0.

rouge-score's own tokenizer knows a-z and 0-9 alone: it drops other letters, signs and operators. So
it is given one that keeps everything but white space. A word is a run of letters, marks and digits
of any script; every other character is a word of its own, as is each letter of a script that puts
no space between words. Upper and lower case are one, as in rouge-score, and so are two ways to
write one character (NFC).
"""

import unicodedata
from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence as Steps
from tokenizers.pre_tokenizers import Split

from pipeline.method.similarity import Pair

UNSPACED = "".join(
    rf"\p{{{script}}}"
    for script in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
)
WORD = rf"(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+|\S\p{{M}}*"
WORDS = Steps([Split(Regex(r"\s+"), "removed"), Split(Regex(WORD), "isolated")])


class Words(Tokenizer):  # type: ignore[misc]  # rouge_score is untyped
    """The words of a text in any script."""

    def tokenize(self, text: str) -> list[str]:
        normal = unicodedata.normalize("NFC", text).lower()
        return [word for word, _ in WORDS.pre_tokenize_str(normal)]


def measure(pairs: Sequence[Pair]) -> list[float]:
    scorer = RougeScorer(["rouge1"], tokenizer=Words())
    return [float(scorer.score(p.text, p.other)["rouge1"].fmeasure) for p in pairs]
