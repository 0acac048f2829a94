"""The meter: pure functions without I/O and without a clock.

``observe`` reads an event, the ``merge_*`` functions join states, ``usage_of`` bills.
"""
