"""What files ask for: settings (`bpflinkd.toml`) and declared links (`links.d`)."""

from bpflinkd.config.settings import Config, ConfigError, load

__all__ = ["Config", "ConfigError", "load"]
