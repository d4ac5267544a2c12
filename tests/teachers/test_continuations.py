import pytest

from pipeline.teachers.continuations import CLOSE, OPEN, Trimmed, failure, instruct, trim

MATHS = (
    "Let $x$ be the number of apples. Then $3x + 5 = 20$.\nSubtracting 5 from both sides, we get"
)
STORY = "Once upon a time there was a tin soldier who had but one leg. He stood on the table and"
GOES_ON = " $3x = 15$, hence $x = 5$.\n\nThe answer is 5."


def text_of(prefix, raw):
    return trim(prefix, raw).text


# what is asked


def test_the_prefix_is_quoted_in_the_last_message_and_the_others_stay():
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "What is {x}?"}]
    first, last = instruct(messages, MATHS)
    assert first == messages[0]
    assert last["role"] == "user"
    assert last["content"].startswith("What is {x}?\n")
    assert f"{OPEN}\n{MATHS}\n{CLOSE}" in last["content"]


def test_an_empty_prefix_asks_the_problem_itself_and_nothing_of_the_answer_is_trimmed():
    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    assert instruct(messages, "") == messages
    raw = "Sure! Here is the rest of the answer:\n\n2 + 3 = 5"
    assert trim("", raw) == Trimmed(raw, 0, False)
    assert failure("", raw, ended=True) is None


# continuations that stay as they are


