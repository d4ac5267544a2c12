"""What becomes of every dataset of reasoning-gym. `python -m tests.gym` writes it into the docs."""

import importlib.metadata
import re
from pathlib import Path

import reasoning_gym as package
from reasoning_gym.factory import DATASETS

from pipeline.core.errors import UserError
from pipeline.tasks import Checked, reasoning_gym
from pipeline.tasks.reasoning_gym import ReasoningGym

DOCS = Path(__file__).parents[1] / "docs/tasks.md"
ALL = sorted(DATASETS.keys() - {"composite"})  # a mixture of others, which has none of its own
SEED = 1
BEGIN, END = "<!-- datasets -->\n", "<!-- /datasets -->\n"


def gym(**datasets):
    return ReasoningGym(
        reasoning_gym.Prepare(
            task="reasoning-gym",
            seed=SEED,
            train=1,
            dev=1,
            test=1,
            datasets=datasets,
            instruction="End with: Answer: NUMBER",
        )
    )


def swept(name, problems=5):
    """The dataset's verdict; four kinds of answers to each of its problems are graded."""
    task = gym(**{name: {}})
    made = package.create_dataset(name, seed=SEED, size=problems)
    golds = [str(entry["answer"]) for entry in made]
    for place, gold in enumerate(golds):
        for text in (gold, golds[place - 1], "zebra", "(1, [2}"):
            found = task.check(name, f"So.\nAnswer: {text}", gold)  # as older tables have it
            assert isinstance(found, Checked)
    try:
        drawn = task.problems(SEED)
        found = [next(drawn) for _ in range(problems)]
    except UserError as error:
        return reason(str(error), name)
    for place, problem in enumerate(found):
        other = reasoning_gym.entry_of(found[place - 1].answer)["answer"]
        own = reasoning_gym.entry_of(problem.answer)["answer"]
        for text in (own, other, "zebra", "(1, [2}"):
            graded = task.check(name, f"So.\nAnswer: {text}", problem.answer)
            assert graded.correct or text != own
    kept = sorted(reasoning_gym.entry_of(found[0].answer).keys() - {"answer"})
    return f"passes, with {', '.join(kept)}" if kept else "passes"


def reason(error, name):
    """Without what differs from problem to problem."""
    text = error.removeprefix(f"prepare.datasets.{name}: ").split(". Leave the dataset out")[0]
    text = re.sub(r"problem \d+", "a problem", text.removeprefix("ValueError: "))
    return f"refused: {text.split(':')[0]}"


def table(verdicts):
    version = importlib.metadata.version("reasoning-gym")
    passed = sum(verdict.startswith("passes") for verdict in verdicts.values())
    lines = [
        f"reasoning-gym {version}: {passed} of {len(verdicts)} datasets pass with their default",
        "settings.",
        "",
        "| dataset | verdict |",
        "|---|---|",
        *(f"| {name} | {verdict} |" for name, verdict in verdicts.items()),
    ]
    return "".join(f"{line}\n" for line in lines)


def documented():
    """The table as the docs have it."""
    return DOCS.read_text().split(BEGIN)[1].split(END)[0]


def main():
    found = table({name: swept(name) for name in ALL})
    before, rest = DOCS.read_text().split(BEGIN)
    after = rest.split(END)[1]
    DOCS.write_text(f"{before}{BEGIN}{found}{END}{after}")


if __name__ == "__main__":
    main()
