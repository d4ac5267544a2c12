"""`omniopd import`: rollouts of another trainer, from a file to targets and back."""

import json
import os
import re
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from pipeline.commands.app import app
from pipeline.commands.audit import audit_params
from pipeline.config import params, params_file
from pipeline.config.problems import Prepare
from pipeline.core.errors import UserError
from pipeline.data import prompts, schemas, tables
from pipeline.engines.hf import save
from pipeline.engines.scoring_pass import exact
from pipeline.tasks import prompts as task
from pipeline.training import external_rollouts, imported_rows
from stages.prepare import prepare
from tests import naive
from tests.project import BIN

pytestmark = pytest.mark.usefixtures("warm")

EOS = 1  # of naive.tiny
WORK = "8+5=13;#13"


@pytest.fixture(scope="module")
def policy():
    return naive.tiny(1)


def ids_of(policy, text, ended=True):
    return policy.tokenizer.encode(text, add_special_tokens=False) + [EOS] * ended


def read(path, policy, counts=None):
    """What stage rollout makes of the file, after stage prepare."""
    file = task.Prepare(
        task="prompts", file=str(path), seed=0, train=imported_rows.prompts_of(path), responses=True
    )
    table = pa.Table.from_pylist(list(prepare(file)), schema=schemas.PROMPTS)
    tables.write(table, path.parent / "prompts.parquet", schemas.PROMPTS)
    asked = prompts.read(path.parent / "prompts.parquet", "train")
    counts = {} if counts is None else counts
    found = list(external_rollouts.tables_of(file, policy, asked, 4096, counts))
    return pa.concat_tables(found).to_pylist(), {x.prompt_id: x for x in asked}


def written(tmp_path, *rows):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(policy, **changed):
    found = {"prompt": "8+5?", "token_ids": ids_of(policy, WORK)} | changed
    return {name: value for name, value in found.items() if value is not None}


def test_log_probabilities_and_entropies_are_the_exact_ones_of_the_student(policy, tmp_path):
    cut = {"prompt": "1+2?", "text": "1+2=", "finish_reason": "length", "reward": 0.5}
    (first, second), asked = read(written(tmp_path, row(policy), cut), policy)
    for found, text, ids in ((first, "8+5?", ids_of(policy, WORK)), (second, "1+2?", None)):
        ids = ids or ids_of(policy, "1+2=", ended=False)
        message = [{"role": "user", "content": text}]
        assert asked[found["prompt_id"]].messages == message
        assert found["prompt_token_ids"] == policy.prompt_ids(message)
        assert found["token_ids"] == ids
        logps = naive.logps(naive.double(policy), found["prompt_token_ids"], ids, 18)
        own = logps.gather(1, torch.tensor(ids)[:, None])[:, 0]
        assert np.allclose(found["logprobs"], own.detach(), atol=1e-5)
        entropies = -(logps.exp() * logps).sum(-1)
        assert np.allclose(found["entropies"], entropies.detach(), atol=1e-4)
    assert (first["finish_reason"], first["text"], first["reward"]) == ("stop", WORK, None)
    assert (second["finish_reason"], second["text"], second["reward"]) == ("length", "1+2=", 0.5)


def test_rows_keep_their_order_and_repeated_prompts_count_their_samples(policy, tmp_path):
    rows = [row(policy), row(policy, prompt="1+1?"), row(policy), row(policy, rollout_id="mine")]
    found, asked = read(written(tmp_path, *rows), policy)
    assert len(asked) == 2
    assert [x["sample"] for x in found] == [0, 0, 1, 2]
    assert [asked[x["prompt_id"]].prompt for x in found] == ["8+5?", "1+1?", "8+5?", "8+5?"]
    assert found[2]["rollout_id"] == f"{found[2]['prompt_id']}-1"
    assert found[3]["rollout_id"] == "mine"


