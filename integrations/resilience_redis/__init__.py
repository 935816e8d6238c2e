"""State shared between processes and hosts through Redis or Valkey."""

try:
    import redis as _library  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("resilience_redis needs redis: pip install 'resilience-patterns[redis]'") from error

from ._redis_store import RedisStore

__all__ = ["RedisStore"]
