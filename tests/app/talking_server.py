"""A model server of a few lines on a free port: says what a function says, or something broken."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = b"<!doctype html><html><body>It works!</body></html>"


@dataclass
class TalkingServer:
    """What it was asked, and where it listens."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    """The user messages, in the order they came."""


class _Listening(ThreadingHTTPServer):
    request_queue_size = 128
    """A client's ninth connection at once is not left to try again a second later."""


@contextmanager
def talking(answer: Callable[[str], str | bytes]) -> Iterator[TalkingServer]:
    """Serve chat completions; an answer in bytes is sent as an HTML page instead."""
    known = TalkingServer()

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # else a body waits 40 ms behind its head

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            known.asked.append(text)
            said = answer(text)
            if isinstance(said, bytes):
                kind, data = "text/html", said
            else:
                message = {"role": "assistant", "content": said}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
                kind, data = "application/json", json.dumps({"choices": choices}).encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(ConnectionError):  # a client that has seen enough hangs up
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = _Listening(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    known.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield known
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
