"""Runs that a batch system, or a launcher in the background, works on: submitted, watched, ended.

All that client and job have in common are files in the run's dot folder; no network, no daemon.
"""
