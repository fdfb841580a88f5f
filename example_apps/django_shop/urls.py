"""The routes."""

from __future__ import annotations

from django.urls import include, path, re_path

from example_apps.django_shop import views

reports = [re_path(r"^(?P<year>[0-9]{4})$", views.report)]

urlpatterns = [
    path("", views.home),
    path("health", views.health),
    path("products/<int:number>", views.product, name="product"),
    path("recommend/<int:number>", views.recommend),
    path("reports/", include(reports)),
    path("supplier/<int:number>", views.supplier),
    path("export/<str:name>.csv", views.export),
    path("orders/<int:number>", views.order),
]
