"""The data types of the API, of LiveKit's webhooks and of the database."""
