"""A Django project in one module: views of every kind, for the tests of labels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import FileResponse, HttpResponseBase
from django.urls import URLPattern, URLResolver, include, path, re_path

from support.cells import Seen

seen = Seen()


def configure() -> None:
    """Configure Django once per process."""
    if settings.configured:
        return
    settings.configure(
        DEBUG=False,
        SECRET_KEY="tests",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="support.django_project",
        INSTALLED_APPS=["conprof_django", "rest_framework"],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        DATABASES={},
        REST_FRAMEWORK={
            "UNAUTHENTICATED_USER": None,
            "DEFAULT_AUTHENTICATION_CLASSES": [],
            "DEFAULT_PERMISSION_CLASSES": [],
        },
    )
    django.setup()


def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
    seen.note()
    return HttpResponse("ok")


async def async_view(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
    seen.note()
    return HttpResponse("ok")


def broken(request: HttpRequest) -> HttpResponseBase:
    seen.note()
    raise ZeroDivisionError


def gone(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
    seen.note()
    raise Http404


def stream(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
    def parts() -> Iterator[str]:
        for part in range(3):
            seen.note(f"part {part}")
            yield "x"

    return StreamingHttpResponse(parts())


async def async_stream(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
    async def parts() -> AsyncIterator[str]:
        for part in range(3):
            seen.note(f"part {part}")
            yield "x"

    return StreamingHttpResponse(parts())


def file(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
    return FileResponse(open(__file__, "rb"))


class Lazy(list[URLPattern | URLResolver]):
    """URL patterns that need the settings, made when they are first asked for."""

    def _fill(self) -> None:
        if not len(self):
            self.extend(_patterns())

    def __iter__(self) -> Iterator[Any]:
        self._fill()
        return super().__iter__()

    def __reversed__(self) -> Iterator[Any]:
        self._fill()
        return super().__reversed__()


def _patterns() -> list[URLPattern | URLResolver]:
    from rest_framework.response import Response
    from rest_framework.routers import DefaultRouter
    from rest_framework.viewsets import ViewSet

    class Users(ViewSet):  # type: ignore[misc]
        def list(self, request: Any, **kwargs: Any) -> Any:
            seen.note()
            return Response([])

        def retrieve(self, request: Any, pk: str, **kwargs: Any) -> Any:
            seen.note()
            return Response({})

    router = DefaultRouter()
    router.register("users", Users, basename="user")
    old = [
        re_path(r"^old/(?P<year>[0-9]{4})/$", view),
        re_path(r"^var/(\d+)/$", view),
    ]
    return [
        path("", view, name="home"),
        path("items/<int:item>/", view),
        path("async/<int:item>/", async_view),
        path("broken/", broken),
        path("gone/<slug:s>/", gone),
        path("stream/<slug:s>/", stream),
        path("async-stream/<slug:s>/", async_stream),
        path("file/", file),
        path("shop/<slug:s>/", include(old)),
        path("ns/", include(([path("<int:a>/", view, name="detail")], "ns"))),
        path("api/v1/", include((router.urls, "v1"))),
    ]


urlpatterns = Lazy()
