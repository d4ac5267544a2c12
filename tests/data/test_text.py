"""Continuations as text and as ids, for each kind of tokenizer."""

import functools

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from pipeline.config.method import Forks
from pipeline.data import schemas
from pipeline.data.text import LOST, characters, decode, decode_after, encode_after, starts, whole
from pipeline.engines import checkpoints
from pipeline.method.forks import forks
from tests import layouts

BYTES = layouts.byte_level(layouts.LLAMA_3.special)
SINGLE = layouts.qwen(layouts.QWEN_3.special)
PREFIXED = layouts.prefixed(layouts.MISTRAL_7.special)
PLAIN = layouts.unprefixed(layouts.GEMMA_3.special)
for layout, found in (
    *((layouts.LLAMA_3, BYTES), (layouts.QWEN_3, SINGLE)),
    *((layouts.MISTRAL_7, PREFIXED), (layouts.GEMMA_3, PLAIN)),
):
    found.add_special_tokens(list(layout.special))
KINDS = {"llama3": BYTES, "qwen": SINGLE, "mistral": PREFIXED, "gemma": PLAIN}
KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def ids(kind, text):
    return list(kind.encode(text, add_special_tokens=False).ids)


def pieces(kind, found):
    return [kind.id_to_token(x) for x in found]


BEHIND = [  # a prefix and what follows it, where encoding alone or as one goes wrong
    ("the carr", "ied on"),  # inside a word
    ("the carr", "iage is here"),
    ("the", " sum"),  # begins with a space
    ("the ", "sum"),  # ends with one
    ("the ", " sum"),  # both
    ("one\n", "two"),  # behind a line break
    ("one\n\n", "\n  two"),
    ("12", "345 = 357"),  # digits that would be one token with those before
    ("1", "2"),
    ("def f(x):\n", "    return x"),
    ("sch", "ön 你好 🦄"),
    ("你", "好"),
    ("x = ", "\t\tvalue\n"),
    ("", "the sum"),
    ("", " the sum"),
]


@KIND
@pytest.mark.parametrize(("before", "text"), BEHIND)
def test_ids_behind_a_prefix_leave_it_alone_and_say_the_text(kind, before, text):
    prefix = ids(kind, before)
    found = encode_after(kind, prefix, text)
    whole_text = kind.decode([*prefix, *found])
    assert whole_text == before + text
    assert decode_after(functools.partial(decode, kind), prefix, found) == text


@KIND
@pytest.mark.parametrize(("before", "text"), BEHIND)
def test_ids_are_those_of_both_texts_as_one_where_the_cut_is_between_two(kind, before, text):
    prefix, joint = ids(kind, before), ids(kind, before + text)
    if joint[: len(prefix)] == prefix:
        assert encode_after(kind, prefix, text) == joint[len(prefix) :]


def test_no_space_is_put_into_a_word_behind_a_prefix_space_tokenizer():
    prefix = ids(PREFIXED, "the carr")
    assert pieces(PREFIXED, encode_after(PREFIXED, prefix, "ied")) == ["ied"]
    assert "▁" in pieces(PREFIXED, ids(PREFIXED, "ied"))[0]  # what encoding it alone would give


def test_digits_behind_digits_stay_what_the_student_wrote():
    prefix = ids(BYTES, "12")
    found = encode_after(BYTES, prefix, "345")
    assert BYTES.decode([*prefix, *found]) == "12345"
    assert encode_after(SINGLE, ids(SINGLE, "12"), "345") == ids(SINGLE, "345")


@pytest.mark.parametrize(
    ("kind", "mark"),
    [(BYTES, "<|end_header_id|>"), (SINGLE, "<|im_start|>"), (PREFIXED, "<s>"), (PLAIN, "<bos>")],
)
@pytest.mark.parametrize("text", ["The sum", " The sum", "\n\nThe", "schön"])
def test_text_behind_a_special_token_of_a_prompt_keeps_its_first_character(kind, mark, text):
    before = [kind.token_to_id(mark)]
    found = encode_after(kind, before, text)
    assert decode_after(functools.partial(decode, kind), before, found).lstrip() == text.lstrip()
    assert mark not in pieces(kind, found)
    # behind its own first tokens it goes on as it was written
    rest = encode_after(kind, [*before, *found], " and more")
    assert kind.decode([*found, *rest]).endswith(f"{text.lstrip()} and more")


@KIND
@pytest.mark.parametrize("text", ["a\ufffdb", "\ufffd", "ab\ufffd\ufffd", "\ufffdab"])
def test_what_stands_for_no_character_is_never_encoded(kind, text):
    prefix = ids(kind, "the")
    found = encode_after(kind, prefix, text)
    assert kind.decode([*prefix, *found]) == "the" + text.replace(LOST, "")


@KIND
@pytest.mark.parametrize("character", ["🦄", "界", "\u0915"])
def test_what_is_left_of_a_character_is_dropped(kind, character):
    own, before = functools.partial(decode, kind), ids(kind, "the s")
    found = encode_after(kind, before, f"um {character}")
    assert characters(own, before, found)[0] == found
    lost = 0
    for cut in range(1, len(found)):
        kept = characters(own, before, found[:-cut])[0]
        text = decode_after(own, before, kept)
        assert kept == found[: len(kept)]
        assert "um ".startswith(text)
        lost += len(kept) < len(found) - cut
    assert lost > 0  # it is several tokens


