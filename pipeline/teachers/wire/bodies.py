"""The bodies of replies: read up to a bound, whatever a server sends and however it is packed.

The SDKs read a reply whole before anyone can look at it, so an endless one, or a small one that
unpacks to gigabytes, would take the memory of the machine. Loaded where a client is made.
"""

import functools
import ssl
from typing import Any

import httpx2

from pipeline.teachers.wire.calls import ROOM, Transient

OF_BATCH = 1_000_000_000  # bytes of the results of a batch, which is collected with GET
OF_ERROR = 100_000  # bytes of an error that are read; the rest is dropped
# the request was not sent when these are raised
UNSENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.LocalProtocolError,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
)


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Whom to trust: read once, as it takes longer than a request and a client is made a block."""
    return httpx2.create_ssl_context()


class Client(httpx2.AsyncClient):
    """An HTTP client that reads no more than there is room for, and sends the key nowhere else.

    Raises Transient where a reply does not end within its room, or is no text in UTF-8.
    """

    def __init__(self, seconds: float) -> None:
        # by default the SDKs' own clients follow a redirect wherever that leads
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
        super().__init__(timeout=seconds, follow_redirects=False, limits=limits, verify=_trusted())

    async def send(self, request: httpx2.Request, **more: Any) -> httpx2.Response:
        found = await super().send(request, **{**more, "stream": True})
        try:
            body = await _body(found, OF_BATCH if request.method == "GET" else ROOM.get())
        finally:
            await found.aclose()
        packed = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(k, v) for k, v in found.headers.multi_items() if k.lower() not in packed]
        return httpx2.Response(
            found.status_code,
            headers=headers,
            content=body,
            request=request,
            extensions=found.extensions,
        )


async def _body(found: httpx2.Response, most: int) -> bytes:
    body = bytearray()
    async for part in found.aiter_bytes():
        body += part
        if not found.is_success and len(body) >= OF_ERROR:
            return bytes(body[:OF_ERROR])
        if len(body) > most:
            raise Transient(
                f"a reply of more than {most:,} bytes, wanted one that fits what was asked for"
            )
    if found.is_success:
        try:
            body.decode()
        except UnicodeDecodeError as error:
            at = f"byte {body[error.start]:#04x} at {error.start:,} of {len(body):,}"
            raise Transient(f"not a whole reply: found {at}, wanted UTF-8") from None
    return bytes(body)


def broken(error: Exception) -> Transient:
    """Translate an error of a connection: the HTTP client's, or an SDK's with it as cause."""
    own = isinstance(error, httpx2.HTTPError)
    cause = error if own else error.__cause__
    if isinstance(cause, Transient):
        return cause
    said = f"{type(error).__name__}: {error}" if own else f"{error} {str(cause or '')[:200]}"
    return Transient(said, reached=not isinstance(cause, UNSENT))
