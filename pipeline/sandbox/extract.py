"""Inside the sandbox: the program that a response means, found in its text and never run here.

Given on stdin {response, prompt, entry_point}, written to descriptor 3. It is done in the sandbox
because Python's own parser needs time and memory without end for some texts, or crashes.

Code is looked for in fences, else between the lines of prose, else as the rest of a function that
the prompt began. Of the parts that compile and define the entry point the last that is no stub is
the program; what it lacks (imports, helpers, constants) is taken from the other parts.
"""

import ast
import builtins
import json
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator

RESULT = 3
TRIES = 40  # places at which a part may end
FENCE = re.compile(r"^(?P<quote>[ \t]*>)?[ \t>]*(?:[-*+]|\d+[.)])?[ \t]*(?:`{3,}|~{3,})[^`\n]*$")
QUOTED = re.compile(r"^[ \t]*>[ ]?", re.MULTILINE)
SESSION = re.compile(r"^[ \t]*(?:>>>|\.\.\.:?|In \[\d+\]:)[ ]?", re.MULTILINE)
INDENTED = re.compile("^[ \t\u00a0]+", re.MULTILINE)
TAG = re.compile(
    r"</?(?:answer|code|pre|python|solution)[^>\n]*>|\[(?:/?PYTHON|BEGIN|DONE)\]", re.IGNORECASE
)
THOUGHT = re.compile(r"^.*</think(?:ing)?>", re.DOTALL)
BEGINS = re.compile(r"(?:async|class|def|from|if|import|try|with)\b|[@#]|[A-Za-z_]\w*\s*[:=\[]")
NEXT = re.compile(r"^(?:class|def|#|if|print)", re.MULTILINE)  # HumanEval's own stop words
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def program(response: str, prompt: str, entry_point: str) -> str:
    """The whole source. Where nothing in the response compiles, what the tests will refuse."""
    prompt, response = (text.replace("\r\n", "\n") for text in (prompt, response))
    response = THOUGHT.sub("", response)
    response = INDENTED.sub(lambda m: m[0].replace("\u00a0", " "), response)
    lines = response.split("\n")
    texts = list(fenced(lines))
    blocks = [textwrap.dedent(text) for text in texts]
    bodies = texts[::-1] or [response]
    for parts in ([p for block in blocks for p in compiled(block)], compiled(response)):
        defining = [part for part in parts if entry_point in defined(part)]
        whole = [part for part in defining if not stub(part, entry_point)]
        if defining and not whole:  # the body may stand apart
            source = continued(prompt, bodies)
            if tree(source) is not None and not stub(source, entry_point):
                return source
        if defining:
            return joined(before(prompt, entry_point), (whole or defining)[-1], parts)
    return continued(prompt, bodies)