def test_a_line_break_that_is_a_byte_is_kept_where_the_character_behind_it_is_cut():
    """Byte fallback decodes a run of bytes as one: all of it is lost where one is missing."""
    own = functools.partial(decode, PREFIXED)
    found = ids(PREFIXED, "sum\n🦄")
    short = found[:-2]
    assert PREFIXED.decode(short) == "sum" + 3 * LOST  # the line break too
    assert decode_after(own, [], characters(own, [], short)[0]) == "sum\n"


def test_a_chunk_keeps_it_too_as_its_answers_do():
    found = ids(PREFIXED, "sum\n🦄 and")
    row = {
        "rollout_id": "r",
        "prompt_id": "p",
        "sample": 0,
        "round": 1,
        "prompt_token_ids": [1],
        "token_ids": found,
        "logprobs": [-1.0] * len(found),
        "entropies": [2.0] + [0.0] * (len(found) - 1),
        "text": "sum\n🦄 and",
        "finish_reason": "length",
        "reward": None,
    }
    cut = pieces(PREFIXED, found).index("<0xF0>") + 2
    p = Forks(scheduler="peak-entropy", max_forks=1, chunk_tokens=cut)
    rollouts = pa.Table.from_pylist([row], schema=schemas.ROLLOUTS)
    (fork,) = forks(rollouts, PREFIXED, p, 0, 1).to_pylist()
    assert (fork["position"], fork["prefix_text"], fork["chunk_text"]) == (0, "", "sum\n")


@KIND
def test_a_fork_starts_at_a_character_and_nowhere_else(kind):
    text = "schön 🦄🦄, 你好.\nДым"
    found = ids(kind, text)
    eligible = [starts(text, kind.decode(found[:at])) for at in range(len(found))]
    inside = [kind.decode(found[:at]).endswith(LOST) for at in range(len(found))]
    assert any(inside)
    assert not any(a and b for a, b in zip(eligible, inside, strict=True))
    # behind each whole character: a byte-level decoder loses nothing but that character
    assert eligible == [not x for x in inside]


def test_text_behind_a_cut_character_is_what_follows_it():
    own = functools.partial(decode, BYTES)
    unicorn = ids(BYTES, "🦄")
    assert decode_after(own, unicorn[:-1], [unicorn[-1], *ids(BYTES, " on")]) == "🦄 on"
    assert whole(own(unicorn[:-1])) == ""


def test_a_tokenizer_that_normalises_gives_ids_all_the_same():
    lower = Tokenizer(
        models.BPE(unk_token="<unk>", vocab={"<unk>": 0, "a": 1, "b": 2, " ": 3}, merges=[])
    )
    lower.normalizer = normalizers.Lowercase()
    lower.decoder = decoders.Fuse()
    before = ids(lower, "ab")
    assert encode_after(lower, before, " AB") == [3, 1, 2]
    composed = encode_after(SINGLE, ids(SINGLE, "sch"), "o\u0308n")  # NFC makes one letter of two
    assert SINGLE.decode(composed) == "ön"


def test_long_prefixes_are_looked_at_from_behind():
    prefix = ids(PREFIXED, "the carriage is here and " * 40 + "the carr")
    assert pieces(PREFIXED, encode_after(PREFIXED, prefix, "ied")) == ["ied"]
    own = functools.partial(decode, PREFIXED)
    assert decode_after(own, prefix, ids(PREFIXED, "the sum")) == " the sum"


@pytest.mark.parametrize("kind", [BYTES, PREFIXED], ids=["bytes", "pieces"])
def test_truncation_and_padding_that_were_saved_cut_nothing(kind, tmp_path):
    copy = Tokenizer.from_str(kind.to_str())
    copy.enable_truncation(8)
    copy.enable_padding(length=64)
    path = tmp_path / "tokenizer.json"
    copy.save(str(path))
    text = "The carriage was carried over the hill. " * 9
    assert len(Tokenizer.from_file(str(path)).encode(text).ids) == 64
    assert ids(checkpoints.tokenizer(path), text) == ids(kind, text)


def test_bytes_at_random_never_crash_and_never_leave_a_half_character():
    draw = np.random.default_rng(0)
    for kind in KINDS.values():
        own = functools.partial(decode, kind)
        for _ in range(200):
            before, found = draw.integers(0, kind.get_vocab_size(), (2, 6)).tolist()
            kept = characters(own, before, found)[0]
            assert kept == found[: len(kept)]
            assert not decode_after(own, before, kept).endswith(LOST)


def test_a_byte_level_tokenizer_that_puts_a_space_first_is_encoded_behind_the_prefix():
    spaced = Tokenizer(
        models.BPE(
            vocab={x: i for i, x in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))},
            merges=[],
        )
    )
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    spaced.decoder = decoders.ByteLevel()
    before = ids(spaced, "the carr")
    assert spaced.decode(encode_after(spaced, before, "ied")) == "ied"
