"""The application factory, and ``app`` for WSGI servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from flask import Blueprint, Flask, Response, abort, jsonify, render_template

from conprof_flask import Conprof
from example_apps import catalog, work

shop = Blueprint("shop", __name__)
conprof = Conprof()


@shop.get("/")
def home() -> str:
    """A page from a template and the database."""
    return render_template("home.html", products=catalog.products())


@shop.get("/health")
def health() -> str:
    return "ok"


@shop.get("/products/<int:number>")
def product(number: int) -> Response:
    """JSON from the database."""
    return jsonify(catalog.product(number) or abort(404))


@shop.get("/recommend/<int:number>")
def recommend(number: int) -> Response:
    """Needs the CPU."""
    return jsonify(work.recommend(number))


@shop.get("/reports/<int:year>")
def report(year: int) -> Response:
    """Allocates."""
    return jsonify(work.report(year))


@shop.get("/supplier/<int:number>")
def supplier(number: int) -> Response:
    """Waits for somebody else."""
    time.sleep(work.SUPPLIER_WAIT_S)
    return jsonify(in_stock=number % 3 != 0)


@shop.get("/export/<name>.csv")
def export(name: str) -> Response:
    """Streams."""

    def lines() -> Iterator[str]:
        for item in catalog.products(200):
            yield f"{item['id']};{item['name']};{item['cents']}\n"

    return Response(lines(), mimetype="text/csv")


@shop.post("/orders/<int:number>")
def order(number: int) -> tuple[Response, int]:
    """Writes, and goes on in the background after the answer."""
    made = catalog.order(number)
    threading.Thread(target=work.confirm, args=(made,)).start()
    return jsonify(order=made), 201


def create_app() -> Flask:
    """Return a new application."""
    catalog.prepare()
    app = Flask("flask_shop", root_path=__file__.rpartition("/")[0])
    app.register_blueprint(shop)
    conprof.init_app(app)
    return app


app = create_app()
