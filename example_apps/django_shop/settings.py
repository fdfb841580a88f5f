"""Settings of the shop. The one line for conprof is in ``INSTALLED_APPS``."""

from __future__ import annotations

from example_apps import catalog

SECRET_KEY = "an example, not a secret"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "example_apps.django_shop.urls"
WSGI_APPLICATION = "example_apps.django_shop.wsgi.application"
ASGI_APPLICATION = "example_apps.django_shop.asgi.application"
INSTALLED_APPS = ["conprof_django", "example_apps.django_shop"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": catalog.database().with_suffix(".django.sqlite"),
        "OPTIONS": {"timeout": 30},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

CONPROF = {"APPLICATION_NAME": "django_shop"}
