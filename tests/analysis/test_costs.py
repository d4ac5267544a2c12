"""What arms cost, computed by hand from the run.json files of a small project."""

import json

import pytest

from pipeline.analysis import costs
from pipeline.report import cost_section
from pipeline.teachers.purchase.ledger import Ledger
from tests import providers
from tests.answers import sound
from tests.servers import Pure
from tests.teachers.purchase.test_spending import PREFIXES, buying

ARMS = {
    "base": {"seed-0": {"round-0": {"policy": "data/pretrain/c0", "evaluate": "ce0"}}},
    "omniopd": {
        "seed-0": {
            "round-1": {"rollout": "cr1", "forks": "cf1", "teach": "ca1", "train": "ct1"},
            "round-2": {"rollout": "cr2", "teach": "ca2", "train": "ct2", "evaluate": "ce2"},
        }
    },
    "control": {
        "seed-0": {"round-1": {"rollout": "cr1", "forks": "cf1", "teach": "ca1", "train": "ct3"}}
    },
    "both": {"seed-0": {"round-1": {"teach-one": "ca1", "teach-two": "ca3", "train": "ct4"}}},
}
TAUGHT = {"requests": 2, "failed": 0, "store_hits": 0, "bought": 9}
RUNS = {
    ("evaluate", "ce0"): {"seconds": 1.0},
    ("rollout", "cr1"): {"seconds": 10.0, "rows_out": 4, "student_tokens": 40},
    ("forks", "cf1"): {"seconds": 1.5},
    ("teach", "ca1"): {
        **TAUGHT,
        **{"seconds": 20.0, "answers": 9, "failed": 1, "tokens_used": 54, "tokens_bought": 60},
        **{"tokens_billed": 360, "usd": 0.5, "prompt_tokens_used": 900},
        **{"prompt_tokens_alone": 300, "tokens_alone": 66, "usd_alone": 0.75},
    },
    ("train", "ct1"): {"seconds": 3.0, "student_tokens": 40, "steps_per_round": 2},
    ("rollout", "cr2"): {"seconds": 11.0, "rows_out": 4, "student_tokens": 44},
    ("teach", "ca2"): {
        **TAUGHT,
        **{"seconds": 21.0, "answers": 9, "tokens_used": 50, "tokens_bought": 50},
        **{"tokens_billed": 350, "usd": 0.25, "prompt_tokens_used": 910},
        **{"prompt_tokens_alone": 300, "tokens_alone": 50, "usd_alone": 0.25},
    },
    ("train", "ct2"): {
        **{"seconds": 4.0, "student_tokens": 20, "steps_per_round": 1},
        **{"match": "teacher_output_tokens", "cap": 30, "used": 25, "answer_tokens_kept": 25},
        **{"kept_prompts": 1, "cut_prompts": 3, "kept_responses": 4, "cut_responses": 12},
        **{"mean_weight": 0.25, "mean_weight_uncut": 0.5},
    },
    ("evaluate", "ce2"): {"seconds": 5.0},
    ("train", "ct3"): {"seconds": 3.5, "student_tokens": 40, "steps_per_round": 2},
    ("teach", "ca3"): {  # a teacher without a price
        **TAUGHT,
        **{"seconds": 7.0, "answers": 9, "tokens_used": 10, "tokens_bought": 8},
        **{"tokens_billed": 8, "usd": 0.0, "prompt_tokens_used": 0},
        **{"prompt_tokens_alone": 0, "tokens_alone": 10},
    },
    ("train", "ct4"): {"seconds": 1.0, "student_tokens": 5, "steps_per_round": 1},
}


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for (stage, key), run in RUNS.items():
        folder = tmp_path / "data" / stage / key
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(run))
    return {(row["arm"], row["round"]): row for row in costs.rows(ARMS)}


def test_there_is_a_row_for_each_arm_seed_and_round(rows):
    assert list(rows) == [
        ("base", 0),
        ("omniopd", 1),
        ("omniopd", 2),
        ("control", 1),
        ("both", 1),
    ]
    assert json.dumps(list(rows.values()), allow_nan=False)


def test_a_round_costs_what_its_cells_say(rows):
    row = rows["omniopd", 1]
    expected = {
        "rollouts": 4,
        "student_tokens_sampled": 40,
        "student_tokens_trained": 40,
        "optimizer_steps": 2,
        "teacher_tokens_in_used": 900,
        "teacher_tokens_out_used": 54,
        "teacher_tokens_out_trained": 54,
        "teacher_tokens_in_alone": 300,
        "teacher_tokens_out_alone": 66,
        "usd_alone": 0.75,
        "seconds": 34.5,
        "teacher_tokens_in_bought": 300,
        "teacher_tokens_out_bought": 60,
        "usd_spent": 0.5,
        "seconds_spent": 34.5,
        "shared_with": [],
        "cap": None,
    }
    assert {name: row[name] for name in expected} == expected


def test_totals_are_the_sums_so_far(rows):
    first, second = rows["omniopd", 1], rows["omniopd", 2]
    for name in (*costs.COLUMNS, *costs.ONCE):
        assert first[f"total_{name}"] == first[name]
        assert second[f"total_{name}"] == pytest.approx(first[name] + second[name])
    assert second["total_teacher_tokens_out_used"] == 104
    assert second["total_usd_alone"] == 1.0


