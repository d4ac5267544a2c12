"""What a judge is asked, and how its replies are read."""

import pytest

from pipeline.method import judging


def test_a_judge_is_shown_the_request_and_both_answers_in_their_order():
    (asked,) = judging.messages([{"role": "user", "content": "1+{1}?"}], "two", "three {x}")
    text = asked["content"]
    assert asked["role"] == "user"
    assert text.index("1+{1}?") < text.index("two") < text.index("three {x}")
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    (asked,) = judging.messages(talk, "a", "b")
    assert "system: Be brief.\n\nuser: Hi" in asked["content"]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("A", "first"), ("b.", "second"), (" **B** is better", "second"), ("Answer A", "first"),
        ("(A)", "first"), ("answer: b", "second"), ("tie", "tie"), ("Tie.", "tie"),
        ("Both are wrong", "tie"), ("A tie.", "tie"), ("Neither", "tie"), ("equal", "tie"),
        ("\n\nA\n", "first"),
        ("A and B are equal", "tie"), ("The better answer is B.", "second"),
        ("Equally good", "tie"), ("A: it is right", "first"), ("B is right, A is not", "second"),
        ("A better one is B", None),
        ("", None), ("As both", None), ("The first", None), ("Banana", None), ("C", None),
    ],
)  # fmt: skip
def test_a_reply_is_read_by_its_first_word(said, wanted):
    assert judging.verdict(said) == wanted
