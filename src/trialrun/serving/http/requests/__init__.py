"""Reading of requests: limits, bodies, images, and why they are refused."""
