"""Break one part of a running Relay after the other under load, and check that nothing is lost.

`make faults` runs all of it.
"""
