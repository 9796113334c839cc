"""The configuration: YAML into frozen models, one file a part; unknown keys refused with the nearest known name."""

from toolkit.config.config import Config, InputFile, load, resolve

__all__ = ["Config", "InputFile", "load", "resolve"]
