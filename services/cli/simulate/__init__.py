"""`relay simulate`: meetings as LiveKit would report them, sent as LiveKit would send them."""
