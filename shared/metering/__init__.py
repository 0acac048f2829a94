"""The meter: pure functions, no I/O, no clock. ``observe`` reads an event, ``merge_*`` joins states, ``usage_of`` bills."""
