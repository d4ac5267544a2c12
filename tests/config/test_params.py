import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.commands import profiles
from pipeline.core.errors import UserError
from pipeline.plan import blocks, expand, experiment, resolved
from tests.project import MINIATURE, ROOT

URL = "http://127.0.0.1:9/v1"


def load(tmp_path: Path, edit) -> blocks.Experiment:
    yaml = YAML()
    values = yaml.load(MINIATURE.read_text())
    edit(values)
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        yaml.dump(values, file)
    return experiment.load(path)


def put(key, value):
    *parents, last = key.split(".")

    def edit(values):
        for parent in parents:
            values = values[parent]
        values[last] = value

    return edit


REFUSED = [
    ("train.learning_rate", 1e-3, r"train\.learning_rate: unknown key"),
    ("rollout.temperature", "warm", r"rollout\.temperature: found 'warm', wanted"),
    ("train.lr", "3e-4", r"train\.lr: found '3e-4', wanted"),
    ("forks.max_forks", 0, r"forks\.max_forks: found 0, wanted.*greater than or equal to 1"),
    ("teach.samples", 0, r"teach\.samples: found 0"),
    ("forks.chunk_tokens", 0, r"forks\.chunk_tokens: found 0"),
    ("prior.alpha", -1.0, r"prior\.alpha: found -1\.0"),
    ("prior.alpha", {"per_answer": -1.0}, r"prior\.alpha.*per_answer: found -1\.0"),
    ("prior.weight", "surplus", r"prior\.weight: found .surplus., wanted"),
    ("train.beta", -0.1, r"train\.beta: found -0\.1"),
    ("forks.chunk_tokens", 21, r"chunk_tokens: found 21, wanted at most rollout\.max_new_tokens"),
    ("calibrate", {"chunk_tokens": [7]}, r"calibrate\.chunk_tokens: found 7, wanted at most .* 6"),
    ("calibrate", {"metrics": ["bleu"]}, r"calibrate\.metrics: found 'bleu', wanted one of"),
    ("experiment.rounds", 6, r"prepare\.train: found 40, wanted at least .* = 48\. Enlarge"),
    ("experiment.arms", ["omniopd", "nosuch"], r"'nosuch' is not defined; defined are"),
    ("teach.teacher", "nobody", r"teach\.teacher: found 'nobody', wanted one of teachers"),
    ("experiment.student", "nobody", r"experiment\.student: found 'nobody', wanted one of"),
    ("teachers.carries.model", "gone", r"teachers\.carries\.model: found 'gone'"),
    ("evaluate.problems", 25, r"evaluate\.problems: found 25, wanted at most prepare\.test = 24"),
    ("experiment.seeds", [0, 0], r"experiment\.seeds: found \[0, 0\], wanted each seed once"),
    ("experiment.arms", ["omniopd", "omniopd"], r"wanted each arm once"),
    ("arms.base", {}, r"arms\.base: found 'defined'"),
    ("score.metric", "rouge", r"score\.metric: found 'rouge', wanted one of exact, edit, prefix"),
    (
        "forks.scheduler",
        "peak",
        r"forks\.scheduler: found 'peak', wanted one of peak-entropy",
    ),
    (
        "forks.continuations",
        1,
        r"forks\.continuations: found 1, wanted.*or equal to 2",
    ),
]


@pytest.mark.parametrize(
    ("key", "value", "message"), REFUSED, ids=[f"{k}={v}" for k, v, _ in REFUSED]
)
def test_bad_params_are_refused_by_key_value_and_remedy(tmp_path, key, value, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, put(key, value))


@pytest.mark.parametrize("arm", ["omniopd", "not-run"])
def test_an_arm_is_checked_with_its_overrides(tmp_path, arm):
    def edit(values):
        values["arms"][arm] = {"train": {"learning_rate": 1.0}}

    with pytest.raises(UserError, match=rf"arm {arm}: train\.learning_rate: unknown key"):
        load(tmp_path, edit)


