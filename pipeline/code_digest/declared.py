"""Facts that the analysis of the code is given because no text of the code says them."""

# the one place that loads a module by a name that is data: chosen(package, module, symbol)
CHOICE = ("pipeline.core.chosen", "chosen")
# modules whose classes are blocks of params.yaml: of a cell every key of them is resolved
BLOCKS = (
    *("pipeline.config.params", "pipeline.config.method", "pipeline.config.models"),
    *("pipeline.config.problems", "pipeline.config.teachers"),
)
BLOCK_BASES = frozenset({"Params", "Anchored", "Corrected"})  # classes that such classes extend
# calls of ours that make a value and do nothing else: whoever does not use it does not depend on it
MAKERS = frozenset({"pipeline.config.renamed.renamed", "pipeline.method.objectives.Objective"})
HOSTED = frozenset({"openai_compatible", "anthropic", "google"})
# Modules of which a variant loads some in place of others: the axis, and the values with which
# they are loaded. What a stage imports inside a function, or by `chosen`, is left out of a
# variant with another value. Were it loaded all the same, pipeline/code_digest/guard.py would
# refuse.
FOLDERS = {  # packages whose modules are one option each, called as the module is
    "pipeline.tasks": "task",
    "pipeline.method.schedulers": "scheduler",
    "pipeline.method.similarity": "metric",
    "pipeline.method.objectives": "objective",
}
SHARED = {
    "pipeline.method.objectives.weighted",
    "pipeline.tasks.contamination",
    "pipeline.tasks.problem_files",
}  # modules there that several of the others load
OPTIONS: dict[str, dict[str, frozenset[str]]] = {
    **{f"pipeline.teachers.providers.{x}": {"teacher": frozenset([x])} for x in ("local", *HOSTED)},
    "pipeline.teachers.hosted": {"teacher": HOSTED},
    "pipeline.teachers.purchase.preflight": {"teacher": HOSTED},
    "pipeline.method.teacher_agreement": {"baseline": frozenset({"teacher-agreement"})},
    "pipeline.training.external_rollouts": {"rows": frozenset({"imported"})},
    "pipeline.engines.repaired_rollouts": {"rows": frozenset({"repaired"})},
    "pipeline.engines.vllm.engine": {"engine": frozenset({"vllm"})},
    "pipeline.engines.vllm.vllm_student": {"engine": frozenset({"vllm"})},
    "pipeline.method.elsewhere": {"engine": frozenset({"vllm"})},
    "pipeline.engines.char_tokenizer": {"init": frozenset({"characters"})},
    "pipeline.engines.pretrained": {"init": frozenset({"pretrained"})},
    # whether a stage that mostly loads no model loads one
    "pipeline.engines.torch_setup": {"model": frozenset({"model"})},
    "pipeline.engines.hf": {"model": frozenset({"model"})},
    "pipeline.engines.scoring_pass": {"model": frozenset({"model"})},
    "pipeline.engines.asks": {"model": frozenset({"model"})},
    "pipeline.engines.prefix_sharing": {"model": frozenset({"model"})},
}


def options(module: str) -> dict[str, frozenset[str]]:
    """Axes on which a module is an option, each with the values that it is loaded with."""
    package, _, name = module.rpartition(".")
    if package in FOLDERS and module not in SHARED:
        return {FOLDERS[package]: frozenset([name])}
    return OPTIONS.get(module, {})


def holds_blocks(module: str) -> bool:
    """Whether classes of a module are blocks of params.yaml, or the keys that an objective adds."""
    return module in BLOCKS or module.rpartition(".")[0] == "pipeline.method.objectives"


# MODULE:SYMBOL, and the modules that it runs as programs or by a path that is put together
REACHES: dict[str, tuple[str, ...]] = {
    "pipeline.core.chosen:chosen": (),  # what its calls say
    # the stage itself once more, in each of its processes
    "pipeline.training.launcher:launched": (),
    "pipeline.tasks.reasoning_gym.client:Worker": (),  # the folder that its server imports from
    "stages.steps:run": (),  # the stages of its steps, which are parts of its variant
    # names of settings in the message of an error
    "pipeline.config.params:keys": (),
}
