"""Messages of the past for resuming subscribers: catch-up and replay."""
