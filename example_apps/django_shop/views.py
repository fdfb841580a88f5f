"""The pages, some of them asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from example_apps import work
from example_apps.django_shop.models import Order, Product


def home(request: HttpRequest) -> HttpResponse:
    """A page from a template and the database."""
    return render(request, "shop/home.html", {"products": Product.objects.all()[:20]})


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def product(request: HttpRequest, number: int) -> HttpResponse:
    """JSON from the database."""
    found = get_object_or_404(Product, pk=number)
    return JsonResponse({"id": found.pk, "name": found.name, "cents": found.cents})


def recommend(request: HttpRequest, number: int) -> HttpResponse:
    """Needs the CPU."""
    return JsonResponse({"products": work.recommend(number)})


def report(request: HttpRequest, year: str) -> HttpResponse:
    """Allocates."""
    return JsonResponse(work.report(int(year)))


async def supplier(request: HttpRequest, number: int) -> HttpResponse:
    """Waits for somebody else."""
    await asyncio.sleep(work.SUPPLIER_WAIT_S)
    return JsonResponse({"in_stock": number % 3 != 0})


def export(request: HttpRequest, name: str) -> StreamingHttpResponse:
    """Streams."""

    def lines() -> Iterator[str]:
        for item in Product.objects.all():
            yield f"{item.pk};{item.name};{item.cents}\n"

    return StreamingHttpResponse(lines(), content_type="text/csv")


@csrf_exempt
@require_POST
def order(request: HttpRequest, number: int) -> HttpResponse:
    """Writes, and goes on in the background after the answer."""
    made = Order.objects.create(product=get_object_or_404(Product, pk=number))
    threading.Thread(target=work.confirm, args=(made.pk,)).start()
    return JsonResponse({"order": made.pk}, status=201)
