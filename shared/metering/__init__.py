"""The meter: pure functions without I/O and without a clock.

``observe`` reads an event, the ``merge_*`` functions merge states, ``usage_of`` computes usage.
"""
