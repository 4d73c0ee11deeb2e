"""Simulated devices: how fast clients work and send, when they are online, and when they die; in virtual seconds."""
