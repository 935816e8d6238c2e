"""What a guarded call costs, next to what a user would otherwise pick.

    python -m benchmarks                  everything, a few minutes; prints tables and writes benchmarks/RESULTS.md
    python -m benchmarks --only breaker   only the rows whose group or name contains "breaker"
    python -m benchmarks --quick          a smoke run of a few seconds; its numbers mean nothing

`measure` holds the stopwatch and explains its statistics, `success`, `stacks`, `rejection`, `failure` and
`memory` hold the rows, `report` the tables.
"""
