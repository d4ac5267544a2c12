"""Settings under which a round would train on noise or on nothing: refused before anything runs.

Each check raises UserError with the key, the value found, the value wanted and a remedy.
"""

from pipeline.core import extensions
from pipeline.plan.blocks import Experiment, Settings
from pipeline.plan.checks.choices import white_box
from pipeline.plan.checks.validate import refuse

# the coldest; below it logits / temperature leave float32, and vLLM samples at .01 all the same
COLDEST = 0.01
CORRECTED = {"omniopd", "opd-sampled", "rft"}  # objectives that read train.correction


def corrected(objective: str) -> bool:
    """Whether an objective reads train.correction, as one of the experiment's own may."""
    return objective in CORRECTED or extensions.named(objective)


def arm(file: Experiment, where: str, arm: Settings) -> None:
    """`where` is what stands before a key in a message: the arm, if it overrides anything."""
    _signal(file, where, arm)
    _temperatures(where, arm)
    _behaviour(where, arm)
    _correction(where, arm)
    _baseline(where, arm)
    _problem(where, arm)


def _signal(file: Experiment, where: str, arm: Settings) -> None:
    """What would leave every round of the arm without a signal."""
    remedy, train = "No round would train anything.", arm.train
    zero = arm.score.source == "zero" and arm.prior.source == "scores" and arm.prior.alpha == 0
    if train.objective == "omniopd" and zero:  # less their mean they are 0, too
        refuse(f"{where}prior.alpha", 0, "above 0 with score.source zero", remedy)
    for name in arm.teach.teachers if white_box(train.objective) else ():
        if getattr(file.teachers[name], "model", None) == file.experiment.student:
            wanted = f"another model than the student, with objective {train.objective}"
            refuse(f"{where}teach.teacher", name, wanted, remedy)


def several_steps(arm: Settings) -> bool:
    """Whether a round of rollouts takes more than one optimizer step."""
    responses = arm.rollout.prompts_per_round * arm.rollout.samples_per_prompt
    return arm.train.epochs * responses > arm.train.batch_size


def _temperatures(where: str, arm: Settings) -> None:
    wanted = f"at least {COLDEST:g}, usually 1"
    if arm.rollout.temperature < COLDEST:
        refuse(
            f"{where}rollout.temperature",
            arm.rollout.temperature,
            wanted,
            "Greedy responses to a prompt are all alike, and a fork needs the entropy of a choice "
            "that was drawn. Evaluation decodes greedily by itself.",
        )
    if arm.teach.temperature < COLDEST:
        refuse(
            f"{where}teach.temperature",
            arm.teach.temperature,
            wanted,
            "Greedy continuations of a fork are all alike: teach.samples of them say no more than "
            "one.",
        )


def _behaviour(where: str, arm: Settings) -> None:
    """A ratio compares with the policy that sampled; tables hold that of temperature 1 alone."""
    objective, rollout = arm.train.objective, arm.rollout
    if objective in ("grpo", "opd-sampled"):
        reader = f"train.objective {objective}"
    elif corrected(objective) and arm.train.correction == "ratio":
        reader = "train.correction ratio"
    else:
        return
    for name, found, off in (
        ("temperature", rollout.temperature, 1),
        ("top_p", rollout.top_p, 1),
        ("top_k", rollout.top_k, 0),
    ):
        if found != off:
            refuse(
                f"{where}rollout.{name}",
                found,
                f"{off} with {reader}",
                "It weighs tokens by how likely the student was to sample them, and the rollouts' "
                f"log-probabilities are those of plain sampling. Set rollout.{name}: {off}, or use "
                "an objective and a correction without a ratio.",
            )


def _correction(where: str, arm: Settings) -> None:
    if arm.train.correction == "ratio" or not several_steps(arm):
        return
    if arm.train.objective == "opd-sampled":
        reader = "objective opd-sampled"
        why = "Tokens that the student likes better than the teacher are pushed ever lower"
    elif arm.train.objective == "omniopd" and arm.train.baseline != "none":
        reader, why = f"baseline {arm.train.baseline}", "Weights below 0 push a token ever lower"
    else:
        return
    refuse(
        f"{where}train.correction",
        arm.train.correction,
        f"ratio with {reader} and several optimizer steps a round",
        f"{why} once the student has moved. Set train.correction: ratio, or raise "
        "train.batch_size to all responses of a round.",
    )


def _baseline(where: str, arm: Settings) -> None:
    if arm.train.objective != "omniopd":
        return
    match arm.train.baseline:
        case "teacher-agreement":
            _agreement(where, arm)
        case "prompt" | "batch" as baseline:
            _centred(where, arm, baseline)


def _centred(where: str, arm: Settings, baseline: str) -> None:
    """Weights less their own mean must not all be 0."""
    key = f"{where}train.baseline"
    if arm.prior.source == "constant":
        refuse(
            key,
            baseline,
            "none with prior.source constant",
            "Equal weights less their mean are 0, and nothing would be trained.",
        )
    forks = min(arm.forks.max_forks, arm.rollout.max_new_tokens // arm.forks.chunk_tokens)
    forks *= arm.rollout.samples_per_prompt
    forks *= arm.rollout.prompts_per_round if baseline == "batch" else 1
    if forks < 2:
        refuse(
            key,
            baseline,
            f"none, as a {'round' if baseline == 'batch' else 'prompt'} has one fork at most",
            "Its weight less its own mean is 0, and nothing would be trained. Raise "
            "rollout.samples_per_prompt, or forks.max_forks if another chunk fits.",
        )


def _agreement(where: str, arm: Settings) -> None:
    baseline = "with train.baseline teacher-agreement"
    if arm.teach.samples < 2:
        refuse(
            f"{where}teach.samples",
            arm.teach.samples,
            f"at least 2 {baseline}",
            "One answer agrees with no other.",
        )
    if len(arm.teach.teachers) > 1:
        refuse(
            f"{where}teach.teacher",
            list(arm.teach.teachers),
            f"one teacher {baseline}",
            "Name one, or use another baseline.",
        )
    for key, found, wanted in (
        ("prior.source", arm.prior.source, "scores"),
        ("score.source", arm.score.source, "similarity"),
    ):
        if found != wanted:
            refuse(
                f"{where}{key}",
                found,
                f"{wanted} {baseline}",
                "Use another baseline: the weights would hold its agreement and not its scores.",
            )


def _problem(where: str, arm: Settings) -> None:
    """Who shows the teacher another problem must train on what it answers at forks."""
    if arm.teach.problem == "own":
        return
    key, objective = f"{where}teach.problem", arm.train.objective
    asks = arm.prior.source == "scores" and arm.score.source != "zero"
    own = extensions.named(objective) and extensions.reads(objective)
    if not (objective == "imitate-forks" or own or (objective == "omniopd" and asks)):
        if objective != "omniopd":
            reader = f"train.objective {objective}"
        elif arm.prior.source != "scores":
            reader = f"prior.source {arm.prior.source}"
        else:
            reader = "score.source zero"
        what = "reads the teacher's logits" if white_box(objective) else "trains on no answer"
        if objective == "sft":
            what = "trains on whole solutions of the problem itself"
        refuse(
            key,
            arm.teach.problem,
            f"own with {reader}",
            f"It {what}; another problem is shown where the teacher answers at forks. Use omniopd "
            "or imitate-forks.",
        )
    if arm.rollout.prompts_per_round < 2:
        refuse(
            f"{where}rollout.prompts_per_round",
            arm.rollout.prompts_per_round,
            f"at least 2 with teach.problem {arm.teach.problem}",
            "A round of one problem has no other to show.",
        )
