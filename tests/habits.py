"""A teacher of a server with habits of its own, and such habits: changes of what Pure replies."""

from pipeline import teachers
from pipeline.config import params
from pipeline.config.teachers import OpenAICompatibleTeacher, Price
from pipeline.teachers import protocol
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.buyer import Judging, Wanted
from pipeline.teachers.purchase.requests import Response

PRICE = Price(input=1e6, output=1e6)  # a dollar a token
MESSAGES = [{"role": "user", "content": "Add 8 and 5."}]


def loaded(url, mode="prefill", path="/v1", **more):
    found = {"kind": "openai_compatible", "model": "stub-1", "base_url": f"{url}{path}", **more}
    config = OpenAICompatibleTeacher(**{"concurrency": 1, "tries": 3, **found})
    asked = protocol.Asked(mode, 1.0, "live", params.Runtime())
    return teachers.load(config, "it", asked, None, None)


def judged(url, store, samples=2, max_usd=None, **more):
    """The judgments of one prefix by sample, and the judging."""
    teacher = loaded(url, **more)
    run = Judging(teacher, Wanted(samples, 12, 0, 3, 1.0, False), Budget(store, None, max_usd))
    response = Response("r", {0: teacher.prompt(MESSAGES, [], "8+5=")}, {0: "8+5="})
    found = run.judge([response])
    return [found[0, 0, sample] for sample in range(samples)], run


def each(**values):
    """A server's change: these values in each choice; ... takes a key out."""

    def change(request, reply):
        for choice in reply["choices"]:
            for name, value in values.items():
                choice.pop(name) if value is ... else choice.update({name: value})
        return reply

    return change


def whole(**values):
    def change(request, reply):
        for name, value in values.items():
            reply.pop(name) if value is ... else reply.update({name: value})
        return reply

    return change


def says(of, **beside):
    """A server's change: what the message says, as a function of what it would say."""

    def change(request, reply):
        for choice in reply["choices"]:
            choice["message"] = {"content": of(choice["message"]["content"]), **beside}
        return reply

    return change
