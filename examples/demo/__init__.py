"""The toolkit on real traffic: one service with a bad day, called three ways.

    python -m examples.demo            about twenty seconds
    python -m examples.demo --quick    a few seconds; its numbers mean little

`script` says what the service goes through and `service` plays it, in a process of its own that `child` starts and
ends. `callers` are the three ways to call it, over the `wire` they share; `traffic` sends the same calls through each
of them, `passes` through all of them side by side. `measures` makes numbers of what came back, `live` shows them as
they come, and `report` in the end.
"""
