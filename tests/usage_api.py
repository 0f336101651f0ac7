"""An HTTP server in the place of the API, for what the real one cannot be told to do: to be busy, to break off, to refuse a key."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from services.ingest.acceptance import Limits, Rejected, accept

BREAK_OFF: Final = 0
"""In place of a status: take the request, keep its events, and hang up without an answer."""


class Said(NamedTuple):
    """What to answer in place of the usual."""

    status: int
    content: dict[str, Any] | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 – never changed


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        return json.loads(self.body)


class UsageApi:
    """What came in, each event once by its identity, and what is to be said: `next_answers` first, else `otherwise`, else what the API would."""

    def __init__(self) -> None:
        self.url = ""
        self.events: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.next_answers: list[Said] = []
        self.otherwise: Callable[[Request], Said | None] = lambda _: None
        self.most_events = 1000
        self._changed = threading.Condition()

    def until(self, holds: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until something holds of what came in."""
        with self._changed:
            assert self._changed.wait_for(holds, seconds)

    def answer(self, request: Request) -> Said:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            said = self.next_answers.pop(0) if self.next_answers else self.otherwise(request)
            if said is not None and said.status != BREAK_OFF:
                return said
            usual = self._take(request)
            self._changed.notify_all()
            return said or usual

    def _take(self, request: Request) -> Said:
        if request.path != "/api/v1/events":
            return Said(404, {"type": "urn:tallystick:problem:not-found", "title": "Not found"})
        events = request.content
        if len(events) > self.most_events:
            return Said(
                413, {"type": "urn:tallystick:problem:payload-too-large", "detail": f"at most {self.most_events}"}
            )
        results = [self._take_one(index, event) for index, event in enumerate(events)]
        return Said(200, {"results": results})

    def _take_one(self, index: int, event: dict[str, Any]) -> dict[str, Any]:
        result = {"index": index, "id": event.get("id")}
        limits = Limits()
        found = accept(json.dumps(event).encode(), (), limits, *limits.window(datetime.now(UTC)))
        if isinstance(found, Rejected):
            return {**result, "status": "rejected", "reason": found.reason.value, "detail": found.detail}
        identity = (event["source"], event["id"])
        if identity in self.events:
            assert self.events[identity] == event, "sent again, but not unchanged"
            return {**result, "status": "duplicate"}
        self.events[identity] = event
        return {**result, "status": "accepted"}


@contextmanager
def usage_api() -> Iterator[UsageApi]:
    """Run one, on a port of its own."""
    api = UsageApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            headers = {name.lower(): value for name, value in self.headers.items()}
            said = api.answer(Request(self.command, self.path, headers, body))
            if said.status == BREAK_OFF:
                self.close_connection = True
                return
            content = b"" if said.content is None else json.dumps(said.content).encode()
            self.send_response(said.status)
            for name, value in {
                "content-type": "application/json",
                "content-length": str(len(content)),
                **said.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do  # noqa: N815 – the names that http.server looks for

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    try:
        yield api
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
