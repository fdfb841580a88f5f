"""Starts the shop with Flask's own server."""

from __future__ import annotations

import sys

from example_apps.flask_shop.app import app

if __name__ == "__main__":
    app.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8001, threaded=True)
