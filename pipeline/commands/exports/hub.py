"""`omniopd push` and `omniopd pull`: a round on the Hugging Face hub, through huggingface_hub.

What is pushed is what `omniopd export --to hf` writes, or a table of the round as a dataset. The
token is huggingface_hub's own (HF_TOKEN, or `hf auth login`), the address HF_ENDPOINT's.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pipeline.commands.exports import card, hf
from pipeline.commands.exports.source import Source
from pipeline.core.errors import UserError, short
from pipeline.engines import checkpoints

What = Literal["checkpoint", "rollouts", "answers"]
SCHEME = "hub:"
TABLES = {"rollouts": ("rollout", "rollouts.parquet"), "answers": ("teach", "answers.parquet")}
REMEDY = "Set HF_TOKEN to a token that may write there, or run `hf auth login`."


def repository(text: str) -> str:
    """USER/NAME of hub:USER/NAME. Raises UserError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    name = text.removeprefix(SCHEME)
    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if not text.startswith(SCHEME) or name.count("/") != 1:
        raise UserError(f"found {short(text)}, wanted hub:USER/NAME. Correct it.")
    return name


def push(source: Source, to: str, what: What, public: bool) -> str:
    """Upload; the address of the repository, which is made if it is new. Raises UserError."""
    from huggingface_hub import HfApi

    name, kind = repository(to), "model" if what == "checkpoint" else "dataset"
    with tempfile.TemporaryDirectory(prefix="omniopd-push-") as folder:
        _write(source, what, Path(folder))
        with _told(f"push to {to}"):
            api = HfApi()
            api.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
            if not public and not api.repo_info(name, repo_type=kind).private:
                raise UserError(
                    f"{to}: found a public repository, wanted --public to push there. Add it, or "
                    "name another."
                )
            message = f"{what} of arm {source.arm}, seed {source.seed}, round {source.round}"
            api.upload_folder(
                repo_id=name, folder_path=folder, repo_type=kind, commit_message=message
            )
            return f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"


def pull(source: str, what: What, out: Path, revision: str | None) -> None:
    """Download a repository into a new folder, whole or not at all. Raises UserError."""
    from huggingface_hub import snapshot_download

    name, kind = repository(source), "model" if what == "checkpoint" else "dataset"
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out}: found something there, wanted a new folder. Name another.")
    pickles = [f"*{suffix}" for suffix in checkpoints.PICKLED]  # loading one runs code
    with checkpoints.replacing_folder(out.absolute()) as folder:
        with _told(f"pull of {source}"):
            snapshot_download(
                name, repo_type=kind, revision=revision, local_dir=folder, ignore_patterns=pickles
            )
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # huggingface_hub's notes
        if what == "checkpoint":
            _checked(folder, source)
        elif not (folder / TABLES[what][1]).is_file():
            raise UserError(
                f"{source}: found no {TABLES[what][1]}, wanted a pushed table of {what}."
            )


def _checked(folder: Path, source: str) -> None:
    try:
        checkpoints.check(folder)
    except UserError as error:
        raise UserError(
            f"{source}: found no whole checkpoint with safetensors, wanted one that was pushed. "
            "Name another, or --what rollouts."
        ) from error


def _write(source: Source, what: What, folder: Path) -> None:
    if what == "checkpoint":
        hf.write(source, folder)
        return
    stage, file = TABLES[what]
    several = [name for name in source.cells if name.startswith(f"{stage}-")]
    if stage not in source.cells and several:
        raise UserError(
            f"arm {source.arm}: found answers of {len(several)} teachers, wanted one. Push the "
            "answers of an arm with one teacher."
        )
    path = source.folder(stage) / file
    if source.of_several(stage):
        raise UserError(
            f"arm {source.arm}: found a table of several rounds, wanted one. Push {what} of an "
            "experiment with experiment.steps_per_cell: 1."
        )
    if not path.is_file():
        raise UserError(f"{path}: missing. Run `dvc repro`.")
    shutil.copyfile(path, folder / file)
    (folder / "README.md").write_text(card.of_table(source, what, file), encoding="utf-8")


@contextmanager
def _told(doing: str) -> Iterator[None]:
    """The hub's errors as ours; none of them holds the token."""
    from httpx2 import HTTPError  # of the client that huggingface_hub 2 has
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        raise UserError(f"{doing}: found no token, wanted one of the hub. {REMEDY}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _silent(doing, error) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        said = short(str(error.server_message or "nothing more"))
        remedy = REMEDY if status in (401, 403, 404) else "Correct what it names."
        remedy = "Try again later." if status == 429 or status >= 500 else remedy
        raise UserError(f"{doing}: the hub answered {status}: {said}. {remedy}") from error
    except (HTTPError, ConnectionError) as error:  # the second is Xet's
        raise _silent(doing, error) from error


def _silent(doing: str, error: Exception) -> UserError:
    xet = "xet" in str(error)  # a hub of one's own may speak LFS alone
    remedy = "Set HF_HUB_DISABLE_XET=1" if xet else "Check the network, HF_HUB_OFFLINE, HF_ENDPOINT"
    return UserError(
        f"{doing}: found no answer ({type(error).__name__}), wanted the hub. {remedy}."
    )
