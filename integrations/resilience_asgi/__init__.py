"""Pure ASGI middleware for any framework: layers around requests, rejections as responses, deadlines, correlation."""

from .correlation import CorrelationMiddleware
from .deadlines import incoming_timeout
from .dependency import dependency
from .health import HealthEndpoints
from .keys import client_address, header_key, path_key
from .middleware import ResilienceMiddleware
from .permits import ResponseOutcome
from .plan import Rule
from .rendering import ProblemResponse, problem_handler, problem_json, problem_response
from .shutdown import GracefulShutdown

__all__ = [
    "CorrelationMiddleware",
    "GracefulShutdown",
    "HealthEndpoints",
    "ProblemResponse",
    "ResilienceMiddleware",
    "ResponseOutcome",
    "Rule",
    "client_address",
    "dependency",
    "header_key",
    "incoming_timeout",
    "path_key",
    "problem_handler",
    "problem_json",
    "problem_response",
]