def test_trls_names_parquet_and_a_prompt_of_messages_are_understood(policy, tmp_path):
    asked = [{"role": "system", "content": "add;"}, {"role": "user", "content": "8+5?"}]
    given = {
        "prompt": asked, "prompt_ids": policy.prompt_ids(asked),
        "completion_ids": ids_of(policy, WORK), "completion": WORK,
    }  # fmt: skip
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.Table.from_pylist([given]), path)
    (found,), known = read(path, policy)
    assert known[found["prompt_id"]].messages == asked
    assert found["token_ids"] == ids_of(policy, WORK)


def test_prompt_ids_that_the_template_does_not_make_are_kept_and_counted(policy, tmp_path):
    other, counts = ids_of(policy, "+8+5?", ended=False), {}
    path = written(tmp_path, row(policy, prompt_token_ids=other), row(policy))
    (first, second), _ = read(path, policy, counts)
    assert first["prompt_token_ids"] == other
    assert second["prompt_token_ids"] != other
    assert first["logprobs"] != second["logprobs"]
    assert counts["rendered_otherwise"] == 1


def test_the_distance_to_the_files_log_probabilities_is_told(policy, tmp_path, caplog):
    (known,), _ = read(written(tmp_path, row(policy)), policy)
    counts = {}
    shifted = [x - 0.25 for x in known["logprobs"]]
    found, _ = read(written(tmp_path, row(policy, logprobs=shifted)), policy, counts)
    assert counts["logprob_gap_mean"] == pytest.approx(0.25)
    assert counts["logprob_gap_max"] == pytest.approx(0.25)
    assert found[0]["logprobs"] == known["logprobs"]
    assert "0.250 nats a token off" in caplog.text


def test_blocks_of_rows_make_the_same_table(policy, tmp_path, monkeypatch):
    rows = [row(policy, prompt=f"{i}+1?") for i in range(7)]
    path = written(tmp_path, *rows)
    whole, _ = read(path, policy)
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 3)
    blocks, _ = read(path, policy)
    for one, other in zip(whole, blocks, strict=True):
        assert np.allclose(one.pop("logprobs"), other.pop("logprobs"), atol=1e-5)
        assert np.allclose(one.pop("entropies"), other.pop("entropies"), atol=1e-5)
        assert one == other


WRONG = [
    ({"prompt": None}, r"wanted 'messages' or 'prompt'"),
    ({"token_ids": None}, r"wanted 'token_ids' or 'completion_ids' or 'text'"),
    ({"token_ids": [3, 18, EOS]}, r"token_ids: found \[18\], wanted ids of the student's 18 "),
    ({"token_ids": [3, -1]}, r"token_ids: found \[-1\], wanted ids"),
    ({"token_ids": []}, r"token_ids: found \[\], wanted a list of token ids, at least one"),
    ({"token_ids": ["3"]}, r"wanted a list of token ids"),
    (
        {"token_ids": [3, EOS, EOS]},
        r"found id 1 at 1 of 3, wanted an end of a turn, <eos> \(1\), as the last",
    ),
    ({"text": "8+5=14;#14"}, r"text: found '8\+5=14;#14', wanted what token_ids decode to .*=13;"),
    ({"finish_reason": "length"}, r"finish_reason: found 'length', wanted stop exactly where"),
    ({"token_ids": [3], "finish_reason": "stop"}, r"wanted stop exactly where .* here it is 3"),
    ({"token_ids": None, "text": WORK}, r"wanted 'finish_reason'"),
    ({"token_ids": None, "text": WORK, "finish_reason": "eos"}, r"wanted stop or length"),
    ({"token_ids": None, "text": "8 é", "finish_reason": "stop"}, r"what its own tokens decode to"),
    ({"token_ids": None, "text": "", "finish_reason": "length"}, r"wanted at least one token"),
    ({"logprobs": [0.1]}, r"logprobs: found 1, wanted one for each of 11 tokens"),
    ({"logprobs": "no"}, r"logprobs: found 'no', wanted a list of numbers"),
    ({"reward": "good"}, r"reward: found 'good', wanted a number"),
    ({"prompt_token_ids": [99]}, r"prompt_token_ids: found \[99\], wanted ids"),
    ({"token_ids": [3] * 3000}, r"response: found 3004 tokens, wanted at most 2048"),
    ({"prompt": [{"role": "tool", "content": "x"}]}, r"wanted a list of \{role, content\}"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG, ids=lambda x: str(x)[:50])
def test_a_row_that_cannot_be_used_is_named_with_what_was_wanted(
    policy, tmp_path, changed, message
):
    path = written(tmp_path, row(policy, prompt="1+1?"), row(policy, **changed))
    with pytest.raises(UserError, match=f"line 2: .*{message}"):
        read(path, policy)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"token_ids": None, "text": WORK}, "wanted 'finish_reason'. Correct the row, or say with"),
        ({"reward": "good"}, "reward: found 'good', wanted a number"),
        ({"logprobs": [0.1]}, "logprobs: found 1, wanted one for each of 11 tokens"),
        ({"rollout_id": ""}, "rollout_id: found '', wanted text"),
    ],
)
def test_what_is_missing_is_told_before_any_stage(policy, tmp_path, changed, said):
    path = written(tmp_path, row(policy), row(policy, **changed))
    with pytest.raises(UserError, match=f"line 2: .*{said}"):
        imported_rows.prompts_of(path)


