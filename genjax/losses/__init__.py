"""Training objectives, one family of equations a file; each returns one number per example, in nats."""
