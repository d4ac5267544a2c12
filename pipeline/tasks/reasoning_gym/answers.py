"""The entry that column `answer` holds, and the final answer that a response gives."""

import json
import re
from typing import Any

MARK = "reasoning-gym"  # field of an answer that is an entry: the version that made it
START = re.compile(r"answer[ \t]*[:=](?:\*\*)?[ \t]*", re.IGNORECASE)
FENCE = re.compile(r"\s*(`{3,}|~{3,})[^\n]*\n(.*?)\n[ \t]*\1", re.DOTALL)


def entry_of(answer: str) -> dict[str, Any]:
    """The entry that column `answer` holds. In older tables, and for most datasets, it is plain."""
    if answer.startswith("{"):
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if isinstance(found, dict) and MARK in found:
            return {key: value for key, value in found.items() if key != MARK}
    return {"answer": answer}


def finals(response: str, gold: str) -> list[str]:
    """The final answer of a response, as it stands and without signs of markdown around it.

    It has as many lines as the dataset's own, or is what a fence encloses. Blanks around `gold`
    are part of no answer: where nothing else differs, the answer is `gold` itself.
    """
    places = [match.end() for match in START.finditer(response)]
    rest = response[places[-1] :] if places else ""
    if not rest.strip():
        return []
    fence = FENCE.match(rest)
    lines = gold.strip("\n").count("\n") + 1
    text = fence[2] if fence else "\n".join(rest.lstrip("\r\n").split("\n")[:lines])
    bare = text.strip().strip("*`$ ").rstrip(".").strip()
    whole = gold if text.strip() == gold.strip() else text.strip()
    return list(dict.fromkeys([bare, whole])) if bare else [whole]
