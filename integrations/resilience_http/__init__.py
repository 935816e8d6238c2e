"""HTTP semantics without any client or server library: methods, Retry-After, problem details, trace context.

The modules `methods`, `retry_after`, `problem`, `trace_context` and `deadlines` are for everybody; what they share with
the transports and the middleware starts with an underscore.
"""

__all__: list[str] = []
