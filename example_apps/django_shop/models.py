"""Products and orders."""

from __future__ import annotations

from django.db import models


class Product(models.Model):
    """Something to buy."""

    name = models.CharField(max_length=100)
    cents = models.PositiveIntegerField()

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """Something bought."""

    product = models.ForeignKey(Product, on_delete=models.CASCADE)

    def __str__(self) -> str:
        return f"order {self.pk}"
