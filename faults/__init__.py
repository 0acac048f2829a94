"""`make faults`: breaks one part of a running Relay after the other under load, and proves that nothing is lost."""
