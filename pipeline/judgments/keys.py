"""The key of a teacher's answer: a hash of all that can change the answer, and of nothing else."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

SEEDS = 2**31 - 2**16  # seeds of samples 0 are below this
Prompt = tuple[int, ...] | str  # token ids, or rendered text or messages as JSON


@dataclass(frozen=True)
class Request:
    """One answer that is wanted."""

    provider: str
    model: str  # pinned id; for a local checkpoint the hash of config, tokenizer and weights
    prompt: Prompt
    continuation: str  # mode in which the prefix is sent
    sampler: Mapping[str, Any]  # every sampler setting that is sent
    sample: int
    seed: int | None  # of this sample; None where the provider takes none
    attempt: int = 0  # draws of this sample that failed before
    epoch: int = 0

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all fields.

        The prompt enters as the SHA-256 of its own canonical JSON, so that N samples of one
        prefix hash it once. Settings that are equal numbers (1 and 1.0) give equal keys.
        """
        return key_of({name: getattr(self, name) for name in FIELDS} | {"prompt": self.prompt_hash})

    @functools.cached_property
    def prompt_hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of the prompt."""
        return digest(self.prompt)


FIELDS = tuple(field.name for field in fields(Request))


def key_of(values: Mapping[str, Any]) -> str:
    """The key of a request whose prompt is already a digest."""
    return _sha256({**values, "sampler": plain(values["sampler"])})


def seed_for(prompt: Prompt, sample: int, attempt: int = 0) -> int:
    """The seed of a sample, from prefix, index and attempt alone, below 2**31: Google takes int32.

    Seeds of one prefix are consecutive: no two of its samples share one, as 31 random bits would
    now and then, and vLLM gives choice i of a request the seed of that request plus i. An attempt
    after a failure has seeds of its own: a server that honours them would repeat the failure.
    """
    if not 0 <= sample < 2**31 - SEEDS:
        raise ValueError(f"sample {sample}: wanted 0 to {2**31 - SEEDS - 1}")
    hashed = hashlib.sha256(canonical([digest(prompt), attempt])).digest()
    return int.from_bytes(hashed[:8], "big") % SEEDS + sample


@functools.lru_cache(maxsize=1024)  # about those that are asked for together
def digest(prompt: Prompt) -> str:
    return _sha256(prompt)


def plain(sampler: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that are equal written alike: 1 and 1.0 are one setting."""
    return {
        name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in sampler.items()
    }


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()
