"""verl 0.9.1: `_write_generations` of verl/trainer/ppo/ray_trainer.py, an object a line.

input, output, gts, score, step, and what the reward function returned beside. Prompt and response
are decoded without special tokens; the prompt was rendered by the chat template.
"""

from typing import TYPE_CHECKING

from pipeline.commands.dumps.told import Found, Told, Values, ending, reward, texts
from pipeline.tasks.problem_files import Row

if TYPE_CHECKING:
    from pipeline.commands.dumps.student import Student


def response(row: Row, student: "Student", told: Told, found: Found) -> Values:
    text, output = texts(row, found)
    asked = student.asked(row, "input", text, special=False)
    if asked is None and student.frames(special=False):
        raise student.unclear(row, "input", text, 0)  # verl renders every prompt
    gold = row.values.get("gts")
    return {
        "messages": asked.messages if asked else [{"role": "user", "content": text}],
        **({"prompt_token_ids": asked.prompt_ids} if asked else {}),
        "text": output,
        "finish_reason": ending(row, output, student, told, found),
        "reward": reward(row, told, found, ("score",)),
        "answer": None if gold is None else str(gold),
    }