def test_opd_with_a_text_only_teacher_is_refused(tmp_path):
    def edit(values):
        values["teachers"]["carries"]["white_box"] = False
        values["experiment"]["arms"] = ["omniopd", "opd"]

    with pytest.raises(UserError, match=r"arms\.opd: teach\.teacher: found 'carries', wanted a t"):
        load(tmp_path, edit)


@pytest.mark.parametrize("block", ["rollout", "evaluate"])
def test_an_adapter_that_vllm_has_no_room_for_is_refused(tmp_path, block):
    def edit(values, rank=513):
        values[block]["engine"] = "vllm"
        values["train"]["lora"] = {"rank": rank, "alpha": 4.0, "targets": "all-linear"}

    with pytest.raises(UserError, match=r"train\.lora\.rank: found 513, wanted at most 512"):
        load(tmp_path, edit)
    assert load(tmp_path, lambda values: edit(values, 512)).arm("omniopd").train.lora.rank == 512


def test_a_text_only_teacher_serves_omniopd(tmp_path):
    assert load(tmp_path, put("teachers.carries.white_box", False)).arm("omniopd")


def test_a_list_of_one_teacher_is_that_teacher(tmp_path):
    one = expand.expand(load(tmp_path, lambda values: None))
    listed = load(tmp_path, put("teach.teacher", ["carries"]))
    assert expand.expand(listed) == one  # cells and, for the report, the settings
    assert resolved.method(listed.arm("omniopd"))["teach"]["teacher"] == "carries"


def test_a_profile_never_overwrites_a_params_file_that_was_edited(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    monkeypatch.setattr(profiles, "FOLDER", tmp_path / "profiles")
    for name in ("one", "two"):
        (tmp_path / "profiles" / f"{name}.yaml").write_text(f"# {name}\n" + MINIATURE.read_text())
    file = tmp_path / "params.yaml"
    profiles.put("one")
    assert not list(tmp_path.glob("params.yaml.*"))
    edits = [f"# edit {i}\n" + file.read_text() for i in range(3)]
    said = []
    for edit in [*edits, edits[1]]:
        file.write_text(edit)
        said.append(profiles.put("one"))
        assert file.read_text() == (tmp_path / "profiles/one.yaml").read_text()
    names = ["params.yaml.old", "params.yaml.old.2", "params.yaml.old.3"]
    assert [(tmp_path / name).read_text() for name in names] == edits
    assert sorted(p.name for p in tmp_path.glob("params.yaml.*")) == names  # an equal one serves
    for name, text in zip([*names, names[1]], said, strict=True):
        assert f"The one before it is {name}. " in text
    assert "before" not in profiles.put("one")


def test_a_control_needs_the_arm_that_it_controls(tmp_path):
    with pytest.raises(UserError, match=r"arms\.constant-scores: prior\.controls"):
        load(tmp_path, put("experiment.arms", ["constant-scores"]))


def test_prior_only_needs_alpha(tmp_path):
    def edit(values):
        values["prior"]["alpha"] = 0.0
        values["experiment"]["arms"] = ["prior-only"]

    with pytest.raises(UserError, match=r"prior\.alpha: found 0, wanted above 0"):
        load(tmp_path, edit)


AGREEMENT = {"baseline": "teacher-agreement", "importance_ratio": "ratio"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"teach": {"samples": 1}}, "teach.samples: found 1, wanted at least 2"),
        ({"prior": {"source": "none"}}, "prior.source: found 'none', wanted scores"),
        ({"score": {"source": "shuffled"}}, "score.source: found 'shuffled', wanted similarity"),
        ({"score": {"source": "zero"}}, "score.source: found 'zero', wanted similarity"),
        (
            {"teach": {"teacher": ["carries", "never-carries"]}, "prior": {"combine": "mean"}},
            "teach.teacher: found ['carries', 'never-carries'], wanted one teacher",
        ),
        (
            {"train": AGREEMENT | {"importance_ratio": "none"}},
            "train.importance_ratio: found 'none', wanted",
        ),
    ],
)
def test_agreement_of_a_teacher_with_itself_needs_one_teacher_answers_and_its_scores(
    tmp_path, override, said
):
    def edit(values):
        values["arms"]["new"] = {"train": AGREEMENT} | override
        values["experiment"]["arms"] = ["new"]

    with pytest.raises(UserError, match=re.escape(f"arms.new: {said}")):
        load(tmp_path, edit)


