"""Engines: implementations of a network's computation that are faster than torch's fp32."""