def test_a_shared_cell_counts_alone_for_each_arm_and_is_bought_once(rows):
    row = rows["control", 1]
    assert (row["teacher_tokens_out_alone"], row["usd_alone"], row["seconds"]) == (66, 0.75, 35.0)
    assert (row["teacher_tokens_out_bought"], row["usd_spent"]) == (0, 0.0)
    assert row["seconds_spent"] == 3.5  # its own training
    assert row["shared_with"] == ["omniopd"]
    bought = sum(row["teacher_tokens_out_bought"] for row in rows.values())
    assert bought == 60 + 50 + 8  # what the ledgers of the three cells say


def test_what_was_bought_beside_a_rollout_was_bought():
    beside = {"ahead_tokens_bought": 60, "ahead_tokens_billed": 360, "ahead_usd": 0.5}
    found = costs.of_cell("rollout", RUNS["rollout", "cr1"] | beside)
    assert (found.tokens_bought, found.prompt_tokens_bought, found.usd) == (60, 300, 0.5)
    assert found.rollouts == 4


def test_a_teacher_without_a_price_makes_dollars_unknown_and_nothing_else(rows):
    row = rows["both", 1]
    assert row["usd_alone"] is row["total_usd_alone"] is None
    assert (row["teacher_tokens_out_used"], row["teacher_tokens_out_alone"]) == (64, 76)
    assert row["shared_with"] == ["omniopd"]


def test_a_round_that_was_cut_says_so_and_counts_what_was_trained_on(rows):
    row = rows["omniopd", 2]
    assert (row["teacher_tokens_out_used"], row["teacher_tokens_out_trained"]) == (50, 25)
    assert (row["match"], row["cap"], row["used"]) == ("teacher_output_tokens", 30, 25)
    assert (row["kept_prompts"], row["cut_prompts"]) == (1, 3)


def test_results_keep_counting_a_shared_cell_for_every_arm(rows):
    found = costs.cost(ARMS, "control", 0, 1)
    assert (found.tokens_used, found.tokens_bought, found.usd) == (54, 60, 0.5)
    assert found.failure_rate == 0.1
    assert costs.cost(ARMS, "omniopd", 0, 2).tokens_used == 54 + 25
    assert costs.cost(ARMS, "base", 0, 0).failure_rate is None


def test_the_page_shows_sums_sharing_and_the_cut(rows):
    match = {"resource": "teacher_output_tokens", "cap": 30, "from": "budget", "free": ["grpo"]}
    page = cost_section.render(list(rows.values()), match)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    table = {cells[0]: cells[1:] for cells in lines if cells}
    assert [cells for cells in lines if cells and cells[0] == "both"] == [
        ["both", "0", "0", "5", "1", "64", "300", "76", "no price", "8", "28"]
    ]
    assert table["control"][7:9] == ["0.75", "0"]
    # alone 116 + 66 + 76; bought 60 + 50 + 8
    assert "would have bought 258 teacher tokens; together they bought 118" in page
    assert "at 30 teacher output tokens (experiment.budget)" in page
    assert "Not capped, as they use none of it: grpo." in page
    assert table["omniopd"] == ["25", "1", "3", "0.250", "0.500"]


def drawn(sample, requested_n, completion_tokens=12):
    return sound(sample, requested_n=requested_n, completion_tokens=completion_tokens)


def test_alone_a_prompt_counts_once_for_each_request_and_an_answer_up_to_the_limit():
    ledger = Ledger()
    four = [drawn(i, 4) for i in range(4)]  # asked for with n = 4
    ledger.alone({(0, 0): four}, limit=10)
    prompt = four[0].prompt_tokens
    assert prompt > 0
    assert (ledger.prompt_tokens_alone, ledger.tokens_alone) == (prompt, 40)
    ledger.alone({(0, 9): [drawn(0, 1, 3), drawn(1, 1, 3)]}, limit=10)  # one by one
    assert (ledger.prompt_tokens_alone, ledger.tokens_alone) == (3 * prompt, 46)
    ledger.alone({(1, 0): [drawn(i, 8) for i in range(5)]}, limit=10)  # five of eight
    assert ledger.prompt_tokens_alone == 4 * prompt


@pytest.mark.parametrize("provider", ["vllm", "other"])  # with n in a request, and one by one
def test_alone_is_what_an_empty_store_buys_and_a_full_one_does_not_change_it(store, provider):
    with Pure().running() as server:
        first = buying(server.url, store, provider=provider)
        second = buying(server.url, store, provider=provider)
        prefixes = [*PREFIXES, PREFIXES[-1]]  # an equal prefix is bought once
        providers.ask(first, prefixes)
        providers.ask(first, prefixes[-2:])  # also in the next block
        providers.ask(second, prefixes)
    ledger = first.ledger
    assert ledger.bought == len(PREFIXES) * 3
    assert second.ledger.bought == 0
    for found in (ledger, second.ledger):
        assert found.tokens_alone == ledger.tokens_bought > 0
        assert found.prompt_tokens_alone == ledger.tokens_billed - ledger.tokens_bought > 0
