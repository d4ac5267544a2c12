"""Real servers on loopback as teachers: vLLM on the CPU, and llama.cpp, both with SmolLM2."""

import json

import pytest

from pipeline import teachers
from pipeline.config import params
from pipeline.config.teachers import LocalTeacher, OpenAICompatibleTeacher
from pipeline.data import schemas, tables
from pipeline.judgments.store import Store
from pipeline.teachers import protocol
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.buyer import Judging, Wanted
from pipeline.teachers.purchase.requests import Response
from tests import small_engines
from tests.project import ROOT, Project

pytestmark = [pytest.mark.services, pytest.mark.usefixtures("warm")]

PROFILE = ROOT / "pipeline/commands/profiles" / "smollm2.yaml"
MODES = ("completions", "prefill")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The smollm2 profile in small, up to the forks of round 1; its student is the plain model."""
    found = Project(tmp_path_factory.mktemp("services") / "project", PROFILE)
    found.edit(
        experiment__rounds=1,
        experiment__arms=["prior-only"],
        arms={"prior-only": {"prior": {"source": "none"}}},
        pretrain__models__beginner__steps=0,
        prepare__dev=4,
        prepare__test=4,
        rollout__prompts_per_round=2,
        rollout__samples_per_prompt=2,
        rollout__max_new_tokens=36,
        evaluate__problems=4,
        evaluate__samples=1,
        evaluate__max_new_tokens=8,
        runtime__threads=1,
    )
    found.run("omniopd", "plan")
    forks = found.cell("prior-only", 1, "forks").name
    found.run("dvc", "repro", found.address(f"forks@{forks}"))
    return found


@pytest.fixture(scope="module")
def greedy_model(project, tmp_path_factory):
    """The student's checkpoint with a generation_config that would make every sample the same."""
    folder = tmp_path_factory.mktemp("model") / "smollm2"
    checkpoint = project.cell("base", 0, "policy") / "checkpoint"
    folder.mkdir()
    for file in checkpoint.iterdir():
        if file.name != "generation_config.json":
            (folder / file.name).symlink_to(file)
    config = {"do_sample": True, "top_k": 1, "top_p": 0.1, "temperature": 0.01, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def vllm(greedy_model, tmp_path_factory):
    with small_engines.vllm(greedy_model, tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory):
    with small_engines.llama_cpp(tmp_path_factory.mktemp("llama_cpp")) as server:
        yield server


def teacher(server, provider):
    return {
        "kind": "openai_compatible",
        "provider": provider,
        "model": "smollm2",
        "tokenizer": "student",
        "base_url": f"{server.url}/v1",
        "concurrency": 4,
    }


def setup(project, tmp_path, server, provider):
    """A copy of the project with an arm for each mode, taught by the server alone."""
    found = project.copy(tmp_path / "project")
    (found.folder / "judgments.sqlite").unlink(missing_ok=True)
    found.edit(
        experiment__arms=list(MODES),
        arms={mode: {"teach": {"continuation": mode}} for mode in MODES},
        teachers={"server": teacher(server, provider)},
        teach__teacher="server",
        score__allow_flat=True,  # four responses are too few to tell
    )
    return found


def ask(project):
    """Run each arm's teach cell and what it reads."""
    project.run("omniopd", "plan")
    cells = [f"teach-hosted@{project.cell(mode, 1, 'teach').name}" for mode in MODES]
    project.run("dvc", "repro", *map(project.address, cells))


def answers(project, arm):
    return tables.read(project.cell(arm, 1, "teach") / "answers.parquet", schemas.ANSWERS)


def check_answers(project, arm):
    """The server taught the arm's round: N different answers a fork."""
    found = answers(project, arm).to_pandas()
    assert set(found["model_returned"]) == {"smollm2"}
    per_fork = found.groupby(["rollout_id", "position"])["text"]
    assert set(per_fork.count()) == {4}
    assert per_fork.nunique().mean() > 3  # no setting of the server's own makes them alike
    run = json.loads((project.cell(arm, 1, "teach") / "run.json").read_text())
    assert run["failed"] <= 0.05 * run["answers"]
    return run


def shown_check(project, mode):
    """What `omniopd teacher check` prints in this mode, and that it passes."""
    project.edit(teach__continuation=mode)
    done = project.run("omniopd", "teacher", "check", "server")
    assert "It may be used." in done.stdout
    assert "FAILED" not in done.stdout
    return done.stdout


def test_a_round_taught_by_a_vllm_server(project, vllm, tmp_path):
    assert vllm.get("/version") == {"version": "0.32.0"}
    assert vllm.get("/v1/models")["data"][0]["id"] == "smollm2"
    found = setup(project, tmp_path, vllm, "vllm")
    for mode in MODES:
        assert "after '1, 2, 3, 4, 5,': ' 6, 7" in shown_check(found, mode)
    sent = {mode: vllm.count(path) for mode, path in PATHS.items()}
    ask(found)
    for mode, path in PATHS.items():
        run = check_answers(found, mode)
        assert vllm.count(path) - sent[mode] == run["requests"] > 0
        assert run["requests"] == -(-run["bought"] // 4)  # one request a fork: n is 4
    # the student's own ids were sent and came back: a chunk is exactly C of its tokens
    rows = answers(found, "completions").to_pylist()
    assert all(row["completion_tokens"] == 12 or row["ended"] for row in rows)


@pytest.mark.slow
def test_what_a_vllm_server_answered_is_trained_on(project, vllm, tmp_path):
    found = setup(project, tmp_path, vllm, "vllm")
    found.edit(experiment__arms=["completions"])
    assert {name.partition("@")[0] for name in found.repro()} >= {"train", "evaluate", "report"}
    assert (found.cell("completions", 1, "train") / "checkpoint" / "model.safetensors").is_file()


PATHS = {
    "completions": '"POST /v1/completions HTTP/1.1" 200',
    "prefill": '"POST /v1/chat/completions HTTP/1.1" 200',
}


def test_the_answers_of_llama_cpp(project, llama_cpp, tmp_path):
    assert llama_cpp.count("xllamacpp 2026.10.11549") == 1
    assert llama_cpp.get("/v1/models")["data"][0]["id"] == "smollm2"
    found = setup(project, tmp_path, llama_cpp, "llama.cpp")
    for mode in MODES:
        assert "after '1, 2, 3, 4, 5,': ' 6, 7" in shown_check(found, mode)
    sent = llama_cpp.count("stop processing")
    ask(found)
    bought = sum(check_answers(found, mode)["bought"] for mode in MODES)
    assert llama_cpp.count("stop processing") - sent == bought  # a line for each sample


def bought(server, student, store, samples, mode="completions", **more):
    """Judgments of prefixes that end soon, late and never, with `samples` a request."""
    found = teacher(server, "llama.cpp") | {"samples_per_request": samples, **more}
    asked = protocol.Asked(mode, 1.0, "live", params.Runtime())
    one = teachers.load(OpenAICompatibleTeacher(**found), "it", asked, student, None)
    judging = Judging(one, Wanted(4, 48, 0, 1, 1.0, False), Budget(store))
    block = []
    for said, begun in (
        ("Say hi.", "Hi"),
        ("What is 2+2?", "2+2 is"),
        ("Tell me a story.", "Once"),
    ):
        ids = []
        if one.same_tokens:
            ids = one.rendering.tokenizer.encode(begun, add_special_tokens=False)
        prompt = one.prompt([{"role": "user", "content": said}], ids, begun)
        block.append(Response(said, {0: prompt}, {0: begun}))
    return judging.judge(block), judging.ledger


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "tokenizer"),
    [("completions", "student"), ("prefill", "student"), ("prefill", None)],  # None: the server's
)
def test_n_choices_of_llama_cpp_are_counted_as_it_counts_one(
    mode, tokenizer, project, llama_cpp, tmp_path
):
    """Its usage has the tokens of choice 0 alone: four in one request, and one by one."""
    student = project.cell("base", 0, "policy") / "checkpoint"
    ways = {}
    for samples in (4, 1):
        with Store(f"sqlite:///{tmp_path / str(samples)}.sqlite") as store:
            ways[samples] = bought(llama_cpp, student, store, samples, mode, tokenizer=tokenizer)
    (together, ledger), (alone, ledger_1) = ways[4], ways[1]
    same = {p: (j.text, j.ended, j.completion_tokens) for p, j in together.items()}
    assert same == {p: (j.text, j.ended, j.completion_tokens) for p, j in alone.items()}
    assert {j.ended for j in together.values()} == {True, False}  # both kinds came up
    assert (ledger.requests, ledger_1.requests) == (3, 12)
    assert ledger.tokens_bought == ledger_1.tokens_bought
    read = sum(max(j.prompt_tokens for p, j in together.items() if p[0] == r) for r in range(3))
    assert ledger.tokens_billed == read + ledger.tokens_bought


@pytest.mark.slow
def test_a_generation_config_with_top_k_1_leaks_into_no_path(greedy_model, vllm, tmp_path):
    runtime = params.Runtime()
    config = OpenAICompatibleTeacher(**teacher(vllm, "vllm"))
    asked_in = {mode: protocol.Asked(mode, 1.0, "live", runtime) for mode in (*MODES, "instruct")}
    ways = {mode: (config, asked) for mode, asked in asked_in.items()}
    local = LocalTeacher(kind="local", model="smollm2")
    ways["local"] = (local, protocol.Asked("completions", 1.0, "live", runtime))
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "checkpoint").symlink_to(greedy_model)
    messages = [{"role": "user", "content": "Tell me a story."}]
    for name, (found, asked) in ways.items():
        with Store(f"sqlite:///{tmp_path / name}.sqlite") as store:
            one = teachers.load(found, name, asked, greedy_model, tmp_path / "local")
            judging = Judging(one, Wanted(6, 12, 0, 3, 1.0, False), Budget(store))
            prompt = one.prompt(messages, [], "")
            answered = judging.judge([Response("r", {0: prompt}, {0: ""})])
        assert len({judgment.text for judgment in answered.values()}) >= 5, name