def test_equal_names_and_an_empty_file_are_refused(policy, tmp_path):
    twice = [row(policy, rollout_id="a"), row(policy, rollout_id="a")]
    with pytest.raises(UserError, match="line 2: rollout_id: found 'a', wanted a name that no"):
        read(written(tmp_path, *twice), policy)
    with pytest.raises(UserError, match="found no row, wanted rollouts"):
        imported_rows.prompts_of(written(tmp_path))


@pytest.mark.parametrize(
    ("given", "name"),
    [(0, "0"), ("0", "0"), (1, "1"), (-3, "-3"), (2.0, "2"), ("step 0/0", "step 0/0")],
)
def test_a_name_of_zero_is_a_name(policy, tmp_path, given, name):
    (found,), _ = read(written(tmp_path, row(policy, rollout_id=given)), policy)
    assert found["rollout_id"] == name


def test_names_of_a_column_of_numbers_are_kept_where_some_are_missing(policy, tmp_path):
    rows = [row(policy, rollout_id=x) | {"rollout_id": x} for x in (0.0, None, 7.0)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    found, _ = read(tmp_path / "mine.parquet", policy)
    assert [x["rollout_id"] for x in found] == ["0", "train-000000-1", "7"]


@pytest.mark.parametrize("given", ["", "  ", False, True, 0.5, [], [0], {}])
def test_a_name_that_is_empty_or_no_name_is_refused(policy, tmp_path, given):
    path = written(tmp_path, row(policy), row(policy, rollout_id=given))
    with pytest.raises(UserError, match=r"line 2: rollout_id: found .*, wanted text that is not"):
        read(path, policy)


def test_zero_and_its_text_are_one_name(policy, tmp_path):
    twice = [row(policy, rollout_id=0), row(policy, rollout_id="0")]
    with pytest.raises(UserError, match="line 2: rollout_id: found '0', wanted a name that no"):
        read(written(tmp_path, *twice), policy)


@pytest.mark.parametrize(("given", "kept"), [(0, 0.0), (0.0, 0.0), (False, 0.0), (-1, -1.0)])
def test_a_reward_of_zero_is_kept(policy, tmp_path, given, kept):
    (found,), _ = read(written(tmp_path, row(policy, reward=given)), policy)
    assert found["reward"] == kept


def test_a_prompt_of_zero_is_a_prompt_and_an_answer_of_zero_is_kept(policy, tmp_path):
    (found,), known = read(written(tmp_path, row(policy, prompt=0, answer=0)), policy)
    prompt = known[found["prompt_id"]]
    assert (prompt.prompt, prompt.answer) == ("0", "0")


def rendered(policy, messages):
    return policy.tokenizer.apply_chat_template(messages, tokenize=False) + "="


@pytest.fixture(scope="module")
def chatty():
    """A student whose template writes its special tokens."""
    found = naive.tiny(1)
    found.tokenizer.chat_template = (
        "{% for m in messages %}<pad>{{ m['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}={% endif %}"
    )
    return found


@pytest.mark.parametrize("more", [{}, {"prompt_token_ids": [0, 10, 12, 7, 17, 1, 13]}])
@pytest.mark.parametrize("prompt", ["<pad>8+5?<eos>=", "8+5?<eos>", "<pad>8+5?"])
def test_a_rendered_prompt_is_refused_whether_its_ids_are_there_or_not(
    chatty, tmp_path, prompt, more
):
    path = written(tmp_path, row(chatty), row(chatty, prompt=prompt, **more))
    wanted = "line 2: message 1 .user.: found the student's special token .* Give `messages`"
    with pytest.raises(UserError, match=wanted):
        read(path, chatty)


def test_a_rendered_prompt_beside_its_messages_is_read_once(chatty, tmp_path):
    talk = [{"role": "system", "content": "+;"}, {"role": "user", "content": "8+5?"}]
    text = rendered(chatty, talk)
    ids, other = chatty.prompt_ids(talk), chatty.prompt_ids(talk[1:])
    rows = [
        row(chatty, messages=talk, prompt=text),
        row(chatty, messages=talk, prompt=text, prompt_ids=ids),
        row(chatty, messages=talk, prompt=rendered(chatty, talk[1:]), prompt_ids=other),
        row(chatty, messages=talk, prompt="8+5?"),
        row(chatty, messages=talk, prompt=None),
    ]
    found, known = read(written(tmp_path, *rows), chatty)
    assert [x["prompt_token_ids"] for x in found] == [ids, ids, other, ids, ids]
    assert {known[x["prompt_id"]].prompt for x in found} == {"+;\n\n8+5?"}


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "<pad>1+1?<eos>="},
        {"prompt": "1+1?"},
        {"prompt": "<pad>8+5?<eos>=", "prompt_ids": [0, 3, 12, 3, 17, 1, 13]},
    ],
)
def test_a_prompt_that_is_not_its_messages_is_refused(chatty, tmp_path, changed):
    talk = [{"role": "user", "content": "8+5?"}]
    path = written(tmp_path, row(chatty), row(chatty, messages=talk, **changed))
    with pytest.raises(UserError, match=r"line 2: prompt: found .*, wanted the text of `messages`"):
        read(path, chatty)


