"""Sign access tokens, verify webhooks and call the APIs of LiveKit."""
