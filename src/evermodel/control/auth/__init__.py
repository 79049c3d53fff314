"""Who is allowed to call the control service."""
