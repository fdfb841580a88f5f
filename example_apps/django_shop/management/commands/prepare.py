"""``prepare``: create and fill the database; harmless when done already."""

from __future__ import annotations

from typing import Any

from django.core.management import BaseCommand, call_command

from example_apps.django_shop.models import Product

_NAMES = ("Lamp", "Chair", "Table", "Shelf", "Carpet", "Clock", "Mirror", "Vase")


class Command(BaseCommand):
    """See above."""

    help = "create and fill the database"

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", verbosity=0)
        if not Product.objects.exists():
            Product.objects.bulk_create(
                Product(pk=i, name=f"{_NAMES[i % 8]} no. {i}", cents=990 + 37 * i)
                for i in range(1, 201)
            )
