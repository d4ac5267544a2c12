"""Settings under which a round would train on noise or on nothing: refused before anything runs.

Each check raises UserError with the key, the value found, the value wanted and a remedy.
"""

from pipeline.config.method import Adaptive, PerAnswer
from pipeline.core.chosen import chosen, file_of
from pipeline.core.errors import refuse
from pipeline.method.objectives import declared, omniopd, own
from pipeline.plan import budget_caps
from pipeline.plan.blocks import Experiment, Settings

# the coldest; below it logits / temperature leave float32, and vLLM samples at .01 all the same
COLDEST = 0.01


def arm(file: Experiment, where: str, arm: Settings) -> None:
    """`where` is what stands before a key in a message: the arm, if it overrides anything."""
    _signal(file, where, arm)
    _temperatures(where, arm)
    _behaviour(where, arm)
    if declared(arm.train.objective).checked:
        chosen("pipeline.method.objectives", file_of(arm.train.objective), "check")(where, arm)
    _baseline(where, arm)
    _problem(where, arm)
    _outcome(where, arm)
    _gate(file, where, arm)
    _adaptive(where, arm)


def _signal(file: Experiment, where: str, arm: Settings) -> None:
    """What would leave every round of the arm without a signal."""
    remedy, objective = "No round would train anything.", declared(arm.train.objective)
    zero = arm.score.source == "zero" and arm.prior.of_scores
    if "targets" in objective.reads and zero:  # less their mean they are 0, too
        if arm.prior.strength(arm.teach.most) == 0:
            refuse(f"{where}prior.alpha", 0, "above 0 with score.source zero", remedy)
        if arm.prior.weight == "excess":
            key, wanted = f"{where}prior.weight", "another one with score.source zero"
            refuse(key, arm.prior.weight, wanted, f"Equal scores have no excess. {remedy}")
    for name in arm.teach.teachers if objective.teacher else ():
        if getattr(file.teachers[name], "model", None) == file.experiment.student:
            wanted = f"another model than the student, with objective {arm.train.objective}"
            refuse(f"{where}teach.teacher", name, wanted, remedy)


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
    objective, rollout = declared(arm.train.objective), arm.rollout
    if objective.sampled:
        reader = f"train.objective {arm.train.objective}"
    elif objective.importance_ratio and arm.train.corrects:
        reader = "train.importance_ratio ratio"
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
                "an objective without a ratio and train.importance_ratio: none.",
            )


def _baseline(where: str, arm: Settings) -> None:
    if declared(arm.train.objective).settings is not omniopd.Settings:
        return
    match own(arm.train, omniopd.Settings).baseline:
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
    if arm.teach.most < 2:
        refuse(
            f"{where}teach.samples",
            arm.teach.most,
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
    key, objective = f"{where}teach.problem", declared(arm.train.objective)
    asks = arm.prior.of_scores and arm.score.source != "zero"
    if not ("answers" in objective.reads or ("targets" in objective.reads and asks)):
        if "targets" not in objective.reads:
            reader = f"train.objective {arm.train.objective}"
        elif not arm.prior.of_scores:
            reader = f"prior.source {arm.prior.source}"
        else:
            reader = "score.source zero"
        what = "reads the teacher's logits" if objective.teacher else "trains on no answer"
        if "solutions" in objective.reads:
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


def _outcome(where: str, arm: Settings) -> None:
    """Grades of what answers end with are for who reads them as values of states."""
    name = arm.train.objective
    if arm.score.source == "outcome" and arm.prior.of_scores and name != "state-value":
        refuse(
            f"{where}score.source",
            "outcome",
            f"similarity with train.objective {name}",
            "Whether the teacher ends right says nothing of the student's chunk. Use objective "
            "state-value, or compare texts.",
        )


def _gate(file: Experiment, where: str, arm: Settings) -> None:
    """What is bought to skip prompts has to be gradable, to change something, and to be counted."""
    if arm.forks.gate is None:
        return
    key, match = f"{where}forks.gate", file.experiment.match
    if not arm.prepare.graded:
        wanted = f"null, as task {arm.prepare.task} has no checker"
        refuse(key, "a gate", wanted, "Nothing says which of the teacher's solutions are right.")
    if not declared(arm.train.objective).at_forks:
        wanted = f"null with train.objective {arm.train.objective}"
        refuse(key, "a gate", wanted, "It keeps prompts from being audited, and this audits none.")
    if match in budget_caps.PRICED:
        wanted = f"null with experiment.match {match}"
        refuse(key, "a gate", wanted, "What it buys is no answer that is trained on.")


def _adaptive(where: str, arm: Settings) -> None:
    """An N that the answers decide is for who can use a number of answers of each fork."""
    if not isinstance(arm.teach.samples, Adaptive):
        return
    found, objective = "a rule", declared(arm.train.objective)
    for key, wrong, whom in (
        ("train.objective", "solutions" in objective.reads, arm.train.objective),
        ("teach.teacher", len(arm.teach.teachers) > 1, "several teachers"),
        ("prior.alpha", isinstance(arm.prior.alpha, PerAnswer), "alpha per answer"),
        ("train.baseline", _agreed(arm), "baseline teacher-agreement"),
        ("teach.transport", arm.teach.transport == "batch", "transport batch"),
    ):
        if wrong:
            wanted = f"a number with {whom}"
            remedy = f"Write one number, or change {key}."
            refuse(f"{where}teach.samples", found, wanted, remedy)


def _agreed(arm: Settings) -> bool:
    if declared(arm.train.objective).settings is not omniopd.Settings:
        return False
    return own(arm.train, omniopd.Settings).baseline == "teacher-agreement"
