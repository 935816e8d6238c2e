"""Composable resilience layers for any call: breaker, retry, bulkhead, rate limit, timeout, correlation, pipeline."""

from . import deadline, events, exceptions
from ._attempts import Attempt
from ._buckets import Reservation
from ._circuit import BreakerStatistics, Mode, State
from ._layer import Layer
from ._lease import Lease
from ._limiter_questions import Quota
from ._limits import Rate, SlidingWindow
from ._machine import Verdict
from ._memory_store import MemoryStore
from ._policy import Guard, Policy
from ._slot import PoolStatistics
from ._window import CountWindow, TimeWindow
from .budget import RetryBudget, RetryBudgetStatistics
from .bulkhead import Bulkhead, BulkheadStatistics
from .circuit_breaker import CircuitBreaker
from .clock import Clock
from .correlation import (
    CorrelationFilter,
    add_correlation,
    attempt_id,
    attempt_number,
    bind,
    bound,
    carried,
    correlated,
    correlation_id,
    new_id,
    unbind,
)
from .deadline import Deadline, remaining, shield
from .events import (
    CallFailed,
    CallQueued,
    CallRejected,
    CallSucceeded,
    CallTimedOut,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    Event,
    KeyEvicted,
    KeysOverflowed,
    LeaseLost,
    Listener,
    PoolCreationFailed,
    PoolResourceClosed,
    PoolResourceCreated,
    PoolResourceLeaked,
    ProbeExpired,
    RetryScheduled,
    RetryStopped,
    StoreRecovered,
    StoreUnavailable,
    Subscription,
    log_events,
    subscribe,
)
from .exceptions import (
    BulkheadFullError,
    CallRejectedError,
    CallTimeoutError,
    CircuitOpenError,
    DeadlineExceededError,
    PipelineWarning,
    PoolClosedError,
    PoolExhaustedError,
    RateLimitExceededError,
    ResilienceError,
    StoreUnavailableError,
)
from .keyed import Keyed, KeyedStatistics
from .pipeline import Pipeline, PipelineDescription
from .pool import Pool
from .rate_limiter import RateLimiter, RateLimiterStatistics
from .retry import Retry, RetryStatistics, Strategy
from .store import Store
from .throttle import Throttle, ThrottleStatistics
from .timeout import Timeout, TimeoutStatistics

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "BreakerStatistics",
    "Bulkhead",
    "BulkheadFullError",
    "BulkheadStatistics",
    "CallFailed",
    "CallQueued",
    "CallRejected",
    "CallRejectedError",
    "CallSucceeded",
    "CallTimedOut",
    "CallTimeoutError",
    "CircuitBreaker",
    "CircuitClosed",
    "CircuitHalfOpened",
    "CircuitOpenError",
    "CircuitOpened",
    "Clock",
    "CorrelationFilter",
    "CountWindow",
    "Deadline",
    "DeadlineExceededError",
    "Event",
    "Guard",
    "KeyEvicted",
    "Keyed",
    "KeyedStatistics",
    "KeysOverflowed",
    "Layer",
    "Lease",
    "LeaseLost",
    "Listener",
    "MemoryStore",
    "Mode",
    "Pipeline",
    "PipelineDescription",
    "PipelineWarning",
    "Policy",
    "Pool",
    "PoolClosedError",
    "PoolCreationFailed",
    "PoolExhaustedError",
    "PoolResourceClosed",
    "PoolResourceCreated",
    "PoolResourceLeaked",
    "PoolStatistics",
    "ProbeExpired",
    "Quota",
    "Rate",
    "RateLimitExceededError",
    "RateLimiter",
    "RateLimiterStatistics",
    "Reservation",
    "ResilienceError",
    "Retry",
    "RetryBudget",
    "RetryBudgetStatistics",
    "RetryScheduled",
    "RetryStatistics",
    "RetryStopped",
    "SlidingWindow",
    "State",
    "Store",
    "StoreRecovered",
    "StoreUnavailable",
    "StoreUnavailableError",
    "Strategy",
    "Subscription",
    "Throttle",
    "ThrottleStatistics",
    "TimeWindow",
    "Timeout",
    "TimeoutStatistics",
    "Verdict",
    "add_correlation",
    "attempt_id",
    "attempt_number",
    "bind",
    "bound",
    "carried",
    "correlated",
    "correlation_id",
    "deadline",
    "events",
    "exceptions",
    "log_events",
    "new_id",
    "remaining",
    "shield",
    "subscribe",
    "unbind",
]
