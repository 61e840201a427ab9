"""From the feed to the subscribers: broker, hub, sessions."""
