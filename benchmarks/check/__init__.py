"""Self-test and benchmark of one device: correctness, repeatability, speed."""