@pytest.mark.parametrize(
    ("prefix", "raw"),
    [
        (MATHS, GOES_ON),
        (MATHS, GOES_ON.lstrip()),
        ("We add: 1 + 1 +", " 1 + 1 = 4"),
        ("Multiplying, (2x + 1)^2 = (2x + 1)", "(2x + 1) = 4x^2 + 4x + 1"),
        (r"and so $(\sqrt{2})^2 = \sqrt{2}", r"\sqrt{2} = 2$"),
        ("1/9 = 0.11", "1111..."),
        ("so it equals 1", "12 apples"),
        ("the sum is $x +", " x + y$"),
        ("by the triangle inequality, the", "theorem holds"),  # `the` is a whole word
        ("we conclude that", " thatched roofs burn"),  # the space starts a word of its own
        ("a row of 1 + 1 + 1 + 1 + 1 + 1 +", " 1 + 1 + 1 + 1 + 1 + 1 = 12"),
        ("We saw a cat. We saw a cat. We saw a cat.", " We saw a cat. We saw a cat. We saw"),
        (STORY, " sure enough, it fell"),
        (STORY + ".", " Sure enough, he fell off the table.\n\nNobody saw it."),
        ("The sum is even.", "Certainly the product is even too.\n\nSo"),
        ("There are three cases.", "Here are the three cases:\n\n1. $n = 0$"),
        ("We divide.", "Here is the remainder of the division:\n\n$r = 3$"),
        ("We divide.", "Continuing the division, we get:\n\n$q = 7$"),
        ("Hmm.", "Okay, so I need the area.\nIt is 12."),
        (STORY + ".", "As an AI researcher would say, he was alone."),
        (STORY + ".", "I can't help but pity him."),
        (STORY + ".", "I cannot help him now, he thought."),
        ("With 3 as denominator,", "I cannot write 2/3 as a finite decimal."),
        (
            '"Help me!" cried the soldier.\n\n"',
            "I'm sorry, but I can't help you with that,\" it said.",
        ),
        ("\u201cCome,\u201d said he. \u201c", "I cannot do that,\u201d said she."),
        (
            "The probability of a red ball is 3/7.",
            "The probability of a blue ball is 4/7, as there are four of them.",
        ),
        ("First, we find the area.", "First, we find the side, which is the root of the area."),
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_a_continuation_stays_as_it_is_and_is_no_failure(prefix, raw, ended):
    assert trim(prefix, raw) == Trimmed(raw, 0, False)
    assert failure(prefix, raw, ended) is None


# repeats


@pytest.mark.parametrize(
    ("prefix", "raw", "wanted"),
    [
        (MATHS, "Subtracting 5 from both sides, we get" + GOES_ON, GOES_ON),
        (MATHS, MATHS + GOES_ON, GOES_ON),
        (MATHS, "\n\nfrom both sides, we get" + GOES_ON, GOES_ON),
        (f"{MATHS}\n\n", f"{MATHS}\n\n$3x = 15$", "\n\n$3x = 15$"),
        ("It follows.\n3x + 5 = 20 -", "3x + 5 = 20 - 5 + 0", " 5 + 0"),  # from its line's start
        ("To", "To find the area, multiply.", " find the area, multiply."),
        ("Let's", "Let's solve this.", " solve this."),
        ("the area of the trian", "triangle is 12", "gle is 12"),
        (r"so it is $\fr", r"frac{1}{2}$", r"ac{1}{2}$"),
        ("which is non", "nonzero", "zero"),
        ("there are 12", "125 apples", "5 apples"),
        ("naïve Stra\u00dfenb", "Stra\u00dfenbahn", "ahn"),
        ("the area of the trian", "gle is 12", "gle is 12"),
    ],
)
def test_what_repeats_the_end_of_the_prefix_is_trimmed(prefix, raw, wanted):
    found = trim(prefix, raw)
    assert found.text == wanted
    assert raw.endswith(wanted)
    assert failure(prefix, raw, ended=True) is None


def test_the_overlap_counts_the_repeated_characters():
    repeated = "Subtracting 5 from both sides, we get"
    assert trim(MATHS, repeated + GOES_ON) == Trimmed(GOES_ON, len(repeated), False)


# announcements and tags


@pytest.mark.parametrize(
    "preamble",
    [
        "Sure!\n\n",
        "Sure! Here's the continuation:\n\n",
        "Certainly! Here is the continuation of the answer:\n",
        "Okay, here\u2019s the rest of the solution:\n\n",
        "Of course.\n\nHere is what comes next:\n\n",
        "**Continuation:**\n\n",
        "## Continuation\n\n",
        "Continuation: ",
        "Continuing from where the answer breaks off:\n\n",
        "Continuing from the given text:\n\n",
        "I'll continue from where it left off.\n\n",
        "Sure thing! Here are the next words:\n",
        "Here is the continuation: ",
    ],
)
def test_an_announcement_is_trimmed(preamble):
    raw = preamble + GOES_ON.lstrip()
    assert trim(MATHS, raw) == Trimmed(GOES_ON.lstrip(), 0, True)
    assert failure(MATHS, raw, ended=True) is None
    assert failure(MATHS, preamble, ended=True) == "failed-empty"


def test_an_announcement_before_a_repeat_goes_with_it():
    raw = "Sure! Here is the continuation:\n\n...from both sides, we get" + GOES_ON
    assert text_of(MATHS, raw.replace("...", "")) == GOES_ON


@pytest.mark.parametrize(
    "raw",
    [
        f"{GOES_ON}\n{CLOSE}",
        f"{GOES_ON}{CLOSE}\n\nI hope this helps!",
        f"{OPEN}{GOES_ON}\n{CLOSE}",
        f"{OPEN}\n{MATHS}{GOES_ON}\n{CLOSE}",
        f"{OPEN}\n{MATHS}\n{CLOSE}{GOES_ON}",
        f"{MATHS}\n{CLOSE}{GOES_ON}",
        f"{CLOSE}{GOES_ON}",
        f"{CLOSE}\n\nSubtracting 5 from both sides, we get{GOES_ON}",
    ],
)
def test_the_tags_are_no_part_of_a_continuation(raw):
    assert text_of(MATHS, raw).strip() == GOES_ON.strip()
    assert failure(MATHS, raw, ended=True) is None


# failures


@pytest.mark.parametrize(
    "raw",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with this request.",
        "I cannot continue this text.",
        "I can't provide instructions for building this.",
        "I'm not able to help you with that.",
        "I am unable to comply with your request.",
        "I won't write that.",
        "I apologize, but I cannot complete the answer.",
        "Sorry, I can't do that.",
        "Unfortunately, I cannot generate content of this kind.",
        "As an AI language model, I have no opinion.",
        "As an AI, I cannot feel.",
        "\n\nI'm sorry, I can't continue with this story.",
    ],
)
def test_a_refusal_is_a_failure(raw):
    assert failure(STORY, raw, ended=True) == "refusal"
    assert failure("", raw, ended=True) == "refusal"


def test_a_refusal_later_in_the_answer_is_part_of_it():
    assert failure(STORY, " said: \"I'm sorry, but I can't help with that.\"", ended=True) is None


def test_an_answer_that_starts_over_is_a_restart_at_the_token_limit_and_before_it():
    assert failure(STORY, STORY[:70], ended=False) == "restart"
    assert failure(STORY, f"\n{OPEN}\n{STORY[:70]}", ended=False) == "restart"
    assert failure(STORY, f"Sure!\n\n{STORY[:50]} and so on.", ended=True) == "restart"


def test_a_repeat_that_leaves_too_few_tokens_is_a_restart_unless_the_teacher_ended():
    raw = MATHS + " 3x = 15."
    assert failure(MATHS, raw, ended=False) == "restart"
    assert failure(MATHS, raw, ended=True) is None
    assert text_of(MATHS, raw) == " 3x = 15."


def test_a_comment_behind_the_tag_counts_as_lost_at_the_token_limit():
    raw = f"{GOES_ON}{CLOSE}\n\nThis continues the answer in the same style, and I would add that"
    assert failure(MATHS, raw, ended=False) == "restart"
    assert failure(MATHS, raw, ended=True) is None


@pytest.mark.parametrize("raw", ["", " \n", MATHS[-30:], CLOSE])
def test_nothing_new_is_an_answer_only_if_the_teacher_ended_there(raw):
    assert failure(MATHS, raw, ended=True) is None
    assert failure(MATHS, raw, ended=False) == "failed-empty"
    assert text_of(MATHS, raw).strip() == ""
