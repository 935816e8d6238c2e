"""Pure ASGI middleware: rejections as responses, deadlines, correlation ids."""

__all__: list[str] = []
