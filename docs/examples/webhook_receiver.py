#!/usr/bin/env python3
"""A receiver of webhooks that keeps what it is sent.

    webhook_receiver.py PORT DIRECTORY

Each message is kept as DIRECTORY/ID.json, its headers beside it as ID.timestamp and ID.signature. One
that comes twice is kept once: `webhook-id` names it. It answers within the moment; what a message brings
about is for whoever reads the directory.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, DIRECTORY = int(sys.argv[1]), sys.argv[2]
BODY_BYTES_MAX = 1 << 20


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        name = self.headers.get("webhook-id", "")
        plain = name and all(c.isalnum() or c in "_-~" for c in name)
        if not plain or length > BODY_BYTES_MAX:
            self.send_response(400)
        else:
            body = self.rfile.read(length)
            for part in ("timestamp", "signature"):
                with open(os.path.join(DIRECTORY, f"{name}.{part}"), "w") as file:
                    file.write(self.headers.get(f"webhook-{part}", ""))
            # The body last and at once: whoever sees it sees all of it.
            with open(os.path.join(DIRECTORY, f"{name}.new"), "wb") as file:
                file.write(body)
            os.replace(os.path.join(DIRECTORY, f"{name}.new"), os.path.join(DIRECTORY, f"{name}.json"))
            self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Receiver).serve_forever()
