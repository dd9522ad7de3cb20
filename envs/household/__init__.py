"""Household: ALFWorld's six task types in generated rooms."""

from .env import Household

__all__ = ["Household"]
