"""The HTTP server of `trialrun serve`: raw image bytes in, classes and confidences out.

It is not part of a model directory's code. FastAPI and uvicorn are imported by its modules, so that
only this command loads them.
"""
