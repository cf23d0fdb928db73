"""Settings of one kind out of several: a name, and what the kind of that name has to be told."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import model_validator

from memamba_core.config.base import Settings

__all__ = ["Choice"]


class Choice(Settings):
    """Base of settings with a `name` that decides which of the others are used.

    A field that the named kind does not use is refused, because it would change nothing. One that it uses and that is
    not given takes the kind's own default, so that saying the default or not gives the same settings and digest.
    """

    own_settings: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Name of a kind -> its settings with their defaults; None: has to be given."""
    name: str

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        defaults = cls.own_settings.get(values.get("name", cls.model_fields["name"].default), {})
        return {**values, **{key: value for key, value in defaults.items() if values.get(key) is None}}

    @model_validator(mode="after")
    def _only_what_is_used(self) -> Self:
        own, group = self.own_settings[self.name], type(self).__name__.removesuffix("Config").lower()
        if missing := [key for key in own if getattr(self, key) is None]:
            raise ValueError(f"{group}={self.name} needs {', '.join(f'{group}.{key}' for key in missing)}")
        for key in type(self).model_fields:
            if key != "name" and key not in own and getattr(self, key) is not None:
                users = [f"{group}={name}" for name, settings in self.own_settings.items() if key in settings]
                raise ValueError(f"{group}={self.name} has no setting {key}; choose {' or '.join(users)}")
        return self

    def settings(self) -> dict[str, Any]:
        """The settings of the named kind."""
        return {key: getattr(self, key) for key in self.own_settings[self.name]}