def tree(source: str) -> ast.Module | None:
    """The parsed source, or None where it does not compile."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = ast.parse(source)
            compile(source, "answer.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None
    return parsed


def fenced(lines: list[str]) -> Iterator[str]:
    """Yield the text inside each fence; one inside a docstring encloses nothing."""
    marks = [index for index, line in enumerate(lines) if FENCE.match(line)]
    while marks:
        start = marks.pop(0)
        ends = [*marks, len(lines)]
        texts = [_unquoted(lines[start], lines[start + 1 : end]) for end in ends[:TRIES]]
        whole = [i for i, text in enumerate(texts) if parses(text)]
        place = whole[0] if whole else 0
        yield texts[place]
        marks = marks[place + 1 :]


def _unquoted(mark: str, lines: list[str]) -> str:
    text = "\n".join(lines).removesuffix("\n") + "\n"
    quoted = FENCE.match(mark)
    return QUOTED.sub("", text) if quoted and quoted["quote"] else text


def parses(text: str) -> bool:
    """Whether it is Python, be it the rest of a function."""
    return tree("def f():\n" + textwrap.indent(textwrap.dedent(text) or "pass", " ")) is not None


def compiled(text: str) -> list[str]:
    """The longest runs of lines that compile, in order."""
    if tree(text) is not None and not TAG.match(text.lstrip()):
        return [text]
    if SESSION.match(text.lstrip()):
        text = SESSION.sub("", text)
    lines = textwrap.dedent(TAG.sub("\n", text)).split("\n")
    parts, start = [], 0
    while start < len(lines):
        end = _end(lines, start) if BEGINS.match(lines[start]) else start
        if end > start:
            parts.append("".join(f"{line}\n" for line in lines[start:end]))
        start = max(end, start + 1)
    return parts


def _end(lines: list[str], start: int) -> int:
    """Behind the last line of the longest run from `start` that compiles; `start` if none does."""
    end = len(lines)
    for _ in range(TRIES):
        if end <= start:
            break
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile("\n".join(lines[start:end]), "answer.py", "exec", dont_inherit=True)
            return end
        except SyntaxError as error:
            end = min(end - 1, start + max((error.lineno or 1) - 1, 0))
        except (ValueError, RecursionError, MemoryError, OverflowError):
            break
    return start


def statements(module: ast.Module) -> Iterator[ast.stmt]:
    """Those of the module itself, in its conditions too."""
    todo = list(module.body)
    while todo:
        one = todo.pop(0)
        yield one
        for field in ("body", "orelse", "finalbody", "handlers") * (
            not isinstance(one, DEFINITIONS)
        ):
            todo += getattr(one, field, [])


def names(statement: ast.stmt) -> set[str]:
    """The names that a statement of the module defines."""
    if isinstance(statement, DEFINITIONS):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {x.asname or x.name.split(".")[0] for x in statement.names}
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return {
            x.id
            for x in ast.walk(statement)
            if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)
        }
    return set()


def defined(source: str) -> set[str]:
    found = tree(source)
    return set().union(*map(names, statements(found))) if found else set()


def stub(source: str, entry_point: str) -> bool:
    """Whether the last definition of the function has no body but a docstring, ... or pass."""
    functions = [
        x
        for x in statements(tree(source) or ast.Module([], []))
        if isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef) and x.name == entry_point
    ]
    return bool(functions) and all(
        isinstance(x, ast.Pass) or (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))
        for x in functions[-1].body
    )


def lacking(source: str) -> set[str]:
    """Names that it uses and nothing in it makes."""
    nodes = list(ast.walk(tree(source) or ast.Module([], [])))
    used = {x.id for x in nodes if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load)}
    made = {x.id for x in nodes if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    made |= {x.arg for x in nodes if isinstance(x, ast.arg)}
    for node in nodes:
        if isinstance(node, ast.stmt):
            made |= names(node)
    return used - made - vars(builtins).keys()


def before(prompt: str, entry_point: str) -> str:
    """The text of the prompt before the function: imports and helpers."""
    head = re.search(rf"^(?:async )?(?:def|class) {entry_point}\b", prompt, re.MULTILINE)
    return prompt[: head.start()] if head else ""


def joined(prefix: str, main: str, parts: list[str]) -> str:
    """The part behind the prompt's beginning and what it lacks of the other parts."""
    others = [
        (statement, ast.get_source_segment(part, statement) or "")
        for part in parts
        if part is not main
        for statement in (tree(part) or ast.Module([], [])).body
    ]
    taken = {i for i, (one, _) in enumerate(others) if future(one)}
    while True:
        needed = lacking("\n".join([prefix, *(others[i][1] for i in sorted(taken)), main]))
        more = {i for i, (one, _) in enumerate(others) if names(one) & (needed | {"*"})} - taken
        if not more:
            break
        taken |= more
    extras = "".join(f"{_decorated(others[i][0], others[i][1])}\n" for i in sorted(taken))
    return future_first(f"{prefix}\n{extras}{main}")


def future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _decorated(statement: ast.stmt, source: str) -> str:
    """The source segment leaves decorators out."""
    decorators = getattr(statement, "decorator_list", [])
    return "".join(f"@{ast.unparse(x)}\n" for x in decorators) + source


def future_first(source: str) -> str:
    """`from __future__` where Python wants it, whatever the parts were joined to."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source
    lines, features = source.split("\n"), []
    for one in body:
        if isinstance(one, ast.ImportFrom) and one.module == "__future__":
            features += [x.name for x in one.names]
            for number in range(one.lineno - 1, one.end_lineno or one.lineno):
                lines[number] = ""
    if not features or tree(source) is not None:
        return source
    return f"from __future__ import {', '.join(dict.fromkeys(features))}\n" + "\n".join(lines)


def continued(prompt: str, bodies: list[str]) -> str:
    """The prompt with the body that a response goes on with, up to where something else begins."""
    for body in bodies:
        after = NEXT.search(body, 1)
        cut = body[: after.start()] if after else body
        first = re.search(r"^[ \t]+\S", cut, re.MULTILINE)
        told = cut[: first.start()] if first else ""
        begun = re.search(r"^(?:async\s+)?def\b", told, re.MULTILINE)  # the body of another one
        forms = [cut, cut if begun else cut[len(told) :]]
        forms += [f"    {cut}", textwrap.indent(textwrap.dedent(cut), "    ")]
        for form in forms:
            if tree(prompt + form) is not None:
                return prompt + form
        for form in forms:
            lines = (prompt + form).split("\n")
            end = _end(lines, 0)
            if end > prompt.count("\n") and len("\n".join(lines[:end]).rstrip()) > len(prompt):
                return "\n".join(lines[:end]) + "\n"
    return prompt + bodies[0]


if __name__ == "__main__":
    with open(RESULT, "wb") as result:
        result.write(json.dumps(program(**json.load(sys.stdin))).encode())
