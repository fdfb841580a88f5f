"""gunicorn configuration: patch before the application is preloaded, as gevent asks."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()
