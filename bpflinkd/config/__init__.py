"""What files ask for: settings (`bpflinkd.toml`), declared links (`links.d`) and grants (`grants.d`)."""

from bpflinkd.config.settings import Config, ConfigError, load

__all__ = ["Config", "ConfigError", "load"]
