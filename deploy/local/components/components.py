"""What the three components share: a small HTTP/1.1 server and client over real sockets, standard library only."""

import http.client
import http.server
import json
import signal
import sys
import urllib.parse

# No component of the example needs larger bodies; a bound keeps a wrong client from filling memory.
BODY_LIMIT = 1 << 20


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with JSON, reads JSON, and logs one line per request to standard error."""

    protocol_version = "HTTP/1.1"

    def read_json(self):
        length = self.headers.get("content-length")
        if length is not None:
            body = self.read_exactly(int(length))
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            body = self.read_chunks()
        else:
            body = b""
        value = json.loads(body or b"{}")
        if not isinstance(value, dict):
            raise ValueError("the body must be a JSON object")
        return value

    def read_exactly(self, length):
        if not 0 <= length <= BODY_LIMIT:
            raise ValueError(f"the body must have at most {BODY_LIMIT} bytes")
        return self.rfile.read(length)

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline(64).split(b";")[0], 16):
            if len(body) + size > BODY_LIMIT:
                raise ValueError(f"the body must have at most {BODY_LIMIT} bytes")
            body += self.rfile.read(size)
            self.rfile.readline(64)
        while self.rfile.readline(1024).strip():
            pass
        return body

    def send_json(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self, content_type):
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def send_chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def end_stream(self):
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def log_message(self, format, *args):
        print(f"{self.log_date_time_string()} {format % args}", file=sys.stderr, flush=True)

    def peer(self):
        """Who called, as the sidecar proved it. The sidecar strips what a caller says about itself."""
        return self.headers.get("vouchsafe-peer", "")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        # A client that hangs up in the middle of a stream is no fault of ours.
        if not isinstance(sys.exc_info()[1], (BrokenPipeError, ConnectionResetError)):
            super().handle_error(request, client_address)


def serve(port, handler):
    """Serves until SIGTERM or SIGINT."""
    server = Server(("127.0.0.1", port), handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"listening on 127.0.0.1:{server.server_address[1]}", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


def post(url, value, timeout=60):
    """Posts JSON and returns the response, still to be read: a stream is read as it comes."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    connection.request("POST", parts.path, json.dumps(value), {"content-type": "application/json"})
    return connection.getresponse()
