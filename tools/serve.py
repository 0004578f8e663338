"""Serve the built site on this machine: `make serve`."""

import argparse
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from chapters import ROOT, report

SITE = ROOT / "_build" / "html"


def main() -> int:
    """Serve until the reader presses Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve the built site on this machine.")
    parser.add_argument("port", help="a port number")
    port = parser.parse_args().port
    if not (port.isdecimal() and int(port) < 2**16):
        return report([f"PORT={port!r} is no port: choose a number from 1024 to 65535"])
    if not (SITE / "index.html").exists():
        return report([f"{SITE} has no site: run `make book` first"])
    try:
        server = ThreadingHTTPServer(("127.0.0.1", int(port)), partial(SimpleHTTPRequestHandler, directory=str(SITE)))
    except OSError as error:
        return report([f"port {port}: {error.strerror}: choose another, as in `make serve PORT={int(port) + 1}`"])
    print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C stops)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
