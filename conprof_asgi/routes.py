"""From a scope to a route template, by what the routers left in the scope.

Nothing is matched a second time. A mounted application's own route is relative, and ``root_path``
holds concrete values, so the prefix is rebuilt from the templates of the mounts that lead there.
Everything is read by attribute: Starlette, FastAPI and Litestar need not be installed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

__all__ = ["RouteFinder"]

_MOUNT_SUFFIX: Final = "/{path}"
_MAX_DEPTH: Final = 16


class RouteFinder:
    """Finds templates for one middleware; remembers how each mounted route is reached."""

    def __init__(self, app: object) -> None:
        self._app = app
        self._tree: _Tree | None = None

    def find(self, root: object, scope: Mapping[str, Any]) -> str | None:
        """Return the template of the route that serves ``scope``, or ``None``.

        Args:
            root: the application that ``scope`` named when it reached the middleware, if any.

        Safe to call from any thread; never raises.
        """
        try:
            return self._find(root, scope)
        except Exception:
            # Whatever a router of an unknown version left there: no label is better than a wrong
            # one, and the request must not notice.
            return None

    def _find(self, root: object, scope: Mapping[str, Any]) -> str | None:
        template = scope.get("path_template")  # Litestar
        if type(template) is str and template:
            return template
        route = scope.get("route")
        if route is None:
            # Starlette before 1.0 names the endpoint only.
            endpoint = scope.get("endpoint")
            return None if endpoint is None else self._by_endpoint(root, endpoint, scope)
        template = _own_template(route, scope)
        if template is None or "app_root_path" not in scope:
            return template  # no mount was passed
        return _choose([prefix + template for prefix in self._known(root, route)], scope)

    def _by_endpoint(self, root: object, endpoint: object, scope: Mapping[str, Any]) -> str | None:
        templates = self._known(root, endpoint)
        tree = self._tree
        fits = any(_fits(one, scope) for one in templates)
        # Several routes may share an endpoint, and one of them be younger than the tree.
        if not fits and tree is not None and tree.is_outdated():
            self._tree = None
            templates = self._known(root, endpoint)
        return _choose(templates, scope)

    def _known(self, root: object, target: object) -> Sequence[str]:
        tree = self._tree
        if tree is None or target not in tree:
            # Built once, and again after a route was added; what is still unknown stays so.
            tree = _Tree(root if root is not None else self._app)
            tree.remember(target)
            self._tree = tree
        return tree[target]


class _Tree:
    """Routes and endpoints of an application, by identity: routes compare by value."""

    def __init__(self, root: object) -> None:
        # The object is kept with its entry, so that its id is not reused meanwhile.
        self._found: dict[int, tuple[object, list[str]]] = {}
        self._routes = _routes_of(root) or ()
        self._count = len(self._routes)
        for route, prefix in _walk(self._routes, "", 0):
            self._add(route, prefix)
            template = _own_template(route, {})
            endpoint = getattr(route, "app" if _is_mount(route) else "endpoint", None)
            if template is not None and endpoint is not None:
                self._add(endpoint, prefix + template)

    def _add(self, target: object, found: str) -> None:
        self._found.setdefault(id(target), (target, []))[1].append(found)

    def is_outdated(self) -> bool:
        """Whether the application has got routes since."""
        return len(self._routes) != self._count

    def remember(self, target: object) -> None:
        """Know ``target``, with no way leading to it if none was found."""
        self._found.setdefault(id(target), (target, []))

    def __contains__(self, target: object) -> bool:
        return id(target) in self._found

    def __getitem__(self, target: object) -> Sequence[str]:
        """Mount prefixes of a route, or whole templates of an endpoint."""
        return self._found[id(target)][1]


def _walk(routes: Sequence[Any], prefix: str, depth: int) -> Iterator[tuple[Any, str]]:
    """Yield each route below ``routes`` with the template of the mounts that lead to it."""
    if depth > _MAX_DEPTH:
        return
    for route in _flat(routes):
        yield route, prefix
        below = _routes_of(getattr(route, "app", None)) if _has_app(route) else None
        if below:
            own = route.path_format.removesuffix(_MOUNT_SUFFIX) if _is_mount(route) else ""
            yield from _walk(below, prefix + own, depth + 1)


def _flat(routes: Sequence[Any]) -> Iterator[Any]:
    """Resolve routers that FastAPI, from 0.137 on, keeps as one entry of the list."""
    for route in routes:
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is None:
            yield route
            continue
        for context in contexts():
            yield context.original_route
            if context.starlette_route is not None:
                yield context.starlette_route


def _has_app(route: object) -> bool:
    return _is_mount(route) or hasattr(route, "host_regex")


def _is_mount(route: object) -> bool:
    template = getattr(route, "path_format", None)
    return (
        isinstance(template, str)
        and template.endswith(_MOUNT_SUFFIX)
        and hasattr(route, "app")
        and not hasattr(route, "endpoint")
    )


def _routes_of(app: Any) -> Sequence[Any] | None:
    """The routes of an application, also from within middleware; ``None`` if it has no router."""
    for _ in range(_MAX_DEPTH):
        routes = getattr(app, "routes", None)
        if isinstance(routes, (list, tuple)):
            return routes
        app = getattr(app, "app", None)
        if app is None:
            break
    return None


def _own_template(route: Any, scope: Mapping[str, Any]) -> str | None:
    """The template of ``route`` below its application; ``None`` if nothing in there matched."""
    fastapi = scope.get("fastapi")
    if type(fastapi) is dict:
        # A route does not know the prefix it was included with. The context of a router further out
        # stays in the scope, so it counts for its own route only.
        context = fastapi.get("effective_route_context")
        if context is not None and context.original_route is route and context.path_format:
            return str(context.path_format)
    if _has_app(route) and _routes_of(route.app) is not None:
        return None
    template = getattr(route, "path_format", None)
    if template is None:
        template = getattr(route, "path", None)
    return template if isinstance(template, str) else None


def _choose(templates: Sequence[str], scope: Mapping[str, Any]) -> str | None:
    """The one template; of several, as when an application is mounted twice, the one that fits."""
    if len(templates) < 2:
        return templates[0] if templates else None
    return next((one for one in templates if _fits(one, scope)), templates[0])


def _fits(template: str, scope: Mapping[str, Any]) -> bool:
    path = scope["path"].removeprefix(scope.get("app_root_path", ""))
    return _pattern(template).fullmatch(path) is not None


@functools.lru_cache(maxsize=256)
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{[^}]*\}", template)
    return re.compile(".+?".join(re.escape(part) for part in parts))
