"""The settings of one arm fit together, and fit the teachers and models that it names.

Each check raises UserError with the key, the value found, the value wanted and a remedy.
"""

from pipeline.config import params
from pipeline.config.models import ModelInit
from pipeline.config.teachers import Hosted, LocalTeacher
from pipeline.core.errors import refuse
from pipeline.method.objectives import declared
from pipeline.plan import model_shapes
from pipeline.plan.blocks import Experiment, Settings
from pipeline.plan.resolved import UNTRACKED
from pipeline.teachers.capabilities import TERMS, check

MOST_TEACHERS = 4  # stage prior has an argument for each


def arm(file: Experiment, name: str, arm: Settings) -> None:
    where = "" if not file.arms[name] else f"arms.{name}: "
    _rank(where, arm)
    _exact(where, arm)
    _sizes(file.experiment.rounds, where, arm)
    _teachers(file, name, where, arm)
    _models(file, where, arm)
    _contexts(file, where, arm)
    _prior(file, name, where, arm)
    _untracked(file, name, where)


def _untracked(file: Experiment, name: str, where: str) -> None:
    for block, keys in UNTRACKED.items():
        free = keys & set(file.arms[name].get(block, {}))
        if free:
            refuse(
                f"{where}{block}.{min(free)}",
                "an override",
                "nothing: it is one setting for all arms",
                f"Set it in the block {block}.",
            )


def _rank(where: str, arm: Settings) -> None:
    rank, most = arm.train.adapter.rank if arm.train.adapter else 0, params.VLLM_RANKS[-1]
    if rank > most and "vllm" in (arm.rollout.engine, arm.evaluate.engine):
        refuse(f"{where}train.lora.rank", rank, f"at most {most} with engine vllm", "Lower it.")


def _exact(where: str, arm: Settings) -> None:
    """Only vLLM keeps what it knows of its own samples."""
    by = "imported rollouts" if arm.prepare.imported else f"rollout.engine {arm.rollout.engine}"
    if arm.rollout.exact == "engine" and by != "rollout.engine vllm":
        refuse(f"{where}rollout.exact", "engine", f"pass with {by}", "Remove it.")


def _sizes(rounds: int, where: str, arm: Settings) -> None:
    if arm.forks.chunk_tokens > arm.rollout.max_new_tokens:
        refuse(
            f"{where}forks.chunk_tokens",
            arm.forks.chunk_tokens,
            f"at most rollout.max_new_tokens = {arm.rollout.max_new_tokens}",
            "Shorten the chunk or lengthen the responses.",
        )
    needed = rounds * arm.rollout.prompts_per_round
    if needed > arm.prepare.train:
        refuse(
            f"{where}prepare.train",
            arm.prepare.train,
            f"at least experiment.rounds x rollout.prompts_per_round = {needed}",
            "Enlarge the pool, or use fewer rounds or prompts a round.",
        )
    pool = arm.prepare.dev if arm.evaluate.split == "dev" else arm.prepare.test
    if arm.prepare.graded and arm.evaluate.problems > pool:
        refuse(
            f"{where}evaluate.problems",
            arm.evaluate.problems,
            f"at most prepare.{arm.evaluate.split} = {pool}",
            "Prepare more problems or evaluate fewer.",
        )
    if declared(arm.train.objective).reward and not arm.prepare.graded:
        refuse(
            f"{where}train.objective",
            arm.train.objective,
            f"one that needs no checker, as task {arm.prepare.task} has none",
            "Use another task or objective.",
        )
    longest = max(arm.calibrate.lengths(arm.forks.chunk_tokens))
    if longest > arm.forks.chunk_tokens:
        refuse(
            f"{where}calibrate.chunk_tokens",
            longest,
            f"at most forks.chunk_tokens = {arm.forks.chunk_tokens}",
            "Only answers that were bought are looked at, and they end there.",
        )


def _models(file: Experiment, where: str, arm: Settings) -> None:
    models = arm.pretrain.models
    named = {"experiment.student": file.experiment.student}
    for name in arm.teach.teachers:
        teacher = file.teachers[name]
        if isinstance(teacher, LocalTeacher):
            named[f"teachers.{name}.model"] = teacher.model
    for name, model in models.items():
        if isinstance(model.init, ModelInit):
            named[f"pretrain.models.{name}.init.name"] = model.init.name
            start = models.get(model.init.name)
            if start and isinstance(start.init, ModelInit):
                refuse(
                    f"pretrain.models.{name}.init.name",
                    model.init.name,
                    "a model that starts from no other",
                    "Train both from the same start.",
                )
    for key, name in named.items():
        if name not in models:
            refuse(key, name, f"one of pretrain.models: {sorted(models)}", "Define it there.")


def measuring(file: Experiment, arm: Settings, key: str, tokens: int) -> None:
    """Refuse a teacher that is asked after training, by `arm`, and could not answer then.

    `key` names it, and it reads at least `tokens`.
    """
    (name,) = arm.teach.teachers
    if name not in file.teachers:
        refuse(key, name, f"one of teachers: {sorted(file.teachers)}", "Define it there.")
    config = file.teachers[name]
    if not isinstance(config, LocalTeacher):
        hosted(f"teachers.{name}", config, arm)
        return
    _models(file, "", arm)
    known = model_shapes.context(file.pretrain.models, config.model)
    if known is not None and tokens >= known:
        wanted = f"a teacher that reads more than the {tokens} tokens of answers, besides a prompt"
        refuse(key, f"{name}, which reads {known}", wanted, "Use another one or shorter responses.")


