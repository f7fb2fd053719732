"""What is sent and how well it works."""
