"""Starts the shop with uvicorn."""

from __future__ import annotations

import sys

import uvicorn

if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8002
    uvicorn.run("example_apps.starlette_shop.app:app", port=port)
