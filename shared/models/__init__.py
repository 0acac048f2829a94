"""The shapes that cross a boundary: the wire, LiveKit's webhooks, the database."""