def test_messages_of_all_roles_are_imported(chatty, tmp_path):
    talk = [
        {"role": "user", "content": "1?"}, {"role": "assistant", "content": "#1"},
        {"role": "user", "content": "8+5?"},
    ]  # fmt: skip
    (found,), known = read(written(tmp_path, row(chatty, prompt=None, messages=talk)), chatty)
    assert known[found["prompt_id"]].messages == talk
    assert (
        chatty.tokenizer.decode(found["prompt_token_ids"])
        == "<pad>1?<eos><pad>#1<eos><pad>8+5?<eos>="
    )


def test_a_template_that_refuses_the_messages_is_told_with_file_line_and_no_key_of_params(tmp_path):
    strict = naive.tiny(1)
    strict.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    talk = [{"role": "system", "content": "+"}, {"role": "user", "content": "8+5?"}]
    path = written(tmp_path, row(strict, prompt=None, messages=talk))
    with pytest.raises(
        UserError, match="line 1: messages: found the roles system, user, wanted"
    ) as e:
        read(path, strict)
    assert "no system" in str(e.value)
    assert "init.chat_template" not in str(e.value)


def test_one_prompts_text_with_two_sets_of_messages_is_refused(policy, tmp_path):
    split = [{"role": "system", "content": "1"}, {"role": "user", "content": "2"}]
    path = written(tmp_path, row(policy, prompt=split), row(policy, prompt="1\n\n2"))
    with pytest.raises(UserError, match=r"line 2: prompt: .* wanted the same messages wherever"):
        read(path, policy)


