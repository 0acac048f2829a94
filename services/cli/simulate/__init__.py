"""`relay simulate`: simulated meetings, reported and sent like LiveKit's."""
