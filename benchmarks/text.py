"""Ids and texts of answers behind their prefixes, on SmolLM2's tokenizer.

text_encode_after, text_decode_after   peer: `tokenizers` on the answer alone, which puts a space
    before it, cuts it where the prefix would not, or breaks a character of several tokens.
"""

from pathlib import Path

from benchmarks import student
from benchmarks.measure import Row, in_turn

ANSWERS, PREFIX, LENGTH = 20_000, 200, 8  # tokens of a prefix, and of an answer


def rows(scratch: Path) -> list[Row]:
    from pipeline.data import text
    from pipeline.engines import checkpoints

    tokens = checkpoints.tokenizer(student.checkpoint(scratch) / "tokenizer.json")
    words = " ".join(problem.prompt for problem in student.problems(200))
    ids = tokens.encode(words, add_special_tokens=False).ids
    starts = range(0, len(ids) - PREFIX - LENGTH)
    pairs = [
        (ids[at : at + PREFIX], ids[at + PREFIX : at + PREFIX + LENGTH])
        for at in (starts[i % len(starts)] for i in range(ANSWERS))
    ]

    def decode(found: list[int]) -> str:
        return str(tokens.decode(found, skip_special_tokens=False))

    asked = [(before, decode(after)) for before, after in pairs]
    return [
        in_turn(
            "text_encode_after", "answers/s", "tokenizers' encode of the answer alone", ANSWERS,
            lambda: [text.encode_after(tokens, before, answer) for before, answer in asked],
            lambda: [tokens.encode(answer, add_special_tokens=False).ids for _, answer in asked],
        ),
        in_turn(
            "text_decode_after", "answers/s", "tokenizers' decode of the answer alone", ANSWERS,
            lambda: [text.decode_after(decode, before, after) for before, after in pairs],
            lambda: [decode(after) for _, after in pairs],
        ),
    ]  # fmt: skip
