"""What the analysis of the code is told, because no text of it says so."""

# the one place that loads a module by a name that is data: chosen(package, module, symbol)
CHOICE = ("pipeline.chosen", "chosen")
# modules whose classes are blocks of params.yaml: of a cell every key of them is resolved
BLOCKS = ("pipeline.params",)
HOSTED = frozenset({"openai_compatible", "anthropic", "google"})
# Modules of which a variant loads some in place of others: the axis, and the values with which
# they are loaded. What a stage imports inside a function, or by `chosen`, is left out of a
# variant with another value. Were it loaded all the same, pipeline/behaviour/guard.py would refuse.
FOLDERS = {  # packages whose modules are one option each, called as the module is
    "pipeline.tasks": "task",
    "pipeline.schedulers": "scheduler",
    "pipeline.similarity": "metric",
    "pipeline.objectives": "objective",
}
SHARED = {"pipeline.objectives.weighted"}  # modules there that several of the others load
OPTIONS: dict[str, dict[str, frozenset[str]]] = {
    **{f"pipeline.teachers.{x}": {"teacher": frozenset([x])} for x in ("local", *HOSTED)},
    "pipeline.teachers.hosted": {"teacher": HOSTED},
    "pipeline.checking": {"teacher": HOSTED},
    "pipeline.agreement": {"baseline": frozenset({"teacher-agreement"})},
    "pipeline.imported": {"rows": frozenset({"imported"})},
    "pipeline.engines.vllm": {"engine": frozenset({"vllm"})},
    "pipeline.engines.vllm_student": {"engine": frozenset({"vllm"})},
    "pipeline.elsewhere": {"engine": frozenset({"vllm"})},
    "pipeline.engines.characters": {"init": frozenset({"characters"})},
    "pipeline.engines.pretrained": {"init": frozenset({"pretrained"})},
    # whether a stage that mostly loads no model loads one
    "pipeline.engines.start": {"model": frozenset({"model"})},
    "pipeline.engines.hf": {"model": frozenset({"model"})},
    "pipeline.engines.exact": {"model": frozenset({"model"})},
    "pipeline.engines.asks": {"model": frozenset({"model"})},
    "pipeline.engines.branches": {"model": frozenset({"model"})},
}


def options(module: str) -> dict[str, frozenset[str]]:
    """Axes on which a module is an option, each with the values that it is loaded with."""
    package, _, name = module.rpartition(".")
    if package in FOLDERS and module not in SHARED:
        return {FOLDERS[package]: frozenset([name])}
    return OPTIONS.get(module, {})


# MODULE:SYMBOL, and the modules that it runs as programs or by a path that is put together
REACHES: dict[str, tuple[str, ...]] = {
    "pipeline.chosen:chosen": (),  # what its calls say
    "pipeline.launcher:launched": (),  # the stage itself once more, in each of its processes
    "pipeline.tasks.reasoning_gym.client:Worker": (),  # the folder that its server imports from
    "stages.steps:run": (),  # the stages of its steps, which are parts of its variant
    # names of settings in the message of an error
    "pipeline.params:keys": (),
}
