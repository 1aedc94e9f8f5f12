"""Similarity, probes, statistics: functions of arrays."""
