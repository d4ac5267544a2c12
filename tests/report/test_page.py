"""The report page, opened in a real browser from a file."""

import hashlib
import json
import re
import tomllib

import pyarrow.parquet as pq
import pytest

from pipeline.report.page.page import Content, render
from tests import handmade
from tests.browser import no_barrier
from tests.project import ROOT
from tests.report.test_sections import BRANCH, LEVEL, VERDICT, plan_of, result

MOST = 6_000_000  # bytes of the file
ASKS = re.compile(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|url\(\s*["']?\s*(https?:)?//""", re.I)


def rows(made, stage, key, name):
    return pq.read_table(made / "data" / stage / key / f"{name}.parquet").to_pylist()


def cells(made, arm, round_):
    return plan_of(made)["arms"][arm]["seed-0"][f"round-{round_}"]


def shown(page):
    return re.findall(r"\d+", page.locator("#f-count").inner_text())


def matches(page):
    """How many responses match, by the line above them."""
    numbers = [int(number) for number in shown(page)]
    return numbers[0] if len(numbers) == 2 and numbers[0] == 0 else numbers[1]


def place(page):
    """What the browser's address names now; `page.url` is told of it a moment later."""
    return page.evaluate("location.hash")


# ---- the file


def test_every_file_of_the_page_is_installed_and_part_of_the_lock_of_the_report():
    lock = (ROOT / "code/report.lock").read_text()
    files = {path for path in (ROOT / "pipeline/report/page").iterdir() if path.is_file()}
    others = {path.name for path in files if path.suffix != ".py"}
    named = [line.split() for line in lock.splitlines() if line.startswith("file ")]
    assert {line[1] for line in named if len(line) == 3} == others  # two: a function called file
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    kinds = {name.lstrip("*") for name in installed["package-data"]["pipeline.report.page"]}
    assert {path.suffix for path in files} - {".py"} <= kinds


def test_the_file_asks_for_nothing_and_is_small(made):
    text = (made / "data/report/index.html").read_text()
    assert not ASKS.search(text)
    assert len(text.encode()) < MOST


@pytest.mark.browser
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(visit, width, scheme):
    no_barrier(visit(width=width, scheme=scheme))


@pytest.mark.browser
def test_the_default_sections_stand_in_their_order(visit):
    page = visit()
    titles = page.locator("h2").all_inner_texts()
    assert titles == [
        "Verdicts and results",
        "Learning curves",
        "Cost against accuracy",
        "Answers",
        "Fork browser",
        "How",
    ]
    assert "conditional on this run" in page.locator(".basis").inner_text()
    assert page.locator(".chart svg").count() == 3
    assert page.get_by_text("Made by hand, </script> & all.").count() == 1


@pytest.mark.browser
def test_the_page_says_whom_it_is_about_and_which_plan_made_it(visit, made):
    page = visit()
    assert (
        page.title() == page.locator("h1").inner_text() == "beginner taught by carries: arithmetic"
    )
    about = page.locator(".about").inner_text()
    assert "beginner (llama, hidden 8)" in about
    assert "carries (local, model careful)" in about
    plan = (made / "dag/cells/report/creport.yaml").read_bytes()
    assert hashlib.md5(plan, usedforsecurity=False).hexdigest() in about
    lock = (made / "code/report.lock").read_text()
    assert re.findall(r"^library (numpy .*)$", lock, re.MULTILINE)[0] in about
    above = page.evaluate(
        "document.querySelector('.remark').compareDocumentPosition(document.querySelector('h2'))"
    )
    assert above == 4  # the heading of the first section follows the notes


@pytest.mark.browser
def test_columns_and_arms_say_what_they_are(visit):
    page = visit()
    heads = page.locator("#results .box:not(details) thead th[title]")
    assert heads.count() == 12  # all but that of the marks
    assert "length limit" in page.get_by_role("columnheader", name="cut off").get_attribute("title")
    for name in ("What the arms are", "What the columns are"):
        page.get_by_text(name).click()
    words = page.locator(".meanings").first
    assert words.locator("dt").all_inner_texts() == [
        "base", "omniopd", "shuffled-scores", "pair", "zero-score", "grpo", "sft",
    ]  # fmt: skip
    assert "change places between forks" in words.inner_text()
    assert "Dashed" in page.locator("#curves").inner_text()  # no round but the last is evaluated


@pytest.mark.browser
def test_a_table_that_is_too_wide_says_so_until_its_end_is_seen(visit):
    page = visit(width=390)
    table = page.locator("#results .scroll-box:visible").first
    assert table.locator(".hint").is_visible()
    assert "more" in table.get_attribute("class").split()
    table.locator(".scroll").evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    page.wait_for_function("!document.querySelector('#results .box:not(details) .more')")


@pytest.mark.browser
def test_the_numbers_equal_the_tables(visit, made):
    page = visit()
    results = json.loads((made / "data/report/results.json").read_text())
    assert len(results) == 14
    for row in results:
        line = page.locator(f"tr[data-arm='{row['arm']}'][data-seed='{row['seed']}']")
        if row["decoding"] == "greedy":
            assert line.locator("[data-field=greedy]").inner_text() == f"{row['accuracy']:.3f}"
            continue
        accuracy = f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        assert line.locator("[data-field=accuracy]").inner_text() == accuracy
        tokens = f"{row['tokens_used']:,}"
        assert line.locator("[data-field=tokens_used]").inner_text() == tokens
        if row["arm"] != "base":
            diff = f"{row['diff']:+.3f} [{row['diff_low']:+.3f}, {row['diff_high']:+.3f}]"
            assert line.locator("[data-field=diff]").inner_text() == diff
    contrasts = json.loads((made / "data/report/contrasts.json").read_text())
    cards = page.locator(".card").all_inner_texts()
    for c in contrasts:
        if (c["arm"], c["versus"]) == ("omniopd", "shuffled-scores"):
            numbers = f"{c['diff']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}]"
            assert sum(numbers in card and "shuffled-scores" in card for card in cards) == 1


# ---- the fork browser


@pytest.mark.browser
def test_a_response_with_a_script_is_shown_as_text_and_not_run(visit, made):
    page = visit("#forks/omniopd/0/1/train-000002-1/1")
    assert page.locator("#f-head b").inner_text() == "train-000002-1"
    assert page.locator("#f-text-box").text_content() == handmade.SCRIPT
    assert page.locator("#f-text-box script").count() == 0
    assert page.locator("#f-chunk li").count() == handmade.N
    assert page.locator("#f-chunk li b:not(.sim b)").count() == 0  # the answers hold <b>


@pytest.mark.browser
def test_an_address_that_is_malformed_or_of_nothing_opens_the_browser(visit):
    for place in ("#forks/%zz", "#forks/omniopd/0/1/%E0%A4%A/1", "#forks/nosuch/9/9/x/y"):
        page = visit(place)  # which says afterwards whether anything was thrown
        assert page.locator("#f-head b").inner_text().startswith("train-")
        page.keyboard.press("j")
        assert page.locator("#f-list li").count() > 0


@pytest.mark.browser
def test_every_response_chunk_and_continuation_is_that_of_the_tables(visit, made):
    page = visit("#forks/pair/0/2/train-000000-0")
    own = cells(made, "pair", 2)
    forks_ = rows(made, "forks", own["forks"], "forks")
    scores = [
        r | {"cell": name}
        for name in ("score-one", "score-two")
        for r in rows(made, "score", own[name], "scores")
    ]
    for row in rows(made, "rollout", own["rollout"], "rollouts"):
        assert page.locator("#f-head b").inner_text() == row["rollout_id"]
        assert page.locator("#f-text-box").text_content() == row["text"]
        right = "correct" if row["reward"] == 1 else "wrong"
        assert page.locator("#f-head .badge").inner_text() == right
        audited = [f for f in forks_ if f["rollout_id"] == row["rollout_id"]]
        chunks = page.locator("#f-text-box .chunk")
        assert [c.text_content() for c in chunks.all()] == [f["chunk_text"] for f in audited]
        for i, fork in enumerate(audited):
            chunks.nth(i).click()
            place = (row["rollout_id"], fork["position"])
            values = [s["similarity"] for s in scores if (s["rollout_id"], s["position"]) == place]
            found = page.locator("#f-chunk .sim").all_inner_texts()
            assert sorted(found) == sorted(f"{value:.3f}" for value in values)
            facts = page.locator("#f-chunk .facts").inner_text()
            assert f"{sum(values) / len(values):.3f}" in facts
            assert "0.350 ± 0.195" in facts
        page.keyboard.press("j")


@pytest.mark.browser
def test_filters_count_what_the_tables_count(visit, made):
    page = visit("#forks/omniopd/0/2/")
    own = cells(made, "omniopd", 2)
    rollouts = rows(made, "rollout", own["rollout"], "rollouts")
    places = {
        (f["rollout_id"], f["position"]): f for f in rows(made, "forks", own["forks"], "forks")
    }
    values = {}
    for s in rows(made, "score", own["score"], "scores"):
        values.setdefault((s["rollout_id"], s["position"]), []).append(s["similarity"])
    similarity = {place: sum(v) / len(v) for place, v in values.items()}
    right = {r["rollout_id"] for r in rollouts if r["reward"] == 1}

    page.select_option("#f-correct", "1")
    assert matches(page) == len(right) == page.locator("#f-list li").count()
    page.select_option("#f-correct", "0")
    assert matches(page) == len(rollouts) - len(right)
    page.fill("#f-h-min", "1.2")
    unsure = {i for (i, _), f in places.items() if f["entropy"] >= 1.2}
    assert matches(page) == len(unsure - right) > 0
    page.fill("#f-s-max", "0.5")
    both = {i for (i, t), f in places.items() if f["entropy"] >= 1.2 and similarity[i, t] <= 0.5}
    assert matches(page) == len(both - right)
    page.locator("#f-filters button").click()
    page.wait_for_function("document.getElementById('f-list').children.length === 12")
    page.fill("#f-text", "<script>")
    assert matches(page) == 1
    page.fill("#f-text", "nowhere")
    assert "0 match" in page.locator("#f-count").inner_text()
    assert page.get_by_text("No response matches").is_visible()


@pytest.mark.browser
def test_keys_move_between_responses_and_chunks(visit):
    page = visit("#forks/omniopd/0/1/train-000001-0")
    head = page.locator("#f-head b")
    page.keyboard.press("j")
    assert head.inner_text() == "train-000001-1"
    page.keyboard.press("k")
    assert head.inner_text() == "train-000001-0"
    page.locator("#f-list [aria-current=true]").focus()
    page.keyboard.press("ArrowDown")
    assert head.inner_text() == "train-000001-1"
    page.keyboard.press("ArrowLeft")
    assert head.inner_text() == "train-000001-0"
    page.keyboard.press("Tab")  # prompt and response are read, the chunks can be opened
    while page.evaluate("!document.activeElement.matches('.chunk')"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#f-text-box .chunk").first.get_attribute("aria-expanded") == "true"
    assert place(page) == "#forks/omniopd/0/1/train-000001-0/1"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert place(page) == "#forks/omniopd/0/1/train-000001-0/5"
    page.keyboard.press("s")
    numbers = page.locator("#f-chunk .number").all_inner_texts()
    assert numbers == ["1", "2", "3", "4"]
    page.keyboard.press("s")
    values = [float(text) for text in page.locator("#f-chunk .sim").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    page.locator("#f-arm").focus()
    page.keyboard.press("j")  # letters typed into a field are not commands
    assert head.inner_text() == "train-000001-0"


@pytest.mark.browser
def test_arms_that_lack_evidence_show_what_they_have(visit):
    page = visit()
    assert page.locator("#f-arm option").all_inner_texts() == [
        "omniopd",
        "shuffled-scores",
        "pair",
        "zero-score",
        "grpo",
    ]
    assert "base and sft" in page.locator("#browser").inner_text()
    page.select_option("#f-arm", "grpo")
    assert page.locator("#f-text-box .chunk").count() == 0
    assert page.locator("#f-s").is_hidden()
    assert page.locator("#f-text-box .tok").count() > 0
    page.select_option("#f-arm", "shuffled-scores")
    page.keyboard.press("j")
    page.locator("#f-next").click()
    page.locator("#f-text-box .chunk").first.click()
    assert "another fork's" in page.locator("#f-chunk").inner_text()
    page.select_option("#f-arm", "zero-score")
    page.locator("#f-next").click()
    page.locator("#f-text-box .chunk").first.click()
    assert "asks no teacher" in page.locator("#f-chunk").inner_text()


@pytest.mark.browser
def test_the_legend_and_the_cost_can_be_chosen(visit):
    page = visit()
    curves = page.locator("[data-chart=curve-evaluation] svg")
    before = curves.locator("path").count()
    page.locator("#curves .legend button").first.click()
    page.wait_for_timeout(300)
    assert curves.locator("path").count() < before
    costs = page.locator("[data-chart=costs]")
    first = costs.inner_html()
    page.select_option("[data-signal=measure]", label="seconds")
    page.wait_for_timeout(300)
    assert costs.inner_html() != first


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 760, 360])
def test_nothing_overflows_in_any_width_or_theme(visit, tmp_path, width, scheme):
    page = visit(width=width, scheme=scheme)
    page.evaluate("for (const box of document.querySelectorAll('details')) box.open = true")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    page.locator("#f-text-box").screenshot(path=tmp_path / "forks.png")
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") != scheme


@pytest.mark.browser
def test_charts_follow_the_system_from_light_to_dark(visit):
    page = visit()
    label = page.locator("[data-chart=costs] svg text").first
    light = label.get_attribute("fill")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "light => { const text = document.querySelector('[data-chart=costs] svg text');"
        "return text && text.getAttribute('fill') !== light }",
        arg=light,
    )
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.browser
def test_text_has_the_contrast_of_level_aa_in_both_themes(visit):
    page = visit()
    for scheme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{scheme}'")
        colours = page.evaluate(
            "(() => { const s = getComputedStyle(document.documentElement);"
            "return Object.fromEntries(['bg','surface','soft','ink','muted','accent','good',"
            "'good-bg','bad','bad-bg','flat','flat-bg'].map(n => [n, s.getPropertyValue('--'+n)]))"
            "})()"
        )
        pairs = [(t, b) for t in ("ink", "muted") for b in ("bg", "surface", "soft")]
        pairs += [(t, f"{t}-bg") for t in ("good", "bad", "flat")] + [("accent", "surface")]
        for text, behind in pairs:
            assert _contrast(colours[text], colours[behind]) >= 4.5, (scheme, text, behind)


def _contrast(one, other):
    def light(colour):
        parts = (int(colour.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.browser
def test_the_coming_sections_draw_in_the_browser(visit, tmp_path):
    levels = [
        LEVEL | {"metric": metric, "chunk_tokens": c, "quantity": q}
        for metric in ("edit", "exact")
        for c in (6, 12)
        for q in ("own", "floor/other-fork", "contrast/other-fork", "correct/response")
    ]
    levels += [
        LEVEL | {"quantity": "profile/entropy", "bin": b / 2, "value": b / 4} for b in range(4)
    ]
    content = Content(
        arms=["base", "omniopd"], split="test", k=2, per_seed=False,
        results=[result("base", 0, 0, 0.25), result("omniopd", 0, 2, 0.5)],
        verdicts=[VERDICT], calibration=levels, branches=[BRANCH, BRANCH | {"round": 2}],
    )  # fmt: skip
    path = tmp_path / "index.html"
    path.write_text(render(content))
    page = visit(path=path, width=360)
    assert page.locator("h2").all_inner_texts() == [
        "Verdicts and results", "Cost against accuracy", "Calibration", "Branch effects",
    ]  # fmt: skip
    for name in ("levels-own", "levels-auroc", "profile-profile-entropy", "branches", "costs"):
        assert page.locator(f"[data-chart={name}] svg").count() == 1
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0
    no_barrier(page)
    page.select_option("#calibration [data-signal=metric]", label="exact")


@pytest.mark.browser
def test_the_page_of_every_arm_opens_and_is_small(full, visit):
    path = full.folder / "data/report/index.html"
    text = path.read_text()
    assert len(text.encode()) < MOST
    assert not ASKS.search(text)
    page = visit(path=path)
    no_barrier(page)
    arms = page.locator("#f-arm option").all_inner_texts()
    assert {"omniopd", "multi-teacher", "prior-only", "grpo"} <= set(arms)
    for arm in arms:
        page.select_option("#f-arm", arm)
        chunks = page.locator("#f-text-box .chunk")
        if chunks.count():
            chunks.first.click()
            assert page.locator("#f-chunk h3").count() == 1
