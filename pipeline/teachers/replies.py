"""Find replies that came with HTTP 200 and are no answer: an error, half a reply, another API's.

Errors that the server calls its own (busy, overloaded) and half replies are transient; a reply of
another shape would have it again.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pipeline.teachers.wire.calls import BUSY, MISSING, Refused, Result, Transient

LONGEST_ID = 128  # characters of a batch's id, as the store keeps it
MOST_TOKENS = 10_000_000  # that a reply can be about: more than any model reads or writes
STOP = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete"}
LENGTH = {"length", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens"}
LENGTH |= {"model_length"}
BROKEN_OFF = {"abort", "aborted", "cancelled", "canceled", "error", "timeout"}
BUSY_WORDS = re.compile(
    r"overload|server_error|internal error|rate.?limit|unavailable|time.?out|timed out|busy", re.I
)
# what reading a reply of another shape raises: a word for a number, 1e999, lists in lists
MISSHAPEN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
STREAM = re.compile(r"(data|event|id|retry)?:")
log = logging.getLogger("omniopd")


def opened(raw: Any, remedy: str | None = None) -> dict[str, Any]:
    """The reply as an object, also where it is not labelled as JSON.

    Raises Transient for half of a reply and for a server that says it is busy, else Refused.
    """
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except ValueError:
            raise broken(raw, remedy) from None
        except RecursionError:
            raise too_deep() from None
    if not isinstance(raw, dict):
        raise Refused(f"found {shown(raw)}, wanted an object of this API", remedy=remedy)
    if error := failure(raw):
        raise error
    return raw


def too_deep() -> Transient:
    return Transient("not a whole reply: lists in lists, deeper than any reply of this API goes")


def misshapen(error: Exception, raw: Any = "") -> Transient | Refused:
    """Why a reply could not be read: `error` is one of MISSHAPEN."""
    if isinstance(error, RecursionError):
        return too_deep()
    shape = f"{type(error).__name__} {shown(str(error))}"
    return Refused(f"not a reply of this API: {shape}" + (f" in {shown(raw)}" if raw else ""))


def rows(lines: str, parse: Callable[[dict[str, Any]], Result]) -> dict[str, Result]:
    """The results of a batch, JSON line by line, by the key of each request.

    A line without a key that can be read is said and left out: what it was about is sent again, and
    counts as paid for.
    """
    results: dict[str, Result] = {}
    for line in lines.split("\n"):  # str.splitlines ends lines inside of texts, too
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            key = str(content["custom_id"])
        except MISSHAPEN:
            said = f"{len(line):,} characters of a batch's results are no result"
            log.warning(f"teach: {said}")
            results[MISSING] = Transient(said)
            continue
        results[key] = row(partial(parse, content))
    return results


def row(parse: Callable[[], Result]) -> Result:
    """Parse one request's result; whatever it holds, it costs no other request."""
    try:
        return parse()
    except (Transient, Refused) as error:
        return error
    except MISSHAPEN as error:
        return Transient(str(misshapen(error)))


def known_id(found: Any) -> str:
    """The id of a batch that was handed in. Raises Transient: nobody knows what became of it."""
    if isinstance(found, str) and 0 < len(found) <= LONGEST_ID:
        return found
    raise Transient(f"found {shown(found)} as the id of a batch, wanted a name of it")


def broken(text: str, remedy: str | None = None) -> Transient | Refused:
    """Why a text is no JSON: a page, a stream, another text, or half of a reply."""
    start = text.lstrip()
    if start.startswith("<"):
        return Refused(f"found a page (HTML), {shown(start)}, wanted JSON", remedy=remedy)
    if STREAM.match(start):
        return Refused(
            f"found a stream of events, {shown(start)}, wanted one JSON reply",
            remedy="Switch streaming off in the server or in the proxy before it.",
        )
    if start and start[0] not in "{[":
        return Refused(f"found {shown(start)}, wanted JSON", remedy=remedy)
    return Transient(f"not a whole reply: {shown(text)}")


def failure(raw: dict[str, Any]) -> Transient | Refused | None:
    """The error that a reply with HTTP 200 brings, if it does."""
    error = raw.get("error")
    if not error:
        if "error" not in (raw.get("object"), raw.get("type")):
            return None
        error = raw
    body = error if isinstance(error, dict) else {"message": error}
    code = body.get("code") or body.get("status")
    about = [str(x) for x in (body.get("type"), code) if x and x != "error"]
    message = str(body.get("message") or body.get("detail") or body)
    text = f"an error in HTTP 200: {message}" + (f" ({', '.join(about)})" if about else "")
    known = str(code).isdecimal()
    busy = str(code) in map(str, BUSY) if known else BUSY_WORDS.search(" ".join([*about, message]))
    if busy and "insufficient_quota" not in text:
        return Transient(text, answered=True)
    return Refused(text)


def stopped(choice: dict[str, Any]) -> bool:
    """Whether a choice ended by itself. Raises Refused unless it says so, or that it was cut."""
    if error := failure({"error": choice.get("error")}):
        raise error
    reason = choice.get("finish_reason")
    word = str(reason).lower()
    if word in STOP or word in LENGTH:
        return word in STOP
    if word in BROKEN_OFF:
        raise Refused(
            f"finish_reason {reason!r}: the server broke the answer off",
            remedy="Its log says why (memory, context length, a restart). Fix this, then rerun.",
        )
    shown = "null" if "finish_reason" in choice else "missing"
    raise Refused(
        f"finish_reason {shown if reason is None else repr(reason)}, wanted stop or length, or a "
        "word for them that pipeline/teachers/replies.py knows",
        remedy="Without it nobody knows whether an answer ended or was cut. Use a server or a "
        "setting of it that says.",
    )


def count(value: Any) -> int | None:
    """A number of tokens as usage has it; None where it is absent or cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if 0 <= number <= MOST_TOKENS else None


def total(values: Sequence[Any]) -> int | None:
    """The sum of several numbers of tokens; None where one of them cannot be one."""
    counts = [count(value) for value in values]
    return None if None in counts else sum(found or 0 for found in counts)


def shown(value: Any) -> str:
    """The beginning of what was found."""
    try:
        return repr((value if isinstance(value, str) else str(value))[:100])
    except RecursionError:
        return "lists in lists"
