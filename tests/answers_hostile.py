"""Two hundred answers that a grader must survive, made from families. None equals GOLD."""

# ruff: noqa: RUF001 - digits that are no ASCII are what this is about

import unicodedata

GOLD = "1764"
GOOD = "Working: 42 times 42.\nThe result is $\\boxed{1764}$."


def boxed(text):
    return f"So it is \\boxed{{{text}}}."


def powers():
    towers = [
        "9^{9^{9^9}}",
        "10^{10^{10}}",
        "2^{2^{2^{2^{2^2}}}}",
        "(-1)^{10^{100}}",
        "0.5^{9^{9^9}}",
    ]
    return [boxed(x) for n in (1, 2) for x in (f"{n}+{t}" for t in towers)]


def factorials():
    return [boxed(f"{10**n}!") for n in range(3, 11)] + [
        boxed(f"\\binom{{{10**n}}}{{{10**n // 2}}}") for n in range(3, 11)
    ]


def nested():
    kinds = ["\\frac{1}{%s}", "\\sqrt{%s}", "{%s}", "\\left(%s\\right)", "x^{%s}", "\\text{%s}"]
    found = []
    for kind in kinds:
        for depth in (10, 100, 1000):
            text = "2"
            for _ in range(depth):
                text = kind.replace("%s", text)
            found.append(boxed(text))
    return found


def long():
    return [
        boxed("1" * 100_000),
        boxed("1+" * 50_000 + "1"),
        "x" * 100_000,
        "\\boxed{" * 14_000,
        "\\boxed" * 16_000,
        "{" * 100_000,
        "}" * 100_000,
        "Answer:" * 15_000,
        "answer " * 15_000,
        "answer" + " " * 100_000,
        "#### " * 20_000,
        "\\" * 100_000,
        "*" * 100_000,
        "$" * 100_000,
        " " * 100_000,
        "\n" * 100_000,
        "\\boxed{1}" * 11_000,
        boxed(" " * 100_000),
        "\\boxed" + " " * 100_000 + "{2}",
        "Answer: " + "9" * 100_000,
    ]


def broken():
    endings = ["", "{", "{1764", "{\\frac{1}{2}", "{{1764}", "{1764\\}", "[1764]", "1764", "(1764)"]
    return [f"We get \\boxed{x}" for x in endings] + [
        boxed(x)
        for x in (
            *("\\frac{1}", "\\frac", "\\sqrt[", "^", "_", "1^", "\\left(1", "\\begin{pmatrix}1"),
            *(
                "\\end{matrix}",
                "&&&",
                "\\\\\\",
                "1/0",
                "0/0",
                "\\frac{1}{0}",
                "\\log 0",
                "0^0",
                "!",
            ),
        )
    ]


def odd():
    return [
        boxed(x)
        for x in (
            *("١٧٦٥", "１７６５", "𝟙𝟟𝟞𝟝", "①", "Ⅻ", "一千", "½", "√3", "∞", "π", "٪", "²"),
            *("\0", "17\0 65", "\x1b[2J", "\u202e4671", "\u200b", "\ufeff", "\ud7ff", "\U0010ffff"),
            *("\\input{/etc/passwd}", "\\write18{touch /tmp/omniopd-owned}", "\\def\\x{\\x}\\x"),
            *(
                "__import__('os').system('touch /tmp/omniopd-owned')",
                "eval('1764')",
                "1764 if 0 else 1",
            ),
            *("exec", "lambda", "None", "True", "nan", "inf", "-inf", "1e400", "0x6e5", "1_765"),
            *(
                "DROP TABLE evals",
                "<script>alert(1)</script>",
                "%s%n",
                "{{7*7}}",
                "${HOME}",
                "e",
                "i",
            ),
        )
    ]


def digits():
    """1765 in the digits of thirty scripts."""
    zeros = [chr(i) for i in range(0x600, 0x2000) if unicodedata.decimal(chr(i), None) == 0]
    return [boxed("".join(chr(ord(zero) + int(d)) for d in "1765")) for zero in zeros][:30]


def large():
    many = ",".join(map(str, range(200)))
    numbers = ",".join(map(str, range(160_000)))
    return [
        boxed(f"\\{{{numbers}\\}}"),
        boxed(f"\\{{{many}\\}}"),
        boxed(f"({many})"),
        boxed("+".join(["x"] * 400)),
        boxed("(x+1)" * 100),
        boxed("(x+1)^{1000000}"),
        boxed("(a+b+c+d+e)^{200}"),
        boxed("\\sum_{i=1}^{10^{12}} i^{i}"),
        boxed("\\prod_{i=1}^{10^{9}} i"),
        boxed("\\int_0^1 x^{x^{x}} dx"),
        boxed("\\int \\sin(\\cos(\\tan(\\log(x^x)))) dx"),
        boxed("\\lim_{x \\to 0} \\frac{\\sin(x^{x})}{x^{x^{x}}}"),
        boxed("\\sin(" * 60 + "x" + ")" * 60),
        boxed("\\sqrt[1000000007]{2}"),
        boxed("\\log_{2}(3^{10^{9}})"),
        boxed("2^{1000000000}"),
        boxed("\\frac{10^{1000000}}{10^{999999}}"),
        boxed("10^{100000000} \\mod 7"),
        boxed("\\begin{pmatrix}" + "1&2\\\\" * 200 + "\\end{pmatrix}"),
        boxed("\\begin{pmatrix}" + "&".join(["1"] * 300) + "\\end{pmatrix}"),
        boxed("[0," + "9" * 900 + "]"),
        boxed("(-\\infty,1)" + "\\cup(2,3)" * 90),
        boxed("x=" * 400 + "1"),
        boxed("1<" * 400 + "2"),
        boxed("\\pm" * 300 + "1"),
    ]


def markdown():
    found = [
        "**1765**",
        "*1765*",
        "`1765`",
        "__1765__",
        "~~1764~~",
        "# 1764",
        "> 1764",
        "[1764](x)",
    ]
    return (
        [f"**Answer:** {x}" for x in found]
        + [f"The answer is {x}." for x in found]
        + [f"#### {x}" for x in ("", "1765", "1,765", "$2$", "1764 1764", "1764.5", "-1764")]
    )


def hostile():
    families = (powers, factorials, nested, long, broken, odd, digits, large, markdown)
    return [(family.__name__, answer) for family in families for answer in family()]
