"""steps: several on-policy steps of one arm in one process, equal to as many rounds of cells.

reads   prompts, policy (checkpoint and optimizer moments), the base student's checkpoint, a local
        teacher's, for constant and random another arm's targets of the same steps
writes  rollouts, forks, answers, scores, targets (those that the arm has) with a column `step`
        more, in data/STAGE/CELL like those of a cell of one round; checkpoint,
        optimizer.safetensors and metrics.jsonl of train; a run.json for each stage, with sums
"""

import gc
import runpy
import shutil
import sys

from pipeline.config import params_file
from pipeline.engines.torch_setup import start
from pipeline.stage import cells, multi_step, resume
from pipeline.stage.multi_step import Inner, Steps


def run(one: Inner) -> None:
    """The stage as `python -m` runs it, in this process."""
    module = f"stages.{one.stage}"
    sys.argv = [module, "--cell", one.key]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    gc.collect()  # models and engines of the stage
    _give_back()


def _warm() -> None:
    """Import what every step computes with, and leave it out of the collections between stages."""
    start(params_file.runtime())
    import pipeline.engines.hf  # noqa: F401

    gc.collect()
    gc.freeze()


def _give_back() -> None:
    """Memory that torch keeps on a GPU, to whatever the next stage loads."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class Progress:
    """Which of the cell's stages are done, as far as what they wrote is kept."""

    def __init__(self, key: str, whole: list[Inner], state: resume.State) -> None:
        self.key, self.whole, self.state = key, whole, state
        kept = state.kept("done")
        self.done: int = 0 if kept is None else self._usable(kept[1])
        if self.done:
            state.say(f"{self.done} of {len(whole)} stages of its steps")
        else:  # what a stage keeps of its own work knows its inputs itself
            shutil.rmtree(multi_step.inside(key), ignore_errors=True)

    def _usable(self, done: int) -> int:
        """How many of `done` stages count: as long as the next one finds the checkpoint it needs.

        The last step's is gone where the run was killed when it was moved to its place.
        """
        trained = [i for i, one in enumerate(self.whole[:done]) if one.stage == "train"]
        for i in reversed(trained):
            names = ("checkpoint", "optimizer.safetensors")
            if all((self.whole[i].folder / name).exists() for name in names):
                return done
            done = i
        return done if not trained else 0

    def forget(self) -> None:
        """The cell has ended."""
        for folder in multi_step.kept_folders(self.key):
            shutil.rmtree(folder)

    def add(self) -> None:
        """One more is done. What is kept names it, and older checkpoints are dropped."""
        self.done += 1
        if not self.state.off and not self.state.due():
            return
        if not self.state.off:
            self.state.keep("done", {}, self.done)
        trained = [one.folder for one in self.whole[: self.done] if one.stage == "train"]
        for folder in trained[:-2]:  # one more than is needed, should the last be lost
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
            (folder / "optimizer.safetensors").unlink(missing_ok=True)


@cells.entry
def main() -> None:
    args = cells.arguments("steps")
    p, (_, cell) = cells.params("steps", args.cell, Steps), cells.cell("steps", args.cell)
    whole = multi_step.inner(args.cell, cell)
    for one in whole:
        cells.hold(one.stage, one.key, one.group, one.content)
    # beside an engine of its own memory a policy that stays loaded would be in the way
    params_file.keep_frozen = not any("-vllm" in one.group for one in whole)
    with (
        resume.state("steps", args, params_file.runtime()) as state,
        cells.running("steps", args) as ran,
    ):
        _warm()
        progress = Progress(args.cell, whole, state)
        for one in whole[progress.done :]:
            shutil.rmtree(one.folder, ignore_errors=True)  # as DVC does
            if multi_step.CONTROLLED in one.content:
                multi_step.controlled(args.cell, cell, one.step)
            run(one)
            progress.add()
        multi_step.finish(args.cell, whole)
        progress.forget()
        ran.earlier_seconds = state.earlier
        ran.rows_in = ran.rows_out = p.count


if __name__ == "__main__":
    main()
