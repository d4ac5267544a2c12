"""A response's text cut at its tokens."""

from collections.abc import Sequence

from tokenizers import Tokenizer

UNFINISHED = "\ufffd"  # what a cut inside a character decodes to


def pieces(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[str]:
    """The text of each token. Their concatenation is `text`, the decoded `ids`.

    A character of several tokens belongs to the last of them; special tokens are empty. Decodes a
    window of a few tokens at a time, so that a response costs time in proportion to its length.
    """
    found, start, read = [], 0, 0
    for end in range(1, len(ids) + 1):
        before, after = _decode(tokenizer, ids[start:read]), _decode(tokenizer, ids[start:end])
        if len(after) > len(before) and after.startswith(before) and after[-1] != UNFINISHED:
            found.append(after[len(before) :])
            start, read = read, end
        else:
            found.append("")
    joined = "".join(found)
    if found and text.startswith(joined):  # what is left never became a whole character
        found[-1] += text[len(joined) :]
        return found
    return _by_prefix(tokenizer, ids, text)


def _by_prefix(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[str]:
    """The same from whole prefixes: quadratic, for tokenizers whose windows decode otherwise."""
    found, done = [], 0
    for end in range(1, len(ids) + 1):
        prefix = _decode(tokenizer, ids[:end])
        reached = len(prefix) if text.startswith(prefix) else done
        if end == len(ids):
            reached = len(text)
        found.append(text[done : max(reached, done)])
        done = max(reached, done)
    return found


def _decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))
