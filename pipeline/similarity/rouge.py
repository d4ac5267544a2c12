"""rouge1: F1 of unigram overlap, rouge-score without stemming; texts without a word give 0."""

from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

from pipeline.similarity import Pair


def measure(pairs: Sequence[Pair]) -> list[float]:
    scorer = RougeScorer(["rouge1"], use_stemmer=False)
    return [float(scorer.score(p.text, p.other)["rouge1"].fmeasure) for p in pairs]
