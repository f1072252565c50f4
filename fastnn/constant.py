"""A constant of an object, checked whenever it is set."""

from __future__ import annotations

from typing import Any

from .errors import finite_number

__all__ = ["Constant"]


class Constant:
    """An attribute that is a finite number inside bounds, which are those of `finite_number`; or None, if `optional`.

    Setting another raises its TypeError or ValueError and leaves the attribute as it was. The value lies in the
    object's own dict, so that copies and pickles have it.
    """

    def __init__(
        self,
        *,
        above: float | None = None,
        least: float | None = None,
        below: float | None = None,
        optional: bool = False,
    ) -> None:
        self.above, self.least, self.below, self.optional = above, least, below, optional

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self.name not in instance.__dict__ and not self.optional:
            raise AttributeError(f"{type(instance).__name__} has no {self.name} yet")
        return instance.__dict__.get(self.name)  # of a pickle of an older version an optional one is missing

    def __set__(self, instance: Any, value: float | None) -> None:
        if not (self.optional and value is None):
            value = finite_number(
                self.name, value, above=self.above, least=self.least, below=self.below,
                also="None" if self.optional else "",
            )  # fmt: skip
        instance.__dict__[self.name] = value