def _contexts(file: Experiment, where: str, arm: Settings) -> None:
    """Lengths that no prompt would fit beside; each prompt's own is checked by the stages."""
    if arm.prepare.imported:
        return
    most = arm.rollout.max_new_tokens
    readers = {f"{where}rollout.max_new_tokens": (most, file.experiment.student)}
    if arm.prepare.graded:
        longest = arm.evaluate.max_new_tokens
        readers[f"{where}evaluate.max_new_tokens"] = (longest, file.experiment.student)
    for name in arm.teach.teachers:
        teacher = file.teachers[name]
        if isinstance(teacher, LocalTeacher):
            readers[f"{where}rollout.max_new_tokens, teacher {name}"] = (most, teacher.model)
    for key, (tokens, model) in readers.items():
        known = model_shapes.context(file.pretrain.models, model)
        if known is not None and tokens >= known:
            wanted = f"less than the context of {model}, {known} tokens, which holds the prompt too"
            refuse(key, tokens, wanted, "Lower it, or use a model that reads more.")


def _teachers(file: Experiment, name: str, where: str, arm: Settings) -> None:
    key, listed = f"{where}teach.teacher", arm.teach.teachers
    for teacher in listed:
        if teacher not in file.teachers:
            wanted = f"one of teachers: {sorted(file.teachers)}"
            refuse(key, teacher, wanted, "Define it under teachers.")
    several = len(listed) > 1
    if len(set(listed)) < len(listed) or not 1 <= len(listed) <= MOST_TEACHERS:
        refuse(key, list(listed), f"1 to {MOST_TEACHERS} different teachers", "Correct the list.")
    if several != (arm.prior.combine is not None):
        refuse(
            f"{where}prior.combine",
            arm.prior.combine,
            "mean or above-median with several teachers, nothing with one",
            "Set or remove it.",
        )
    objective = declared(arm.train.objective)
    combined = "targets" in objective.reads and "answers" not in objective.reads
    if several and (not combined or not arm.prior.of_scores):
        refuse(key, list(listed), "one teacher", "Several are for omniopd with source scores.")
    for teacher in listed:
        config = file.teachers[teacher]
        if not isinstance(config, LocalTeacher):
            hosted(f"teachers.{teacher}", config, arm)
        reads_logits = objective.teacher or arm.prior.source == "teacher"
        if reads_logits and not getattr(config, "white_box", False):
            refuse(
                key,
                teacher,
                f"a teacher with logits (white_box: true), as {name} reads them",
                "Use another teacher, or take the arm out of experiment.arms.",
            )


def hosted(key: str, config: Hosted, arm: Settings) -> None:
    """What would stop the arm only after it has trained and sampled."""
    can = check(config.provider, config.model, arm.teach.continuation, arm.teach.temperature)
    named = config.kind != "openai_compatible" or config.provider == "openai"
    if config.base_url is None and not named:
        refuse(
            f"{key}.base_url",
            None,
            f"the URL of {config.provider}, such as http://127.0.0.1:8000/v1",
            "Without it the request, with its key, would go to OpenAI.",
        )
    if arm.teach.continuation == "completions" and config.tokenizer is None:
        refuse(
            f"{key}.tokenizer",
            None,
            "student, a folder or a hub name: mode completions renders the teacher's template",
            "Add it, or set teach.continuation: prefill.",
        )
    if arm.teach.transport == "batch" and not can.batch:
        refuse("teach.transport", "batch", f"live: {config.provider} has no batches", "Change it.")
    if arm.teach.max_usd is not None and config.price is None:
        refuse(
            "teach.max_usd",
            arm.teach.max_usd,
            f"a price to count with, and {key} has no price",
            "Add price: {input: ..., output: ...} in dollars for a million tokens.",
        )
    accepted = arm.teach.accept_terms
    for name in (accepted,) if isinstance(accepted, str) else accepted:
        if name not in TERMS:
            refuse("teach.accept_terms", name, f"of {sorted(TERMS)}", "Correct the name.")


def _prior(file: Experiment, name: str, where: str, arm: Settings) -> None:
    weight = arm.prior.weight
    if arm.prior.source in ("none", "teacher") and weight != "posterior":
        refuse(
            f"{where}prior.weight",
            weight,
            f"posterior with prior.source {arm.prior.source}",
            "Without scores there is no share of answers to exceed.",
        )
    match arm.prior.source:
        case "none" if arm.prior.strength(arm.teach.most) == 0:
            refuse(f"{where}prior.alpha", 0, "above 0 for source none", "pi_hat would be 0/0.")
        case "constant" | "random":
            controlled = arm.prior.controls
            if controlled not in file.experiment.arms or controlled == name:
                refuse(
                    f"{where}prior.controls",
                    controlled,
                    f"another arm of experiment.arms: {list(file.experiment.arms)}",
                    f"Source {arm.prior.source} draws from that arm's targets.",
                )
            real = file.arm(str(controlled)).prior
            if real.source != "scores":
                refuse(
                    f"{where}prior.controls",
                    controlled,
                    "an arm with prior.source scores",
                    "Control an arm that is taught.",
                )
            if real.weight != weight:
                refuse(
                    f"{where}prior.weight",
                    weight,
                    f"{real.weight}, as arm {controlled} has it",
                    "Its weights are those that are controlled.",
                )
        case _ if arm.prior.controls is not None:
            refuse(
                f"{where}prior.controls",
                arm.prior.controls,
                "nothing unless prior.source is constant or random",
                "Remove it.",
            )
