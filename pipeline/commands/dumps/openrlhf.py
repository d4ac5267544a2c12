"""OpenRLHF 0.9.5: openrlhf/cli/batch_inference.py, an object a line: input, output, and reward
where a reward model has read them. Later versions, up to 0.11.2, write no responses to disk.

`input` is the text that the model read, rendered or not. With `--eval_task generate_vllm` `output`
keeps its special tokens, so that it says whether it ended; with `generate` it has none.
"""

from typing import TYPE_CHECKING

from pipeline.commands.dumps.told import Found, Told, Values, ending, reward, texts
from pipeline.tasks.problem_files import Row

if TYPE_CHECKING:
    from pipeline.commands.dumps.student import Student


def response(row: Row, student: "Student", told: Told, found: Found) -> Values:
    text, output = texts(row, found)
    asked = student.asked(row, "input", text, special=True)
    if asked is None:
        found.note("prompts that no template rendered: read as they are")
    end = next((x for x in student.ends if output.endswith(x)), None)
    return {
        "messages": asked.messages if asked else [{"role": "user", "content": text}],
        "prompt_token_ids": asked.prompt_ids if asked else student.ids(text),
        "text": output.removesuffix(end) if end else output,
        "finish_reason": "stop" if end else ending(row, output, student, told, found),
        "reward": reward(row, told, found, ("reward",) if "reward" in row.values else ()),
    }
