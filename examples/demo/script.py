"""The script: what the service goes through, how much of it, and how patient its callers are."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the service's day, `seconds` long.

    Of the requests, `error_rate` fail with a 500 and `spike_rate` take much longer than usual. While the service is
    `down` it accepts requests and answers none: whoever works on one is stuck until the phase is over.
    """

    name: str
    seconds: float
    error_rate: float = 0.0
    spike_rate: float = 0.0
    down: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """The phases in order, and all that is measured in seconds beside them.

    A request costs `work` seconds of one of `workers`, or `spike` seconds when it is a slow one (both are ranges). A
    caller without the toolkit waits `patience` seconds for an answer. A guarded one gives an attempt `attempt` seconds
    and all of them together `patience`. An answer within `normal` seconds is what users are used to.
    """

    phases: tuple[Phase, ...] = (
        Phase("healthy", 1.0),
        Phase("30 % errors", 5.0, error_rate=0.3),
        Phase("latency spikes", 3.0, spike_rate=0.1),
        Phase("full outage", 3.0, down=True),
        Phase("recovery", 3.0),
    )
    rate: float = 70.0
    workers: int = 22
    work: tuple[float, float] = (0.06, 0.11)
    spike: tuple[float, float] = (0.6, 1.4)
    patience: float = 0.9
    attempt: float = 0.36
    normal: float = 0.36
    scale: float = 1.0

    @property
    def seconds(self) -> float:
        """The length of the whole script."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def tolerance(self) -> float:
        """By how many seconds a machine may delay calls or answers before the figures are about the machine."""
        return 0.25 * self.attempt

    def scaled(self, scale: float, rate: float) -> Script:
        """The same day in `scale` times the time and with `rate` calls a second; the service is as busy as before."""
        return replace(
            self,
            phases=tuple(replace(phase, seconds=phase.seconds * scale) for phase in self.phases),
            rate=rate,
            workers=max(6, round(self.workers * scale * rate / self.rate)),
            work=(self.work[0] * scale, self.work[1] * scale),
            spike=(self.spike[0] * scale, self.spike[1] * scale),
            patience=self.patience * scale,
            attempt=self.attempt * scale,
            normal=self.normal * scale,
            scale=self.scale * scale,
        )

    def span(self, name: str) -> tuple[float, float]:
        """When the phase of that name begins and when it ends, in seconds from the start."""
        place = next(place for place, phase in enumerate(self.phases) if phase.name == name)
        begin = sum(phase.seconds for phase in self.phases[:place])
        return begin, begin + self.phases[place].seconds

    def at(self, instant: float) -> tuple[Phase, float]:
        """The phase at `instant` seconds from the start, and the seconds left of it; the last one has no end."""
        end = 0.0
        for phase in self.phases:
            end += phase.seconds
            if instant < end:
                return phase, end - instant
        return self.phases[-1], 0.0

    def outage(self) -> tuple[float, float]:
        """When the service goes down and when it is back, in seconds from the start."""
        return self.span(next(phase.name for phase in self.phases if phase.down))


SCRIPTS = {"full": Script(), "quick": Script().scaled(0.25, rate=60.0)}
# For a machine that is too busy for the one of that name: half the calls a second, and twice the time for each.
SLOWED = {name: f"{name}, slowed" for name in SCRIPTS}
SCRIPTS.update({SLOWED[name]: script.scaled(2.0, rate=script.rate / 2) for name, script in SCRIPTS.items()})
