"""Where an answer lies: the prefix that it continues, and its sample."""

import hashlib
import json
from json.encoder import encode_basestring_ascii as quoted
from typing import NamedTuple

from pipeline.judgments.keys import Request, canonical, plain
from pipeline.judgments.rows import packed
from pipeline.judgments.rows.named import Settings
from pipeline.judgments.schema import NO_SEED, SAMPLE_BITS, Judgment

SAMPLES = 1 << SAMPLE_BITS  # of a prefix at most


class Place(NamedTuple):
    """A prefix as it was asked about, but for the token limit: columns of the table."""

    settings: int  # id
    prompt: bytes  # SHA-256
    attempt: int
    first_seed: int  # of sample 0, or NO_SEED


def first_seed(seed: int | None, sample: int) -> int:
    """Seeds of a prefix are consecutive, so that all its samples have this one in common."""
    return NO_SEED if seed is None else seed - sample


def seed(first: int, sample: int) -> int | None:
    """The other way round."""
    return None if first == NO_SEED else first + sample


def answer_id(prefix: int, sample: int) -> int:
    """Where the answer lies. Raises ValueError."""
    if not 0 <= sample < SAMPLES:
        raise ValueError(f"sample {sample}: wanted 0 to {SAMPLES - 1}")
    return prefix << SAMPLE_BITS | sample


def parted(number: int) -> tuple[int, int]:
    """Prefix and sample of an answer's id."""
    return number >> SAMPLE_BITS, number & SAMPLES - 1


def settings(request: Request) -> Settings:
    """Those of a request, the sampler as all are written."""
    text = canonical(plain(request.sampler)).decode()
    return Settings(request.provider, request.model, request.continuation, text, request.epoch)


def settings_of(found: Judgment) -> Settings:
    """Those of an answer, the sampler as all are written. Raises ValueError or TypeError."""
    sampler = canonical(plain(json.loads(found.sampler))).decode()
    return Settings(found.provider, found.model, found.continuation, sampler, found.epoch)


class Keys:
    """The keys of the samples of one prefix: as `keys.key_of`, with the JSON put together once."""

    def __init__(self, asked: Settings, prompt: bytes, attempt: int) -> None:
        self._head = (
            f'{{"attempt":{attempt},"continuation":{quoted(asked.continuation)},'
            f'"epoch":{asked.epoch},"model":{quoted(asked.model)},"prompt":"{prompt.hex()}",'
            f'"provider":{quoted(asked.provider)},"sample":'
        )
        self._middle = f',"sampler":{asked.sampler},"seed":'

    def key(self, sample: int, seed: int | None) -> str:
        """SHA-256 in hex."""
        text = f"{self._head}{sample}{self._middle}{'null' if seed is None else seed}}}"
        return hashlib.sha256(text.encode()).hexdigest()


def place(number: int, found: Judgment) -> Place:
    """Where an answer belongs, with the number of its settings. Raises ValueError."""
    prompt = packed.prompt(found.prompt)
    return Place(number, prompt, found.attempt, first_seed(found.seed, found.sample))
