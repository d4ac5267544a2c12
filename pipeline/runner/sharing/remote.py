"""A DVC remote for a team: tried, verified on read, and without a secret in any file.

It stands in .dvc/config, which git carries to every clone. Credentials are each one's own: from the
environment, or where the provider's own tools look for them.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.core.errors import UserError, short
from pipeline.runner.sharing import limited

NAME = "team"
# by the URL's scheme. A store that died is noticed; without this a transfer waits for ever
OWN: dict[str, dict[str, object]] = {
    "s3": {"connect_timeout": 10, "read_timeout": 60},
    "": {"shared": "group"},
}
TRIAL_SECONDS = 120.0
SECRETS = {
    *("access_key_id", "secret_access_key", "session_token", "password", "token"),
    *("sas_token", "account_key", "connection_string", "client_secret", "oss_key_secret"),
}
FIELDS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY")  # never shown


def share(url: str, endpoint: str | None, name: str = NAME) -> Iterator[str]:
    """Make `url` the project's default remote; in words, as it is done.

    `endpoint`: of a store that speaks S3 and is not Amazon's. Raises UserError, and then nothing is
    written.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    scheme = _checked(url, endpoint)
    url = url if scheme else os.path.abspath(os.path.expanduser(url))
    try:
        repo = Repo(_wait_for_lock=True)
        with repo.lock, repo.config.edit("repo") as settings:
            known = settings["remote"].get(name, {})
            if (was := known.get("url", url)) != url:
                raise UserError(
                    f"remote {name}: found {short(was)} in .dvc/config, wanted none or {url}. Use "
                    f"another --name, or `dvc remote remove {name}`."
                )
            _without_secrets(name, known)
            own: dict[str, object] = {"endpointurl": endpoint} if endpoint else {}
            own |= {"url": url, "verify": True, **OWN.get(scheme, {})}
            yield f"remote {name}, {url}: {tried({**known, **own})}"
            settings["remote"][name] = {**known, **own}
            settings["core"]["remote"] = name
    except DvcException as error:
        raise UserError(f"remote {name}: DVC says {error}. Correct it.") from error
    yield "it is in .dvc/config, and what is read from it is verified: commit that file"


def tried(settings: dict[str, object]) -> str:
    """Write, read back and remove objects there; in words. Raises UserError."""
    if str(settings["url"]).startswith("s3:") and importlib.util.find_spec("dvc_s3") is None:
        raise UserError(
            f"remote {settings['url']}: found no package dvc-s3, wanted it for s3. Run "
            "`pip install 'omniopd-pipeline[s3]'`."
        )
    words = [sys.executable, "-P", "-m", "pipeline.runner.sharing.trial"]
    done = limited.run(words, TRIAL_SECONDS, "the remote", asked=json.dumps(settings))
    if done.status:
        raise UserError(
            f"remote {settings['url']}: wanted an object to come back that was written there, and "
            f"it says {short(_hidden(done.last), 300)}. Correct the URL, the endpoint, or the "
            "credentials in the environment (for S3 AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
        )
    return "an object written, read back and removed, a damaged one refused"


def again() -> Iterator[str]:
    """Try the default remote once more, if there is one. Raises UserError."""
    from dvc.repo import Repo

    config = Repo().config
    if name := config["core"].get("remote"):
        settings = dict(config["remote"][name])
        if not settings.get("verify"):
            raise UserError(
                f"remote {name}: found verify off, wanted it on: DVC takes a damaged object for a "
                f"good one. Run `omniopd share --remote {settings['url']} --name {name}`."
            )
        yield f"remote {name}, {settings['url']}: {tried(settings)}"


def _checked(url: str, endpoint: str | None) -> str:
    """The scheme of a URL that holds no secret. Raises UserError."""
    for option, given in (("--remote", url), ("--endpoint", endpoint or "")):
        parts = urlsplit(given)
        if parts.password or (parts.username and parts.scheme == "s3"):
            raise UserError(
                f"{option}: found credentials in the URL, wanted none: it is written to a file "
                "that git carries. Put them into the environment (for S3 AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY)."
            )
    scheme = urlsplit(url).scheme
    here = Path.cwd()
    if not url.strip() or (not scheme and Path(os.path.abspath(url)).is_relative_to(here)):
        raise UserError(
            f"--remote: found {short(url)}, wanted a place outside of this project, as "
            "s3://BUCKET/PATH or a folder on another disk. Correct it."
        )
    if endpoint and scheme != "s3":
        raise UserError(
            f"--endpoint: found it with {short(url)}, wanted an s3:// URL. Leave it out."
        )
    if scheme in ("http", "https"):
        raise UserError(
            f"--remote: found {short(url)}, wanted one that DVC can also remove from and keep a "
            "run-cache in, as s3://BUCKET/PATH with --endpoint. Correct it."
        )
    return scheme


def _without_secrets(name: str, settings: dict[str, object]) -> None:
    if found := sorted(SECRETS & set(settings)):
        raise UserError(
            f".dvc/config: found {', '.join(found)} of remote {name}, wanted no secret in a file "
            f"that git carries. Run `dvc remote modify --unset {name} {found[0]}`, change that "
            "secret, and put it into the environment."
        )


def _hidden(text: str) -> str:
    for name in FIELDS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return text
