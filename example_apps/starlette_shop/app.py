"""The application: ``app`` for ASGI servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.templating import Jinja2Templates
from starlette.websockets import WebSocket

from conprof_asgi import ConprofMiddleware
from example_apps import catalog, work

templates = Jinja2Templates(directory=Path(__file__).with_name("templates"))


async def home(request: Request) -> Response:
    """A page from a template and the database."""
    products = await asyncio.to_thread(catalog.products)
    return templates.TemplateResponse(request, "home.html", {"products": products})


async def health(request: Request) -> Response:
    return PlainTextResponse("ok")


def product(request: Request) -> Response:
    """JSON from the database, in a thread of the pool."""
    found = catalog.product(request.path_params["number"])
    if found is None:
        raise HTTPException(404)
    return JSONResponse(found)


async def recommend(request: Request) -> Response:
    """Needs the CPU, half of it in an executor."""
    number, half = request.path_params["number"], work.RECOMMEND_CPU_S / 2
    loop = asyncio.get_running_loop()
    first = await loop.run_in_executor(None, work.recommend, number, half)
    return JSONResponse(first + work.recommend(number, half))


async def report(request: Request) -> Response:
    """Allocates."""
    return JSONResponse(work.report(request.path_params["year"]))


async def supplier(request: Request) -> Response:
    """Waits for somebody else."""
    await asyncio.sleep(work.SUPPLIER_WAIT_S)
    return JSONResponse({"in_stock": request.path_params["number"] % 3 != 0})


async def export(request: Request) -> Response:
    """Streams."""

    async def lines() -> AsyncIterator[str]:
        for item in await asyncio.to_thread(catalog.products, 200):
            yield f"{item['id']};{item['name']};{item['cents']}\n"

    return StreamingResponse(lines(), media_type="text/csv")


def order(request: Request) -> Response:
    """Writes, and goes on in the background after the answer."""
    made = catalog.order(request.path_params["number"])
    return JSONResponse(
        {"order": made}, status_code=201, background=BackgroundTask(work.confirm, made)
    )


async def chat(websocket: WebSocket) -> None:
    """Repeats what it hears."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Prepare the database."""
    await asyncio.to_thread(catalog.prepare)
    yield


app = Starlette(
    lifespan=lifespan,
    middleware=[Middleware(ConprofMiddleware, application_name="starlette_shop")],
    routes=[
        Route("/", home),
        Route("/health", health),
        Route("/products/{number:int}", product),
        Route("/recommend/{number:int}", recommend),
        Mount("/reports", routes=[Route("/{year:int}", report)]),
        Route("/supplier/{number:int}", supplier),
        Route("/export/{name}.csv", export),
        Route("/orders/{number:int}", order, methods=["POST"]),
        WebSocketRoute("/chat/{room}", chat),
    ],
)
