"""prime-rl: traces.jsonl, an object a line with the messages as nodes of a graph.

v0.7.0 and v0.8.0 write a trace of verifiers a line, v0.8.1.dev67 (verifiers 0.4.0) an episode with
its `traces`. A node holds the tokens that its message adds, and a mask of those that were sampled:
every node that the student sampled is a response, and what leads to it its prompt.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.commands.dumps.told import Found, Told, Values, ending
from pipeline.tasks.problem_files import Row

if TYPE_CHECKING:
    from pipeline.commands.dumps.student import Student

Node = dict[str, Any]
WANTED = "nodes of a trace, or traces, each with nodes, as traces.jsonl of prime-rl has them"


def responses(row: Row, student: "Student", told: Told, counts: Found) -> Iterator[Values]:
    traces = row.values.get("traces", [row.values])
    if not isinstance(traces, list) or not all(_is_trace(x) for x in traces):
        raise row.wrong(("traces", "nodes"), sorted(row.values), WANTED)
    _note_policy(row, counts)
    for trace in traces:
        agent = trace.get("agent")
        if isinstance(agent, dict) and agent.get("trainable") is False:
            counts.note("left out: traces of an agent that is not trained")
            continue
        sampled = [i for i, node in enumerate(trace["nodes"]) if node.get("sampled")]
        if not sampled:
            counts.note("left out: traces without a response")
        for i in sampled:
            name = str(trace["id"]) if len(sampled) == 1 else f"{trace['id']}/{i}"
            yield {"rollout_id": name} | _response(row, trace, i, student, told, counts)


def _note_policy(row: Row, found: Found) -> None:
    """An episode says which versions of the weights it spans; a batch may hold several."""
    value: Any = row.values
    for name in ("run", "work", "policy"):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, dict):
        found.note(f"episodes of the policy's versions {value.get('start')} to {value.get('end')}")


def _is_trace(found: Any) -> bool:
    nodes = found.get("nodes") if isinstance(found, dict) else None
    return isinstance(nodes, list) and "id" in found and all(_is_node(x) for x in nodes)


def _is_node(found: Any) -> bool:
    return isinstance(found, dict) and isinstance(found.get("message"), dict)


def _response(
    row: Row, trace: Node, at: int, student: "Student", told: Told, counts: Found
) -> Values:
    node, before = trace["nodes"][at], _path(row, trace["nodes"], at)
    values: Values = {"messages": [_message(row, x["message"]) for x in before]}
    values["reward"] = _reward(row, trace, told)
    if node.get("token_ids"):
        prompt = [token for x in before for token in x.get("token_ids") or []]
        return values | _tokens(row, node, prompt)
    counts.note("responses without token_ids: their text is encoded")
    more = {k: v for k, v in node["message"].items() if k not in ("role", "content") and v}
    if more:
        wanted = "a content of text alone where there are no token_ids"
        raise row.wrong(("nodes", "traces"), sorted(more), wanted)
    text = _message(row, node["message"])["content"]
    reason = node.get("finish_reason") or _finish(trace, at)
    if reason not in ("stop", "length"):
        reason = ending(row, text, student, told, counts)
    return values | {"text": text, "finish_reason": reason}


def _path(row: Row, nodes: list[Node], at: int) -> list[Node]:
    """The path from the root to the node before `at`."""
    path: list[Node] = []
    parent = nodes[at].get("parent")
    while parent is not None:
        if type(parent) is not int or not 0 <= parent < len(nodes) or len(path) > len(nodes):
            raise row.wrong(("nodes", "traces"), parent, "a parent that is an earlier node")
        path.append(nodes[parent])
        parent = nodes[parent].get("parent")
    path.reverse()
    if not path or path[-1]["message"].get("role") != "user":
        role = path[-1]["message"].get("role") if path else None
        wanted = "a response to a user's message; answers to tools are not read"
        raise row.wrong(("nodes", "traces"), role, wanted)
    return path


def _message(row: Row, found: Node) -> dict[str, str]:
    role, content = found.get("role"), found.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise row.wrong(("nodes", "traces"), found, "messages with a content of text")
    return {"role": role, "content": content}


def _tokens(row: Row, node: Node, prompt: list[int]) -> Values:
    """The node's sampled tokens; what its template wrote before them is part of the prompt."""
    ids, mask = node["token_ids"], node.get("mask") or []
    sampled = [i for i, x in enumerate(mask) if x]
    start, end = (sampled[0], sampled[-1] + 1) if sampled else (0, 0)
    if len(mask) != len(ids) or not sampled or len(sampled) != end - start:
        wanted = "a mask as long as token_ids, true for one run of them"
        raise row.wrong(("nodes", "traces"), mask, wanted)
    logprobs = node.get("logprobs") or None
    return {
        "prompt_token_ids": prompt + ids[:start],
        "token_ids": ids[start:end],
        "logprobs": logprobs,
    }


def _reward(row: Row, trace: Node, told: Told) -> float | None:
    """The sum of weighted rewards, or the one named --reward, unweighted."""
    rewards = trace.get("rewards") or {}
    if not isinstance(rewards, dict):
        raise row.wrong(("nodes", "traces"), rewards, "rewards by name")
    if told.reward is not None:
        if told.reward not in rewards:
            raise row.wrong(("nodes", "traces"), sorted(rewards), f"the reward {told.reward!r}")
        rewards = {told.reward: rewards[told.reward]}
    values = [_value(row, x, told.reward is None) for x in rewards.values() if x is not None]
    return sum(values) if values else None


def _value(row: Row, reward: Any, weighted: bool) -> float:
    score, weight = reward, 1.0
    if isinstance(reward, dict):
        score = reward.get("score")
        weight = reward.get("weight", 1.0) if weighted else 1.0
    if not all(isinstance(x, int | float) for x in (score, weight)):
        wanted = "rewards that are numbers, or each a score and perhaps a weight"
        raise row.wrong(("nodes", "traces"), reward, wanted)
    return float(score) * float(weight)


def _finish(trace: Node, at: int) -> str | None:
    calls = [x for x in trace.get("calls") or [] if x.get("node") == at]
    return calls[-1].get("finish_reason") if calls else None