def test_a_missing_and_a_broken_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="not found"):
        experiment.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("experiment: [")
    with pytest.raises(UserError, match="not YAML"):
        experiment.load(tmp_path / "params.yaml")


def test_yaml_is_read_as_dvc_reads_it(tmp_path):
    text = MINIATURE.read_text().replace(
        "lr: 1.0e-3\n  batch_size: 16\n  micro", "lr: 3e-4\n  batch_size: 16\n  micro"
    )
    (tmp_path / "params.yaml").write_text(text)
    assert experiment.load(tmp_path / "params.yaml").train.lr == 3e-4


@pytest.mark.parametrize(
    "path",
    [ROOT / "params.yaml", *sorted((ROOT / "pipeline/commands/profiles").glob("*.yaml"))],
    ids=lambda p: p.name,
)
def test_every_shipped_params_file_loads_with_every_arm_that_it_defines(path):
    loaded = experiment.load(path)
    for name in loaded.arms:
        assert loaded.arm(name)


def hosted(tmp_path, teacher, **teach):
    """The miniature with one hosted teacher in its only arm, loaded."""

    def edit(values):
        values["experiment"]["arms"], values["arms"] = ["omniopd"], {"omniopd": {}}
        values["teachers"] = {"api": {"kind": "openai_compatible", "model": "m", **teacher}}
        values["teach"] |= {"teacher": "api", "continuation": "prefill", **teach}

    return load(tmp_path, edit)


@pytest.mark.parametrize(
    ("teacher", "teach", "said"),
    [
        ({"provider": "groq", "model": "llama-3"}, {}, "teachers.api.base_url: found None"),
        ({"provider": "vllm"}, {}, "teachers.api.base_url: found None"),
        ({"base_url": URL}, {"continuation": "completions"}, "teachers.api.tokenizer"),
        ({"base_url": URL}, {"transport": "batch"}, "teach.transport: found 'batch'"),
        ({"base_url": URL}, {"max_usd": 1.0}, "has no price"),
        ({"base_url": URL}, {"accept_terms": "antropic"}, "teach.accept_terms: found 'antropic'"),
    ],
)
def test_a_hosted_teacher_that_cannot_work_is_refused_when_params_load(
    tmp_path, teacher, teach, said
):
    hosted(tmp_path, {"base_url": URL})  # the same without the mistake
    with pytest.raises(UserError, match=re.escape(said)):
        hosted(tmp_path, teacher, **teach)


def test_chunk_lengths_are_a_quarter_half_and_the_whole_and_at_least_two(tmp_path):
    block = load(tmp_path, lambda _: None).calibrate
    assert block.lengths(50) == (12, 25, 50)
    assert block.lengths(6) == (2, 3, 6)
    assert block.lengths(4) == (2, 4)
    assert block.lengths(1) == (1,)
    named = load(tmp_path, put("calibrate", {"chunk_tokens": [6, 1]})).calibrate
    assert named.lengths(6) == (1, 6)


def test_the_study_is_the_default_experiment_with_more_arms_seeds_and_branches():
    default, study = (
        experiment.read_yaml(path)
        for path in (ROOT / "params.yaml", ROOT / "pipeline/commands/profiles/study.yaml")
    )
    own = {"experiment", "arms", "score"}
    assert {k: v for k, v in study.items() if k not in own} == {
        k: v for k, v in default.items() if k not in own
    }
    assert default["arms"].items() <= study["arms"].items()
    assert set(study["arms"]) == set(study["experiment"]["arms"])
    assert study["score"] == default["score"] | {"allow_flat": True}
