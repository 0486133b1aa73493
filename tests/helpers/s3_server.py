"""A real S3 server for tests: moto's, behind a proxy that makes requests slow, refuses them, or loses their answers.

moto is no dependency of the project, because it does not install beside it: `pipx install 'moto[s3,server]'`. It looks
at a condition and puts in two acts, so the proxy lets one writing request through at a time.
"""

import contextlib
import http.client
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.helpers.ports import free_port

_START_S = 120
_CONDITIONS = ("if-match", "if-none-match")
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "server", "date"}


class S3Server:
    """What the proxy does to the requests that come next; all can be changed at any time."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.delay_s = 0.0  # before a request reaches the server
        self.gate = threading.Event()  # requests wait for it
        self.gate.set()
        self.is_away = False  # connections are closed without an answer
        self.loses: Callable[[str, str], bool] = lambda method, path: False  # the answer to such a request
        self.refuses: Callable[[str, dict[str, str]], bool] = lambda method, headers: False  # as not implemented
        self.ignores_conditions = False
        self.has_conflicts = False  # conditional puts meet another write that is under way
        self.requests: list[tuple[str, str]] = []

    def make_bucket(self, name: str) -> None:
        """An empty bucket."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=30)
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()


@contextlib.contextmanager
def s3_server() -> Generator[S3Server]:
    """The server, until the block ends. Without moto the test is skipped, except where CI says that it is there."""
    program = shutil.which("moto_server")
    if program is None:
        missing = "moto_server is not on PATH: pipx install 'moto[s3,server]==5.2.1'"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    behind = free_port()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(behind)], stdout=quiet, stderr=quiet)
    proxy = None
    try:
        _wait_for(behind, process)
        server, proxy = _proxy(behind)
        yield server
    finally:
        if proxy is not None:
            proxy.shutdown()
            proxy.server_close()
        process.terminate()
        process.wait()


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes s3:// addresses lead to the server, in this process and in those that it starts."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        time.sleep(0.1)
    raise RuntimeError("moto's server has not started")


def _proxy(behind: int) -> tuple[S3Server, ThreadingHTTPServer]:
    writing = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = dict(self.headers.items())
            server.requests.append((self.command, self.path))
            time.sleep(server.delay_s)
            server.gate.wait()
            if server.is_away:
                self.close_connection = True
                return
            if server.refuses(self.command, headers):
                self._answer(501, [], b"<Error><Code>NotImplemented</Code><Message>no such header</Message></Error>")
                return
            if server.has_conflicts and any(name.lower() in _CONDITIONS for name in headers):
                self._answer(409, [], b"<Error><Code>ConditionalRequestConflict</Code><Message>again</Message></Error>")
                return
            if server.ignores_conditions:
                headers = {k: v for k, v in headers.items() if k.lower() not in _CONDITIONS}
            with writing if self.command != "GET" else contextlib.nullcontext():
                status, found, data = _passed_on(behind, self.command, self.path, headers, body)
            if server.loses(self.command, self.path):
                self.close_connection = True
                return
            self._answer(status, found, data)

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            length = next((v for k, v in headers if k.lower() == "content-length"), str(len(data)))
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    server = S3Server(proxy.server_address[1])
    threading.Thread(target=proxy.serve_forever, name="s3-proxy", daemon=True).start()
    return server, proxy


def _passed_on(
    port: int, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body=body, headers={k: v for k, v in headers.items() if k.lower() not in _HOP})
        answer = connection.getresponse()
        data = answer.read().replace(b"CompleteMultipartUploadResponse", b"CompleteMultipartUploadResult")  # moto 5.2.1
        return answer.status, answer.getheaders(), data
    finally:
        connection.close()
