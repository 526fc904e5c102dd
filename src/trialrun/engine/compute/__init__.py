"""Devices, number formats and torch's process-wide state."""
