"""A coordinator of TLS and HTTP only, which says what a test wants to hear; the certificates are real ones."""

import datetime as dt
import json
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from flwr.supercore.error import ApiErrorCode

from server.pki import Pki

ADDRESSES = ("localhost", "127.0.0.1")


def authority(folder: Path, addresses=ADDRESSES, born: dt.timedelta = dt.timedelta()) -> Pki:
    """A new authority with a server certificate, made so long ago."""
    folder.mkdir(parents=True)
    pki = Pki(folder)
    pki.create(addresses, dt.datetime.now(dt.UTC) - born)
    return pki


@dataclass
class Double:
    """What it answers, and what it was asked.

    Attributes:
        ahead: of its clock.
        refusal: HTTP status and Flower's code; at first those to a key that is known.
        asked: paths, in order.
    """

    port: int = 0
    ahead: dt.timedelta = dt.timedelta()
    refusal: tuple[int, int] = (400, ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL)
    asked: list[str] = field(default_factory=list)


@contextmanager
def coordinator(pki: Pki):
    """Serve on a free port of loopback."""
    double = Double()

    class Handler(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp=None):
            return format_datetime(dt.datetime.now(dt.UTC) + double.ahead, usegmt=True)

        def do_GET(self):
            self._say(200, b"ok", "text/plain")

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            status, code = double.refusal
            body = json.dumps({"code": code, "public_message": "no"}).encode()
            self._say(status, body, "application/json")

        def log_message(self, *_arguments):
            double.asked.append(self.path)

        def _say(self, status, body, kind):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_arguments):
            """Clients that do not believe the certificate hang up."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.server_certificate, pki.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    double.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
