"""LiveKit's side of the contract: signing access tokens and verifying webhooks."""
