"""``manage.py``; without arguments it prepares the database and starts Django's own server."""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_apps.django_shop.settings")
    arguments = sys.argv[1:]
    if not arguments or arguments[0].isdecimal():
        execute_from_command_line(["manage.py", "prepare"])
        port = arguments[0] if arguments else "8000"
        arguments = ["runserver", "--noreload", f"127.0.0.1:{port}"]
    execute_from_command_line(["manage.py", *arguments])
