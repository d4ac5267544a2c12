"""Teachers: text in, text out. `protocol` says what each does; `load` chooses one."""

from pathlib import Path

from pipeline.config import teachers
from pipeline.core.errors import UserError
from pipeline.teachers.protocol import Asked, Teacher


def load(
    config: teachers.Teacher, name: str, asked: Asked, student: Path, folder: Path | None
) -> Teacher:
    """The teacher called `name`.

    `asked` says how it is asked; `student` is the student's checkpoint, whose tokenizer decides
    whether token ids can be sent; `folder` holds a local teacher's checkpoint.
    """
    match config:
        case teachers.LocalTeacher():
            from pipeline.teachers.providers.local import LocalTeacher

            if folder is None:
                raise UserError(f"teacher {name}: no checkpoint given. Run `dvc repro`.")
            how = config.engine, config.resident
            return LocalTeacher(folder / "checkpoint", student, asked, *how)
        case teachers.OpenAICompatibleTeacher():
            from pipeline.teachers.providers import openai_compatible

            return openai_compatible.teacher(config, name, asked, student)
        case teachers.AnthropicTeacher():
            from pipeline.teachers.providers import anthropic

            return anthropic.teacher(config, name, asked, student)
        case teachers.GoogleTeacher():
            from pipeline.teachers.providers import google

            return google.teacher(config, name, asked, student)
