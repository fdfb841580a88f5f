"""Django: the application, the checks, and where profiling does and does not start."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core import checks, mail
from django.test import RequestFactory, override_settings
from support.process import run_script

import conprof_core
from conprof_django.checks import check_conprof
from conprof_django.middleware import ConprofMiddleware

OURS = "conprof_django.middleware.ConprofMiddleware"


def ids(**setting: Any) -> list[str]:
    with override_settings(**setting):
        return sorted(str(message.id) for message in check_conprof(None))


def test_the_application_puts_the_middleware_first_and_once() -> None:
    assert settings.MIDDLEWARE[0] == OURS
    config = apps.get_app_config("conprof_django")
    config.ready()
    assert list(settings.MIDDLEWARE).count(OURS) == 1
    own_place = ["django.middleware.common.CommonMiddleware", OURS]
    with override_settings(MIDDLEWARE=own_place):
        config.ready()
        assert own_place == settings.MIDDLEWARE
    with override_settings(MIDDLEWARE=("django.middleware.common.CommonMiddleware",)):
        config.ready()
        assert settings.MIDDLEWARE[0] == OURS


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, []),
        ({"CONPROF": {"APPLICATION_NAME": "shop", "PERIOD": 30, "LABELS": {"a": "b"}}}, []),
        ({"CONPROF": ["PERIOD"]}, ["conprof.E001"]),
        ({"CONPROF": {"PERIODE": 30}}, ["conprof.E002"]),
        ({"CONPROF": {"period": 30}}, ["conprof.E002"]),
        ({"CONPROF": {"PERIOD": "soon", "ENGINE": "turbo"}}, ["conprof.E003", "conprof.E003"]),
        ({"CONPROF": {"ROUTE_LABEL": "path"}}, ["conprof.E004"]),
        ({"MIDDLEWARE": [OURS, OURS]}, ["conprof.W001"]),
        ({"CONPROF": {"SERVER_ID": "x"}}, ["conprof.W002"]),
        ({"CONPROF": {"SERVER_ID": "x", "SERVER_TOKEN": "y"}}, []),
        ({"CONPROF": {"DISABLED": True, "PERIOD": "soon", "NONSENSE": 1}}, []),
    ],
)
def test_checks(setting: dict[str, Any], expected: list[str]) -> None:
    assert ids(**setting) == expected


def test_checks_pass_when_the_environment_switches_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONPROF_DISABLED", "1")
    assert ids(CONPROF={"PERIODE": 30}) == []


def test_a_check_says_what_was_meant_and_shows_no_secret() -> None:
    with override_settings(CONPROF={"PERIODE": 30}):
        assert check_conprof(None)[0].hint == "Did you mean 'PERIOD'?"
    with override_settings(CONPROF={"SERVER_TOKEN": 4711}):
        assert "4711" not in str(check_conprof(None))


def test_checks_are_registered() -> None:
    with override_settings(CONPROF={"PERIODE": 30}):
        assert "conprof.E002" in {message.id for message in checks.run_checks()}


@pytest.mark.parametrize(
    ("options", "expected"), [({}, ["conprof.W003"]), ({"enable-threads": True}, [])]
)
def test_uwsgi_without_threads(
    options: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uwsgi = ModuleType("uwsgi")
    uwsgi.opt = options  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    assert ids() == expected


def serve_one() -> None:
    ConprofMiddleware(lambda request: __import__("django.http").http.HttpResponse(""))(
        RequestFactory().get("/")
    )


def test_the_first_request_starts_the_profiler_with_the_setting(tmp_path: Any) -> None:
    with override_settings(CONPROF={"EXPORT_TO": f"file://{tmp_path}", "CPU_PROFILE_RATE": 50}):
        ConprofMiddleware(lambda request: None)  # type: ignore[arg-type, return-value]
        assert not conprof_core.is_running(), "a preloading arbiter makes the middleware too"
        serve_one()
        assert conprof_core.stats()["rate_hz"] == 50
        from conprof_core._profiler import _state

        assert _state.session is not None
        assert _state.session.process.service == "support", "named after ROOT_URLCONF"
        conprof_core.stop()


def test_a_bad_setting_harms_no_request() -> None:
    with override_settings(CONPROF={"PERIOD": "soon"}):
        serve_one()
    with override_settings(CONPROF=["nonsense"], ROOT_URLCONF="x"):
        pass
    assert not conprof_core.is_running()


def test_not_under_the_test_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "outbox", [], raising=False)
    serve_one()
    assert not conprof_core.is_running()


def test_management_commands_are_left_alone() -> None:
    result = run_script(
        """
        import sys
        sys.path.insert(0, "tests")
        from support import django_project
        django_project.configure()
        from django.core.management import call_command
        from django.core.wsgi import get_wsgi_application
        call_command("check")
        get_wsgi_application()
        import conprof_core, threading
        print(conprof_core.is_running(), threading.active_count())
        """,
        cwd=__file__.split("/tests/")[0],
    )
    assert result.stdout.splitlines()[-1] == "False 1", result.describe()


def test_without_django_the_import_says_what_to_install() -> None:
    result = run_script(
        """
        import sys
        sys.modules["django"] = None
        try:
            import conprof_django
        except ImportError as error:
            print(error)
        """
    )
    assert 'pip install "conprof[django]"' in result.stdout