def test_cells_of_prompts_alone_keep_their_names(tmp_path):
    path = written(tmp_path, {"prompt": "1?"})
    plain = task.Prepare(task="prompts", file=str(path), seed=0, train=1)
    assert "responses" not in plain.resolved()
    assert not plain.imported
    both = audit_params.Options("s", "t", path, tmp_path, count=1, imported=True)
    found = audit_params.settings(both)["prepare"]
    assert found["responses"] is True
    parsed = params_file.parsed("prepare", params_of(), {"prepare": found})
    assert parsed.prepare.imported


def params_of():
    from pydantic import TypeAdapter

    class Prepared(params.Params):
        prepare: Prepare

    return TypeAdapter(Prepared)


def test_an_audit_wants_prompts_or_rollouts(tmp_path):
    asked = ["audit", "--student", "s", "--teacher", "t"]
    for options, said in (([], "neither"), (["--prompts", "a", "--rollouts", "b"], "both")):
        found = CliRunner().invoke(app, asked + options)
        assert isinstance(found.exception, UserError)
        assert f"found {said}, wanted one" in str(found.exception)


def omniopd(folder, *arguments):
    environment = {
        **os.environ,
        "JUDGMENTS_URL": f"sqlite:///{folder / 'judgments.sqlite'}",
    }
    done = subprocess.run(
        [BIN / "omniopd", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_rollouts_of_another_trainer_come_back_with_weights(policy, tmp_path):
    for name, seed in (("student", 1), ("teacher", 2)):
        found = naive.tiny(seed)
        save(found.model, found.tokenizer, tmp_path / name, torch.float32)
    draw = np.random.default_rng(0)
    rows = [
        row(policy, prompt=f"{i % 4}+1?", rollout_id=f"mine/{i}", reward=i / 8,
            token_ids=[*draw.integers(2, 18, 15).tolist(), EOS])
        for i in range(8)
    ]  # fmt: skip
    written(tmp_path, *rows)
    read_first = omniopd(tmp_path, "import", "mine.jsonl", "--student", "student")
    table = tables.read(tmp_path / read_first.stdout.strip(), schemas.ROLLOUTS)
    assert table["rollout_id"].to_pylist() == [x["rollout_id"] for x in rows]
    audited = omniopd(
        tmp_path, "audit", "--rollouts", "mine.jsonl", "--student", "student", "--teacher",
        "teacher", "--chunk-tokens", "4", "--forks", "2", "--answers", "3", "--metric", "edit",
    )  # fmt: skip
    assert "rollout" not in re.findall(r"of \d+: (\S+)", audited.stderr)  # it was there
    assert "4 prompts, 8 responses" in (tmp_path / "audit/index.html").read_text()
    omniopd(tmp_path, "export", "audit", "--to", "jsonl", "--out", "weights")
    lines = (tmp_path / "weights/rollouts.jsonl").read_text().splitlines()
    (path,) = (tmp_path / "audit/data/prior").glob("*/targets.parquet")
    targets = tables.read(path, schemas.TARGETS).to_pylist()
    for given, line in zip(rows, map(json.loads, lines), strict=True):
        assert (line["rollout_id"], line["token_ids"]) == (given["rollout_id"], given["token_ids"])
        expected = np.zeros(16)
        for target in targets:
            if target["rollout_id"] == given["rollout_id"]:
                start = target["position"]
                expected[start : start + target["length"]] = target["weight"]
        assert np.allclose(line["weights"], expected)
        assert line["anchor_mask"] == [int(x == 0) for x in line["signal_mask"]]
        ((_, logp_T, _),) = exact(policy, [line["prompt_token_ids"]], [line["token_ids"]], 4096)
        assert np.allclose(line["logprobs"], logp_T, atol=1e-5)
    assert len(targets) == 16
