"""What several tests use: real backends and typed fakes."""
