"""The training engine. It only computes: it does not print, log, save or read files."""
