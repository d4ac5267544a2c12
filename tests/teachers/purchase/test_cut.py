"""An answer cut to student tokens: its ends, its ids, its text behind the prefix."""

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from pipeline.core.errors import UserError
from pipeline.judgments.schema import Judgment
from pipeline.teachers.protocol import Said, until_end
from pipeline.teachers.purchase.truncation import Prefix, cut

END, TURN = 2, 3
VOCABULARY = {x: i for i, x in enumerate(["<unk>", "<s>", "</s>", "<turn>"])}
VOCABULARY |= {f"<0x{x:02X}>": x + 4 for x in range(256)}
VOCABULARY |= {x: i + 260 for i, x in enumerate("\u2581abcdefghijklmnopqrstuvwxyz")}


def student() -> Tokenizer:
    """Characters with a prefix space and byte fallback, as Llama 2's; <turn> is not special."""
    found = Tokenizer(models.BPE(VOCABULARY, [], unk_token="<unk>", byte_fallback=True))
    found.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    found.decoder = decoders.Sequence(
        [
            *(decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()),
            decoders.Strip(" ", 1, 0),
        ]
    )
    found.add_special_tokens(["<s>", "</s>"])
    found.add_tokens(["<turn>"])
    return found


STUDENT = student()


def ids(text):
    return STUDENT.encode(text, add_special_tokens=False).ids


def judgment(token_ids=None, text="", ended=False):
    values = dict.fromkeys(Judgment._fields)
    own = None if token_ids is None else tuple(token_ids)
    return Judgment(**values | {"token_ids": own, "text": text, "ended": ended, "token_limit": 20})


def after(prefix, said, limit, same=True):
    before = Prefix(prefix, ids(prefix) if prefix else [])
    return cut(judgment(), said, before, same, STUDENT, limit)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ([270, 271, END], ([270, 271], True)),  # ended as it should
        ([270, TURN, 271, 272], ([270], True)),  # the server did not know this end
        ([TURN, 270], ([], True)),  # at once
        ([270, END, TURN], ([270], True)),  # the first of two
        ([270, 271], ([270, 271], False)),  # cut off
    ],
)
def test_an_answer_goes_up_to_its_first_end(written, wanted):
    found = judgment(written, ended=written[-1] in (END, TURN))
    assert until_end(found, (TURN, END)) == wanted
    assert until_end(judgment(written, ended=True), ()) == (written, True)


def test_an_end_counts_as_a_token_and_is_no_text():
    said = Said("go", True, ids("a")[1:] + ids("b")[1:])
    assert after("the", said, 3)[:3] == ("ab", True, 3)
    assert after("the", said, 2)[:3] == ("ab", False, 2)
    assert after("the", said, 2).token_ids == said.token_ids
    assert after("the", Said("", True, []), 4) == ("", True, 1, [])


@pytest.mark.parametrize(
    ("prefix", "text", "whole"),
    [("the carr", "ied", "the carried"), ("the", " end", "the end"), ("so ", "it is", "so it is")],
)
def test_a_text_of_other_tokens_is_encoded_behind_the_prefix(prefix, text, whole):
    found = after(prefix, Said(text, True, None), 20, same=False)
    assert STUDENT.decode(ids(prefix) + found.token_ids) == whole
    assert found.text == text


def test_own_ids_keep_the_space_that_decoding_alone_would_lose():
    space_end = ids("end")  # begins with the space
    found = after("the", Said("end", False, space_end), len(space_end))
    assert (found.text, found.token_ids) == (" end", space_end)


@pytest.mark.parametrize("character", ["\u00e9", "\u4f60", "\U0001f642"])
def test_a_character_that_the_cut_leaves_incomplete_is_dropped(character):
    a, own = ids("a")[1:], ids(character)[1:]
    assert len(own) > 1
    for kept in range(1, len(own)):
        found = after("the", Said("", False, a + own), 1 + kept)
        assert (found.text, found.token_ids, found.tokens) == ("a", a, 1 + kept)
    assert after("the", Said("", False, a + own), 9).text == f"a{character}"


def test_what_stands_for_no_character_is_never_encoded():
    found = after("the", Said("a\ufffdb\ufffd", True, None), 9, same=False)
    assert found.text == "ab"
    assert STUDENT.token_to_id("<0xEF>") not in found.token_ids


def test_an_answer_too_short_in_student_tokens_is_an_error():
    with pytest.raises(UserError, match="are only 2 student tokens long, wanted 5"):
        after("the", Said("ab", False, None), 5, same=False)


def test_an_end_that_is_no_special_token_is_no_text_of_a_response():
    from pipeline.engines import hf

    tokenizer = SimpleNamespace(
        decode=lambda found, skip_special_tokens: STUDENT.decode(found, skip_special_tokens)
    )
    assert hf.decode_text(tokenizer, (TURN, END), [*ids("go"), TURN]) == "go"
    assert "<turn>" in hf.decode_text(tokenizer, (END,), [*ids("go"), TURN])
    # cut inside the third character: byte fallback alone would lose all three
    assert hf.decode_text(tokenizer, (END,), ids("go \u4f60\u597d\u4e16")[:-1]) == "go \u4f60\u597d"
