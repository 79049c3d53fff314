"""Who may call the control service: sessions of browsers, and the middleware that checks every request."""
