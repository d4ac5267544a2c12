"""What the report is told of an experiment."""

from pipeline.config.teachers import OpenAICompatibleTeacher
from pipeline.plan import expand, resolved
from pipeline.plan.experiment import load
from tests.project import MINIATURE


def test_the_report_knows_its_student_its_teachers_and_where_the_problems_are():
    plan = expand.expand(load(MINIATURE))["cells"]
    (report,), (prompts,) = plan["report"].values(), plan["prepare"]
    told = report["params"]
    assert told["prompts"] == f"data/prepare/{prompts}"
    assert told["student"]["name"] == "sloppy"
    assert told["student"]["from"].startswith("llama, hidden ")
    assert told["teachers"] == {"carries": "local, model careful"}  # of the arms that run


def test_what_cannot_change_an_answer_is_not_told_of_a_teacher():
    teacher = OpenAICompatibleTeacher(
        kind="openai_compatible", provider="vllm", model="org/big", base_url="http://127.0.0.1:1/v1"
    )
    assert resolved._teacher(teacher) == "openai-compatible, provider vllm, model org/big"


def test_a_template_of_many_lines_is_not_part_of_where_a_student_comes_from():
    start = {"kind": "hub", "name": "org/small", "chat_template": "{{ x }}" * 40}
    assert resolved._words(start) == "hub, name org/small"
