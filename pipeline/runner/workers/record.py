"""What the head says of its code, and a worker compares with its own before it takes a cell."""

import json
from typing import Any

from pipeline.code_digest import locks, variants
from pipeline.code_digest.variants import Part, Variant
from pipeline.core.errors import UserError

MOST = 3  # variants that are named


def made(plan: dict[str, Any]) -> bytes:
    """Of the plan's variants: what they are, and their locks."""
    found = variants.of_plan(plan)
    texts = locks.texts(found.values())
    said = [
        {"name": name, "parts": [_plain(part) for part in one.parts], "lock": texts[name]}
        for name, one in found.items()
    ]
    return json.dumps(said).encode()


def compare(record: bytes) -> int:
    """How many variants there are. Raises UserError naming those whose code differs here."""
    said = json.loads(record)
    theirs = {one["name"]: one["lock"] for one in said}
    ours = locks.texts(Variant(one["name"], tuple(map(_part, one["parts"]))) for one in said)
    other = [name for name, text in theirs.items() if ours[name] != text]
    if other:
        shown = [f"{name} {locks.differs(ours[name], theirs[name])}" for name in other[:MOST]]
        raise UserError(
            f"the code of {len(other)} of {len(said)} variants is other than the head's: "
            f"{'; '.join(shown)}{'; ...' * (len(other) > MOST)}. Wanted the same. Bring this "
            "folder and its libraries to what the head has, then start it again."
        )
    return len(said)


def _plain(part: Part) -> dict[str, Any]:
    return {"stage": part.stage, "chosen": {k: sorted(v) for k, v in part.chosen.items()}}


def _part(plain: dict[str, Any]) -> Part:
    return Part(plain["stage"], {k: frozenset(v) for k, v in plain["chosen"].items()})
