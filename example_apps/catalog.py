"""The catalogue of the Flask and Starlette shops: a SQLite file, one connection for each use."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["database", "order", "orders", "prepare", "product", "products"]

_NAMES = ("Lamp", "Chair", "Table", "Shelf", "Carpet", "Clock", "Mirror", "Vase")


def database() -> Path:
    """Return where the data is: ``SHOP_DATABASE``, by default in the temporary directory."""
    given = os.environ.get("SHOP_DATABASE")
    return Path(given or Path(tempfile.gettempdir(), f"conprof-shop-{os.getuid()}.sqlite"))


@contextmanager
def _connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(database(), timeout=30)
    connection.row_factory = sqlite3.Row
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def prepare() -> None:
    """Create and fill the tables; harmless when done already, also by several workers at once."""
    with _connection() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS product (id INTEGER PRIMARY KEY, name TEXT, cents INTEGER)"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS purchase (id INTEGER PRIMARY KEY, product INTEGER)"
        )
        if not connection.execute("SELECT count(*) FROM product").fetchone()[0]:
            rows = [(i, f"{_NAMES[i % 8]} no. {i}", 990 + 37 * i) for i in range(1, 201)]
            connection.executemany("INSERT INTO product VALUES (?, ?, ?)", rows)


def products(limit: int = 20) -> list[dict[str, Any]]:
    """Return the first products."""
    with _connection() as connection:
        rows = connection.execute("SELECT * FROM product ORDER BY id LIMIT ?", (limit,))
        return [dict(row) for row in rows]


def product(number: int) -> dict[str, Any] | None:
    """Return one product."""
    with _connection() as connection:
        row = connection.execute("SELECT * FROM product WHERE id = ?", (number,)).fetchone()
        return None if row is None else dict(row)


def order(number: int) -> int:
    """Buy a product and return the number of the order."""
    with _connection() as connection:
        cursor = connection.execute("INSERT INTO purchase (product) VALUES (?)", (number,))
        return int(cursor.lastrowid or 0)


def orders() -> int:
    """Return how many orders there are."""
    with _connection() as connection:
        return int(connection.execute("SELECT count(*) FROM purchase").fetchone()[0])
