"""Flask: configuration, when profiling starts, and what is refused."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
from flask import Flask, request
from support.process import run_script
from werkzeug.test import Client

import conprof_core
from conprof_core import ConfigError, testing
from conprof_flask import Conprof


def make_app(**config: object) -> Flask:
    app = Flask("shop")
    app.config.update(config)
    app.add_url_rule("/", view_func=lambda: "home")
    return app


def test_the_first_request_starts_the_profiler_with_the_config(tmp_path) -> None:  # type: ignore[no-untyped-def]
    app = make_app(CONPROF_EXPORT_TO=f"file://{tmp_path}", CONPROF_CPU_PROFILE_RATE=50)
    Conprof(app)
    assert not conprof_core.is_running()
    app.test_client().get("/", buffered=True)
    assert conprof_core.is_running()
    assert conprof_core.stats()["rate_hz"] == 50
    conprof_core.stop()
    # Stopped by the application: no request starts it again.
    app.test_client().get("/", buffered=True)
    assert not conprof_core.is_running()


def test_not_while_testing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    app = make_app(CONPROF_EXPORT_TO=f"file://{tmp_path}", TESTING=True)
    Conprof(app)
    app.test_client().get("/", buffered=True)
    assert not conprof_core.is_running()


def test_a_factory_and_an_extension_for_several_apps(tmp_path) -> None:  # type: ignore[no-untyped-def]
    conprof = Conprof(export_to=f"file://{tmp_path}", application_name="both")
    apps = [make_app(), make_app()]
    for app in apps:
        conprof.init_app(app)
        assert app.extensions["conprof"] is conprof
    for app in apps:
        assert app.test_client().get("/", buffered=True).data == b"home"
    assert conprof_core.stats()["dropped"] == 0
    conprof_core.stop()


def test_twice_on_one_app_is_refused_with_the_remedy() -> None:
    app = make_app()
    conprof = Conprof(app)
    with pytest.raises(RuntimeError, match="call it once per application"):
        conprof.init_app(app)


def test_a_bad_setting_is_refused_when_the_app_is_built() -> None:
    with pytest.raises(ConfigError, match="period"):
        Conprof(make_app(CONPROF_PERIOD="soon"))
    with pytest.raises(ConfigError, match="no such option"):
        Conprof(make_app(CONPROF_PERIODE=1))
    with pytest.raises(ConfigError, match="no such option"):
        Conprof(make_app(), periode=1)


def test_a_keyword_wins_over_the_config(tmp_path) -> None:  # type: ignore[no-untyped-def]
    app = make_app(CONPROF_CPU_PROFILE_RATE=50)
    Conprof(app, cpu_profile_rate=20, export_to=f"file://{tmp_path}")
    app.test_client().get("/", buffered=True)
    assert conprof_core.stats()["rate_hz"] == 20
    conprof_core.stop()


def test_another_configuration_running_is_said_and_harmless(
    tmp_path,  # type: ignore[no-untyped-def]
    caplog: pytest.LogCaptureFixture,
) -> None:
    conprof_core.start(export_to=f"file://{tmp_path}", application_name="first")
    app = make_app()
    Conprof(app, application_name="second")
    with caplog.at_level(logging.WARNING, "conprof"):
        assert app.test_client().get("/", buffered=True).data == b"home"
    conprof_core.stop()
    assert "other values of application_name" in caplog.text


def test_the_application_is_named_after_the_flask_app(tmp_path) -> None:  # type: ignore[no-untyped-def]
    app = make_app()
    Conprof(app, export_to=f"file://{tmp_path}")
    app.test_client().get("/", buffered=True)
    from conprof_core._profiler import _state

    assert _state.session is not None
    assert _state.session.process.service == "shop"
    conprof_core.stop()


def test_the_application_is_freed_with_its_last_reference() -> None:
    app = make_app()
    Conprof(app, disabled=True)
    app.test_client().get("/", buffered=True)
    freed = weakref.ref(app)
    gc.disable()
    try:
        del app
        assert freed() is None
    finally:
        gc.enable()


def test_a_kept_wsgi_app_keeps_its_application() -> None:
    wsgi_app = (lambda app: (Conprof(app, disabled=True), app.wsgi_app)[1])(make_app())
    gc.collect()
    assert Client(wsgi_app).get("/", buffered=True).data == b"home"


def test_an_application_of_another_class_stays_one() -> None:
    class Shop(Flask):
        def wsgi_app(self, environ, start_response):  # type: ignore[no-untyped-def]
            environ["seen"] = True
            return super().wsgi_app(environ, start_response)

    app = Shop("shop")
    app.add_url_rule("/", view_func=lambda: str(request.environ.get("seen")))
    Conprof(app, disabled=True)
    assert type(app) is Shop
    assert app.test_client().get("/", buffered=True).data == b"True"


def test_a_class_and_its_base_label_a_request_once() -> None:
    class Shop(Flask):
        def wsgi_app(self, environ, start_response):  # type: ignore[no-untyped-def]
            return super().wsgi_app(environ, start_response)

    plain, shop = make_app(), Shop("shop")
    shop.add_url_rule("/", view_func=lambda: "shop")
    Conprof(plain)
    Conprof(shop)
    with testing.capture() as captured:
        assert shop.test_client().get("/", buffered=True).data == b"shop"
        assert plain.test_client().get("/", buffered=True).data == b"home"
    assert captured.windows[0].requests == {"/": 2}


def test_other_applications_are_left_alone() -> None:
    Conprof(make_app())
    other = make_app()
    with testing.capture() as captured:
        assert other.test_client().get("/", buffered=True).data == b"home"
    assert captured.windows[0].requests == {}
    assert set(vars(other)) == set(vars(Flask("other")))


@pytest.mark.parametrize("when", ["before", "after"])
def test_middleware_before_and_after(when: str) -> None:
    app = make_app()
    seen: list[str] = []
    if when == "after":
        Conprof(app)
    inner = app.wsgi_app

    def middleware(environ, start_response):  # type: ignore[no-untyped-def]
        seen.append(environ["PATH_INFO"])
        return inner(environ, start_response)

    app.wsgi_app = middleware  # type: ignore[method-assign]
    if when == "before":
        Conprof(app)
    with testing.capture() as captured:
        assert app.test_client().get("/", buffered=True).data == b"home"
    assert seen == ["/"]
    assert captured.windows[0].requests == {"/": 1}


def test_without_flask_the_import_says_what_to_install() -> None:
    result = run_script(
        """
        import sys
        sys.modules["flask"] = None
        try:
            import conprof_flask
        except ImportError as error:
            print(error)
        """
    )
    assert 'pip install "conprof[flask]"' in result.stdout
