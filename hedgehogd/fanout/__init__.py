"""From the inbox to the subscribers: broker, hub, sessions and their subscriptions."""
