"""HTTP semantics without any client or server library: methods, Retry-After, problem details, trace context."""

__all__: list[str] = []
