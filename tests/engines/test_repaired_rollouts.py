"""Responses with a teacher's stretch in them, on hand-made tables and a tiny student."""

import pyarrow as pa
import pytest

from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.engines.repaired_rollouts import How, Stretch, responses, stretches
from pipeline.engines.sampling import Sampler
from tests import naive
from tests.method.test_scoring import answer_table, fork_table

MOST = 8


def written(folder, name, table, schema):
    path = folder / f"{name}.parquet"
    tables.write(table, path, schema)
    return path


def test_a_stretch_is_the_answer_at_the_first_fork_where_text_or_end_differ(tmp_path):
    forks = pa.concat_tables([fork_table(3), fork_table(3)])
    rows = forks.to_pylist()
    order = [rows[i] | {"position": p} for i in range(3) for p in (1, 4)]  # chunks are bc
    forks = pa.Table.from_pylist(order, schema=schemas.FORKS)
    said = {("r0", 1): "bc", ("r0", 4): "xy", ("r1", 1): "  bc", ("r1", 4): "bc"}
    said |= {("r2", 1): "xz", ("r2", 4): "xy"}
    one = answer_table([["bc"]]).to_pylist()[0]
    answers = [
        one | {"rollout_id": name, "position": place, "text": text, "token_ids": [place]}
        for (name, place), text in said.items()
    ]
    paths = [written(tmp_path, "forks", forks, schemas.FORKS)]
    table = pa.Table.from_pylist(answers, schema=schemas.ANSWERS)
    paths.append(written(tmp_path, "answers", table, schemas.ANSWERS))
    assert stretches(*paths) == {"r0": Stretch(4, [4], False), "r2": Stretch(1, [1], False)}
    answers[2]["ended"] = True
    table = pa.Table.from_pylist(answers, schema=schemas.ANSWERS)
    paths[1] = written(tmp_path, "answers", table, schemas.ANSWERS)
    assert stretches(*paths)["r1"] == Stretch(1, [1], True)
    paths[1] = written(tmp_path, "answers", table.slice(0, 5), schemas.ANSWERS)
    with pytest.raises(UserError, match=r"fork \('r2', 4\) has none"):
        stretches(*paths)


def rollouts(folder):
    empty = {"prompt_id": "p", "sample": 0, "round": 1, "text": "", "reward": None}
    rows = [
        {
            **empty,
            "rollout_id": f"r{i}",
            "prompt_token_ids": [3, 2],
            "token_ids": ids,
            "logprobs": [],
            "entropies": [],
            "finish_reason": "stop",
        }
        for i, ids in enumerate(([4, 5, 6, 1], [7, 8, 9, 1], [4] * 6, [5] * 6))
    ]
    table = pa.Table.from_pylist(rows, schema=schemas.ROLLOUTS)
    return written(folder, "rollouts", table, schemas.ROLLOUTS)


def repaired(folder, repairs, most=MOST, seed=0):
    policy, counts = naive.tiny(1), {}
    how = How(Sampler(1.0, 1.0, 0), most, seed, 1, 4096)
    found = responses(policy, rollouts(folder), repairs, how, counts)
    return [(one.token_ids, one.finish_reason) for one in found], counts


def test_prefix_and_stretch_stay_and_the_student_goes_on_to_its_limit(tmp_path):
    repairs = {"r1": Stretch(1, [10, 11], False), "r2": Stretch(2, [12], True)}
    found, counts = repaired(tmp_path, repairs)
    assert found[0] == ([4, 5, 6, 1], "stop")
    assert found[3] == ([5] * 6, "length")
    assert found[2] == ([4, 4, 12, 1], "stop")  # the teacher ended
    ids, reason = found[1]
    assert ids[:3] == [7, 10, 11]
    assert 3 < len(ids) <= MOST
    assert (reason == "stop") is (ids[-1] == 1)
    assert counts == {"repaired": 2, "repair_tokens": len(ids) - 3}
    assert repaired(tmp_path, repairs)[0] == found  # its numbers are the row's own
    alone = repaired(tmp_path, {"r1": repairs["r1"]})[0]
    assert alone[1] == found[1]
    others = {tuple(repaired(tmp_path, repairs, seed=seed)[0][1][0]) for seed in range(5)}
    assert len(others) > 1


def test_what_has_no_room_is_cut_and_not_gone_on_with(tmp_path):
    found, counts = repaired(tmp_path, {"r2": Stretch(5, [12, 13, 14], True)}, most=6)
    assert found[2] == ([4, 4, 4, 4, 4, 12], "length")
    assert counts["repair_tokens"] == 0
